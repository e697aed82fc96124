"""Running from a checkout that is not installed: `PYTHONPATH=/path/to/checkout` is all it takes.

The distribution, whose entry point makes the backend known to torch.compile by its name, is described to
importlib.metadata from pyproject.toml.  Importing this module does not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, DistributionFinder
from pathlib import Path
from typing import Any


def top_of_checkout(package: Path) -> Path | None:
    """The folder that holds the package, its parts and pyproject.toml; None where the package is installed."""
    top = package.parent
    beside = all((top / name).is_file() for name in ("pyproject.toml", "passes/__init__.py", "codegen/__init__.py"))
    return top if beside else None


def use(package: Path) -> None:
    """Describe the distribution of a package that lies in a checkout; nothing changes where it is installed."""
    top = top_of_checkout(package)
    if top is not None:
        sys.meta_path.append(_Finder(top))  # after those that find an installed distribution


class _Finder(DistributionFinder):
    """Finds the distribution of a checkout, and no modules."""

    def __init__(self, top: Path):
        self.top = top

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        return None

    def find_distributions(self, context: DistributionFinder.Context | None = None) -> Iterator[Distribution]:
        name = context.name if context is not None else None
        if name is None or name.lower().replace("_", "-") == "flashlight-attention":
            yield _Checkout(self.top)


class _Checkout(Distribution):
    """Name, version and entry points as pyproject.toml gives them."""

    def __init__(self, top: Path):
        self.top = top

    def read_text(self, filename: str) -> str | None:
        if filename not in ("METADATA", "entry_points.txt"):
            return None
        import email.message
        import tomllib

        project = tomllib.loads((self.top / "pyproject.toml").read_text())["project"]
        if filename == "METADATA":
            message = email.message.Message()
            message["Metadata-Version"] = "2.1"
            message["Name"], message["Version"] = project["name"], project["version"]
            return str(message)
        groups = project["entry-points"] | {"console_scripts": project["scripts"]}
        return "".join(f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in e.items()) for g, e in groups.items())

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return self.top / path

    @property
    def files(self) -> Any:
        return None
