"""What ``flashlight inspect`` is asked to show, checked before the script runs and before torch is imported."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from flashlight.codegen.offline import ARCHITECTURES

TEXT_KINDS = {
    "report": "report.txt",
    "program": "program.txt",
    "passes": "passes.txt",
    "kernel": "kernel.txt",
    "triton": "py",
    "cpp": "cpp",
}
"""What needs no compilation, with the ending of its file."""

MACHINE_KINDS = tuple(dict.fromkeys(kind for architecture in ARCHITECTURES.values() for kind in architecture.kinds))
BINARY_KINDS = ("cubin", "hsaco")
MASK = "mask"
"""Block maps: text on the terminal, PNG in a folder."""

KINDS = (*TEXT_KINDS, MASK, *MACHINE_KINDS)
"""Everything ``--emit`` knows."""

NO_MATPLOTLIB = "pictures of masks need matplotlib, which is not installed: pip install matplotlib"


def can_write_pictures() -> bool:
    """Whether there is what PNG files take."""
    return find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Request:
    """What to show: kinds, architectures to compile for, one kernel or all, on the terminal or into a folder, as text
    or as one JSON object."""

    kinds: tuple[str, ...]
    archs: tuple[str, ...]
    kernel: str | None
    output: Path | None
    json: bool = False

    @classmethod
    def of(
        cls, kinds: Sequence[str], archs: Sequence[str], kernel: str | None, output: Path | None, json: bool = False
    ) -> Self:
        """A request with the defaults filled in. ``ValueError`` says what cannot be shown, and what could."""
        if json and kinds:
            raise ValueError("--json has everything that --emit could show but machine code; leave one of them out")
        chosen = tuple(dict.fromkeys(kinds)) or ("report",)
        targets = tuple(dict.fromkeys(archs)) or _default_archs(chosen)
        for kind in chosen:
            able = [name for name, architecture in ARCHITECTURES.items() if kind in architecture.kinds]
            if kind in MACHINE_KINDS and not set(able) & set(targets):
                raise ValueError(f"--emit {kind} needs one of --arch {', '.join(able)}, not {', '.join(targets)}")
            if kind in BINARY_KINDS and output is None:
                raise ValueError(f"--emit {kind} is binary: say where to write it with -o DIR")
        if output is not None:
            _require_writable(output)
        if MASK in chosen and output is not None and not can_write_pictures():
            raise ValueError(f"--emit mask -o DIR: {NO_MATPLOTLIB}; without -o masks are printed")
        return cls(chosen, targets, kernel, output, json)


def _default_archs(kinds: Sequence[str]) -> tuple[str, ...]:
    """sm_90 for what NVIDIA can show, gfx942 for what only AMD can, nothing where nothing is compiled."""
    machine = [kind for kind in kinds if kind in MACHINE_KINDS]
    amd = [kind for kind in machine if kind not in ARCHITECTURES["sm_90"].kinds]
    nvidia = [kind for kind in machine if kind not in ARCHITECTURES["gfx942"].kinds]
    return (*(["sm_90"] if nvidia or (machine and not amd) else []), *(["gfx942"] if amd else []))


def _require_writable(folder: Path) -> None:
    """Raise ``ValueError`` where the folder, or the nearest one above it that exists, takes no files."""
    path = folder.absolute()
    nearest = next((p for p in (path, *path.parents) if p.exists()), path)
    if not nearest.is_dir():
        raise ValueError(f"-o {folder}: {nearest} is not a directory")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"-o {folder}: cannot write to {nearest}: {error.strerror or error}") from error
