"""make compat: does Flashlight work with each PyTorch that it promises to?

An environment for each version, .venv-<torch>-<triton>, is made where there is none (up to 6 GB), Flashlight and what
its tests need are installed into it, and the tests that touch most of PyTorch and Triton run there: three to
five minutes a version, one line each.  Reports of what fails are in .venv-<torch>-<triton>/compat.log.

    python tests/compat.py                          all versions
    python tests/compat.py 2.14.1:3.8.0             only these, PyTorch:Triton
    python tests/compat.py 2.14.1:3.8.0 --run tests/test_backend.py -k hook      other tests
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("2.11.0:3.6.0", "2.12.1:3.7.1", "2.13.0:3.7.1", "2.14.1:3.8.0")
"""PyTorch and the Triton that it asks for."""
TOOLS = ("ruff", "pyright")
"""Test requirements that no test imports."""
PROGRAMS = ("alibi_causal", "documents_causal", "gqa", "retention_normalised", "sdpa_bool_mask", "segment_mass")
SMOKE = (
    ("tests/test_versions.py", "tests/test_insertion.py", "tests/test_lost_caches.py", "tests/cli"),
    ("tests/test_regions.py", "tests/test_region_lists.py", "-k", "not zoo"),
    ("tests/codegen/test_offline.py", "tests/codegen/test_assembler.py", "tests/codegen/test_triton_tuning.py"),
    ("tests/test_must_fuse.py", "-k", " or ".join(PROGRAMS)),
)
"""Arguments of pytest: hooks into Dynamo and Inductor, caches and scripts; regions of graphs; Triton's compiler and
launches; programs evaluated, native and in Triton's interpreter, in four dtypes."""
LIMIT = 900.0
"""Seconds after which one run of pytest is given up."""


def environment(version: str) -> Path:
    """The version's environment; made, and brought up to date with pyproject.toml, where it is not."""
    torch, triton = version.split(":")
    folder = ROOT / f".venv-{torch}-{triton}"
    stamp, project = folder / ".installed", ROOT / "pyproject.toml"
    if not stamp.exists() or stamp.read_text() != project.read_text():
        venv.create(folder, with_pip=True)
        extras = tomllib.loads(project.read_text())["project"]["optional-dependencies"]["test"]
        needed = [r for r in extras if not r.startswith(TOOLS)]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, f"torch=={torch}", f"triton=={triton}", *needed], check=True)
        subprocess.run([*pip, "--editable", str(ROOT)], check=True)
        stamp.write_text(project.read_text())
    return folder


def check(folder: Path, runs: Sequence[Sequence[str]]) -> str:
    """Run the tests there: how many passed, or what failed."""
    results = [_run(folder, arguments) for arguments in runs]
    log = folder / "compat.log"
    log.write_text("".join(output for output, _ in results))
    passed = sum(int(count) for output, _ in results for count in re.findall(r"(\d+) passed", output))
    failed = [name for _, names in results for name in names]
    return f"FAILED: {', '.join(failed)}; see {log}" if failed else f"{passed} passed"


def _run(folder: Path, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """What pytest printed, and the names of what failed."""
    caches = {name: str(folder / name.lower()) for name in ("FLASHLIGHT_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | caches, timeout=LIMIT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "", [f"{arguments[0]} took more than {LIMIT:.0f} s"]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode and not failed:
        failed = [f"{arguments[0]}: pytest ended with {done.returncode}"]
    return done.stdout, failed


def main(argv: Sequence[str] | None = None) -> int:
    """Check each version; 1 where one fails."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("versions", nargs="*", metavar="TORCH:TRITON", help=f"default: {' '.join(VERSIONS)}")
    flags.add_argument("--run", nargs=argparse.REMAINDER, metavar="ARGUMENT", help="arguments of pytest instead")
    given = flags.parse_args(argv)
    bad = False
    for version in given.versions or VERSIONS:
        began = time.monotonic()
        try:
            result = check(environment(version), [given.run] if given.run else SMOKE)
        except subprocess.CalledProcessError as error:
            result = f"FAILED: not installed: {' '.join(error.cmd)}"
        bad |= result.startswith("FAILED")
        torch, triton = version.split(":")
        print(f"torch {torch}, triton {triton}: {result}, {time.monotonic() - began:.0f} s", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
