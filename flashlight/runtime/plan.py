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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flashlight.base.documents import DocumentError
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program
from flashlight.ir.serialize import from_document, to_document

FORMAT = 4


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
        """As JSON for the cache, which has the key: what `flashlight cache list` shows is read from it."""
        return {"format": FORMAT, **to_document(replace(self, key="", cache_dir=None))}

    @classmethod
    def from_document(cls, key: str, document: dict[str, Any]) -> Plan:
        """The inverse of :meth:`to_document`.  Raises ``ValueError`` where the document is something else."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise DocumentError(f"a plan of format {FORMAT}", document)
        return replace(from_document(cls, document), key=key)

    @functools.cached_property
    def text(self) -> str:
        """The plan as an argument of the op: packed JSON of letters, digits, ``+``, ``/`` and ``=``, a few kilobytes.

        It has no lines of the user's: what Inductor keeps of a graph does not change when they move.
        """
        program = replace(self.program, origins={})
        schedule = replace(self.schedule, kernels=tuple(replace(k, origins={}) for k in self.schedule.kernels))
        plan = replace(self, key="", source="", program=program, schedule=schedule)
        document = {"format": FORMAT, **to_document(plan)}
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
        return base64.b64encode(packed).decode()

    @classmethod
    def from_text(cls, key: str, text: str) -> Plan:
        """The inverse of :attr:`text`, without the lines.  Raises ``ValueError``."""
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
    document = to_document(replace(program, origins={}))
    text = json.dumps([document, options, sources_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
