"""Imports flow one way, and the compiler knows no attention by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (
    "base",  # errors, options, files, the disk cache, constants
    "ir",  # Program and Kernel: text, checks, JSON, evaluation
    "analysis",  # one walk over nodes and its domains: intervals, magnitudes, directions, fills
    "passes",  # Program -> Program -> Kernels
    "codegen",  # Kernel -> Triton, C++
    "report",  # what users are told
    "runtime",  # plan, targets, the operator
    "front",  # regions, lowering, capture
    "backend",  # what torch.compile calls
    "explanation",  # flashlight.explain
    "tools",  # the command line
)
"""The rooms: each imports from itself and those before it."""


def _sources(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    """Every module of ours that is imported, dotted, without `flashlight.`."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names]
        yield from (n.removeprefix("flashlight.") for n in names if n.startswith("flashlight."))


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "flashlight" else parts[1].removesuffix(".py")


def test_imports_flow_one_way() -> None:
    known = {*ORDER, "__init__", "__main__"}
    for path in (p for folder in ("flashlight", "passes", "codegen") for p in _sources(folder)):
        room = _room(path)
        assert room in known, f"{path} is in no room"
        if room in ORDER:
            before = ORDER[: ORDER.index(room) + 1]
            late = [name for name in _imports(path) if name.split(".")[0] not in before]
            assert not late, f"{path} imports {late} from rooms after its own"


def test_codegen_and_passes_do_not_meet() -> None:
    for path in _sources("codegen"):
        assert not [n for n in _imports(path) if n.startswith("passes")], path


def test_the_rooms_of_the_passes_flow_one_way() -> None:
    order = ("program", "sparsity", "schedule", "pipeline")
    for path in _sources("passes"):
        own = path.relative_to(ROOT).parts[1].removesuffix(".py")
        if own in order:
            before = order[: order.index(own) + 1]
            names = [n.split(".")[1] for n in _imports(path) if n.startswith("passes.")]
            assert set(names) <= set(before), path


@pytest.mark.parametrize("folder", ["passes", "codegen"])
def test_no_attention_is_known_by_name(folder: str) -> None:
    for path in _sources(folder):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.S)
        assert not re.search(r"softmax|causal|alibi", code, re.I), path


def _numbers(path: Path) -> Iterator[str]:
    """Names in upper case that a module gives to plain numbers, or to tuples of them."""
    allowed = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.Tuple, ast.operator, ast.unaryop, ast.Load)
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        parts = list(ast.walk(node.value))
        constants = [n.value for n in parts if isinstance(n, ast.Constant)]
        if constants and all(isinstance(n, allowed) for n in parts) and all(type(c) in (int, float) for c in constants):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and n.id.isupper())


@pytest.mark.parametrize("folder", ["passes", "flashlight/front/regions"])
def test_constants_of_performance_are_in_the_tables(folder: str) -> None:
    for path in _sources(folder):
        assert not list(_numbers(path)), f"{path}: to flashlight/base/constants/"


@pytest.mark.parametrize("name", ["cpu", "gpu", "limits"])
def test_every_constant_is_explained(name: str) -> None:
    """A text follows each; those of a machine say how they were chosen."""
    body = ast.parse((ROOT / f"flashlight/base/constants/{name}.py").read_text()).body
    for i, node in enumerate(body):
        if isinstance(node, ast.Assign) and not isinstance(body[i + 1], ast.Assign):
            text = body[i + 1]
            assert isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant), ast.unparse(node)
            said = str(text.value.value).lower()
            assert name == "limits" or "measured" in said or "calibrated" in said, ast.unparse(node)
