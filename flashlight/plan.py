"""Plan: everything that running one fused region takes, as a JSON document under its content hash.

    Plan(key, target, strict, source, program, schedule)

The document alone is enough to run the region in another process, where Inductor's cache may have skipped our pass.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashlight.kernel import Schedule
from flashlight.program import Program
from flashlight.serialize import (
    kernel_from_json,
    kernel_to_json,
    program_from_json,
    program_to_json,
    tensor_from_json,
    tensor_to_json,
)

FORMAT = 2


@dataclass
class Plan:
    """A compiled region.  key: content hash.  source: the user's line."""

    key: str
    target: str
    strict: bool
    source: str
    program: Program
    schedule: Schedule

    def to_document(self) -> dict[str, Any]:
        """As JSON; `kernels` is what `flashlight cache list` shows."""
        return {
            "format": FORMAT,
            "target": self.target,
            "strict": self.strict,
            "source": self.source,
            "program": program_to_json(self.program),
            "kernels": [kernel_to_json(k) for k in self.schedule.kernels],
            "temporaries": [tensor_to_json(t) for t in self.schedule.temporaries],
        }

    @classmethod
    def from_document(cls, key: str, document: dict[str, Any]) -> Plan:
        """The inverse of :meth:`to_document`.  A document without usable kernels is compiled again from its program.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` where the document is something else.
        """
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} instead of {FORMAT}")
        program = program_from_json(document["program"])
        target, strict, source = document["target"], document["strict"], document["source"]
        return cls(key, target, strict, source, program, _schedule(document, program))


def _schedule(document: dict[str, Any], program: Program) -> Schedule:
    try:
        kernels = tuple(map(kernel_from_json, document["kernels"]))
        return Schedule(kernels, tuple(map(tensor_from_json, document["temporaries"])))
    except (KeyError, ValueError, TypeError, IndexError):
        from flashlight.passes.pipeline import compile_program

        return compile_program(program)[0]


def version() -> str:
    """The installed version of the distribution."""
    try:
        return importlib.metadata.version("flashlight-attention")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def sources_hash() -> str:
    """A hash of every source file of the package, of PyTorch's and of Triton's version; computed once."""
    import flashlight.codegen
    import flashlight.passes

    digest = hashlib.sha256(f"{version()} {torch.__version__} {_triton_version()}".encode())
    roots = [Path(__file__).parent, *(Path(p) for m in (flashlight.passes, flashlight.codegen) for p in m.__path__)]
    for path in sorted(p for root in roots for ending in ("*.py", "*.h") for p in root.rglob(ending)):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def plan_key(program: Program, options: str) -> str:
    """Content hash of a region: its mathematics without source lines, the options, our sources."""
    document = program_to_json(program)
    document["origins"] = []
    text = json.dumps([document, options, sources_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
