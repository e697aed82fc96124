"""Imports flow one way, and the compiler knows no attention by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = {
    "budget", "cache", "checks", "contraction", "deferred", "errors", "evaluate", "files", "fills", "index", "kernel",
    "naming", "nodes", "ops", "program", "report", "serialize", "text", "versions", "warn",
}  # fmt: skip


def _sources(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """First component after `flashlight.` of every import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "flashlight" else [node.module]
        found |= {n.split(".")[1] for n in names if n.startswith("flashlight.")}
    return found


@pytest.mark.parametrize(("folder", "own"), [("passes", "passes"), ("codegen", "codegen")])
def test_passes_and_codegen_use_only_leaf_modules(folder: str, own: str) -> None:
    for path in _sources(folder):
        assert _imports(path) <= LEAVES | {own}, path


def test_leaf_modules_use_only_leaf_modules() -> None:
    for name in LEAVES:
        path = ROOT / "flashlight" / f"{name}.py"
        assert _imports(path) <= LEAVES, path


@pytest.mark.parametrize("folder", ["passes", "codegen"])
def test_no_attention_is_known_by_name(folder: str) -> None:
    for path in _sources(folder):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
        assert not re.search(r"softmax|causal|alibi", code, re.I), path
