"""Plan: everything that running one fused region takes, as a JSON document under its content hash.

    Plan(key, target, strict, source, program, schedule)

The op carries its plan as text: compiled code that Inductor took from its own cache, in a process where our pass never
ran, has all it needs.  What the disk cache holds besides are the user's lines, and what is learnt later.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program
from flashlight.ir.serialize import (
    kernel_from_json,
    kernel_to_json,
    program_from_json,
    program_to_json,
    tensor_from_json,
    tensor_to_json,
)

FORMAT = 3


@dataclass
class Plan:
    """A compiled region.  key: content hash.  source: the user's line.  cache_dir: as in the options."""

    key: str
    target: str
    strict: bool
    source: str
    program: Program
    schedule: Schedule
    cache_dir: str | None = None

    def to_document(self) -> dict[str, Any]:
        """As JSON for the cache; `kernels` is what `flashlight cache list` shows."""
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
        """The inverse of :meth:`to_document`.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` where the document is something else.
        """
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} instead of {FORMAT}")
        program = program_from_json(document["program"])
        kernels = tuple(map(kernel_from_json, document["kernels"]))
        schedule = Schedule(kernels, tuple(map(tensor_from_json, document["temporaries"])))
        target, strict, source = document["target"], document["strict"], document["source"]
        return cls(key, target, strict, source, program, schedule, document.get("cache_dir"))

    @functools.cached_property
    def text(self) -> str:
        """The plan as an argument of the op: packed JSON of letters, digits, ``+``, ``/`` and ``=``, a few kilobytes.

        It has no lines of the user's: what Inductor keeps of a graph does not change when they move.
        """
        document = self.to_document() | {"source": "", "cache_dir": self.cache_dir}
        for part in (document["program"], *document["kernels"]):
            part["origins"] = []
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
        return base64.b64encode(packed).decode()

    @classmethod
    def from_text(cls, key: str, text: str) -> Plan:
        """The inverse of :attr:`text`, without the lines.  Raises ``ValueError``, ``KeyError`` or ``TypeError``."""
        try:
            packed = zlib.decompress(base64.b64decode(text, validate=True))
        except zlib.error as error:
            raise ValueError(str(error)) from error
        return cls.from_document(key, json.loads(packed))


def version() -> str:
    """The installed version of the distribution."""
    try:
        return importlib.metadata.version("flashlight-attention")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def sources_hash() -> str:
    """A hash of every source file of the package, of PyTorch's and of Triton's version; computed once."""
    import flashlight
    import flashlight.codegen
    import flashlight.passes

    digest = hashlib.sha256(f"{version()} {torch.__version__} {_triton_version()}".encode())
    packages = (flashlight.passes, flashlight.codegen)
    roots = {Path(str(flashlight.__file__)).parent, *(Path(p) for m in packages for p in m.__path__)}
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
