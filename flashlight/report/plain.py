"""What every report is: plain data with a form in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from flashlight.base.documents import decode, encode


class Plain:
    """Plain data: JSON, pickles and copies have all of it, and nothing in them is left to be computed."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return encode(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; ``ValueError`` where the document is something else."""
        return decode(cls, document)

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`; ``ValueError`` where the text is something else."""
        return cls.from_dict(json.loads(text))

    def __reduce__(self) -> Any:
        return type(self).from_dict, (self.to_dict(),)
