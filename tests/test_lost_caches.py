"""Processes that take compiled graphs from Inductor's cache and find nothing, or nothing usable, in ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

Outcome = tuple[int, float, int, str, list[tuple[str, bool, bool, int]], str]
ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, os, sys, warnings
import torch, flashlight
from flashlight.front import capture
from flashlight.runtime import op as runtime

passes = []
run = capture.Capture.__call__
capture.Capture.__call__ = lambda self, graph: (passes.append(1), run(self, graph))[1]


def attention(q, k, v, documents):
    same = documents[:, :, None] == documents[:, None, :]
    return (q @ k.mT).masked_fill(~same, -torch.inf).softmax(-1) @ v


q, k, v = (torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
documents = torch.arange(300).div(70, rounding_mode="floor").expand(2, -1).contiguous()
expected = attention(q, k, v, documents)
for case, folder in json.loads(sys.argv[1]):
    os.environ["FLASHLIGHT_CACHE_DIR"] = folder
    passes.clear()
    torch._dynamo.reset()
    flashlight.reset()
    runtime.forget()
    runtime._caches.clear()
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = torch.compile(attention, backend="flashlight", options={"target": "evaluate"})(q, k, v, documents)
    said = " ".join(str(w.message) for w in caught if "Flashlight" in str(w.message))
    (report,) = flashlight.reports()
    regions = [[r.name, r.fused, bool(r.key), len(r.kernels)] for r in report.regions]
    error = (found - expected).abs().max().item()
    print(json.dumps([case, len(passes), error, len(runtime._runners), said, regions, report.note]))
"""


def run(folder: Path, cases: list[tuple[str, Path]]) -> dict[str, Outcome]:
    """For each case: passes run, largest error, regions that ran, our warnings, the report's regions and note.

    One process, made as new each time."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    arguments = [sys.executable, str(script), json.dumps([[name, str(path)] for name, path in cases])]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case: tuple(rest) for case, *rest in map(json.loads, done.stdout.splitlines())}  # type: ignore[misc]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What came of each case in a second process."""
    folder = tmp_path_factory.mktemp("lost")
    kept, cleared, truncated, public = (folder / name for name in ("kept", "cleared", "truncated", "public"))
    first = run(folder, [("first", kept), *((p.name, p) for p in (cleared, truncated, public))])
    assert [passes for passes, *_ in first.values()] == [1, 0, 0, 0]
    environment = {**os.environ, "FLASHLIGHT_CACHE_DIR": str(cleared)}
    subprocess.run([sys.executable, "-m", "flashlight", "cache", "clear"], cwd=ROOT, env=environment, check=True)
    for path in truncated.glob("*.json"):
        path.write_bytes(path.read_bytes()[:100])
    public.chmod(0o777)
    (folder / "file").write_text("")
    others = {"moved": folder / "moved", "file": folder / "file", "unwritable": Path("/proc/flashlight")}
    cases = {p.name: p for p in (kept, cleared, truncated, public)} | others
    found = run(folder, list(cases.items()))
    for path in (cleared, truncated, others["moved"]):
        assert list(path.glob("*.json")), f"{path.name}: nothing was kept for the next process"
    return found


CASES = ("kept", "cleared", "truncated", "public", "moved", "file", "unwritable")


@pytest.mark.parametrize("case", CASES)
def test_a_warm_process_needs_nothing_from_our_cache(outcomes: dict[str, Outcome], case: str):
    passes, error, ran, said, *_ = outcomes[case]
    assert (passes, ran) == (0, 2), "Inductor's cache has the graph, with its region and the summaries of its condition"
    assert error < 1e-5
    expected = {"public": "chmod 700", "file": "not a directory", "unwritable": "cannot write"}
    assert expected.get(case, "") in said
    assert bool(said) == (case in expected)


@pytest.mark.parametrize("case", CASES)
def test_the_report_is_made_from_the_plans_that_ran(outcomes: dict[str, Outcome], case: str):
    *_, regions, note = outcomes[case]
    ((name, fused, key, kernels),) = regions
    assert (name, fused, key) == ("attention0", True, True) and kernels >= 1
    assert bool(note) == (case != "kept")
