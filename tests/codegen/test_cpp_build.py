"""Compiling, caching and refusing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from flashlight.base import warn
from flashlight.base.errors import FlashlightWarning
from flashlight.codegen.cpp import (
    Built,
    CompilerError,
    CppKernel,
    available,
    build,
    build_all,
    compiler,
    default_tiling,
    detect_isa,
    library,
    print_kernel,
    run,
)
from flashlight.codegen.cpp.toolchain import _load
from flashlight.ir.evaluate import evaluate_program, new_output
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Load, Map, Node, Program, Reduce, Store, Tensor
from flashlight.passes.pipeline import compile_program
from tests.codegen import kernels

needs_compiler = pytest.mark.skipif(available() is not None, reason=str(available()))
BEST = detect_isa()


def sigmoid(name: str = "attention"):
    case = kernels.CASES["sigmoid"]()
    kernel = dataclasses.replace(case.kernel, name=name)
    return case, kernel, print_kernel(kernel, default_tiling(kernel, BEST), BEST)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The message says what is missing, and what to do."""
    _, _, printed = sigmoid()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert available() == (
        "no C++ compiler: none of $CXX, g++, clang++ is on PATH. Install g++ or clang++, or set CXX or "
        "torch._inductor.config.cpp.cxx"
    )
    monkeypatch.setenv("CXX", "nope")
    assert "none of CXX='nope', g++, clang++" in (available() or "")
    with pytest.raises(CompilerError, match=r"Install g\+\+ or clang\+\+"):
        build(printed, tmp_path / "cache")


def test_broken_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("flashlight.codegen.cpp.toolchain.compiler", lambda: str(broken))
    assert "does not run" in (available() or "")


@needs_compiler
def test_a_compiler_that_is_not_there_is_not_ignored_silently(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "nope")
    warn.forget()
    with pytest.warns(FlashlightWarning, match="CXX='nope' is not on PATH: Flashlight compiles with /") as caught:
        assert compiler() == compiler()
    assert [(w.filename, w.category) for w in caught] == [(__file__, FlashlightWarning)], "once, and at this line"


@needs_compiler
def test_rejected_source(tmp_path: Path):
    _, _, printed = sigmoid()
    with pytest.raises(CompilerError, match=r"^compiling attention failed: kernel\.cpp:1:\d+: error: .*\n"):
        build(dataclasses.replace(printed, source="not C++"), tmp_path)
    assert not list(tmp_path.glob("*.so"))


@needs_compiler
def test_other_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What was compiled for another instruction set has another name, and is not run here."""
    _, kernel, printed = sigmoid()
    other = print_kernel(kernel, default_tiling(kernel, "portable"), "portable")
    assert printed.digest != other.digest
    monkeypatch.setattr("flashlight.codegen.cpp.isa._cpu_flags", frozenset)
    assert detect_isa() == "portable"
    if BEST != "portable":
        with pytest.raises(CompilerError, match="cannot run"):
            build(printed, tmp_path)


@needs_compiler
def test_what_is_built_is_kept_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One file, whoever builds; a part of it, or something else under its name, is built again."""
    case, kernel, printed = sigmoid("cached")
    built = build_all([printed, printed], tmp_path)
    (path,) = tmp_path.iterdir()
    assert [b.path for b in built] == [path, path] and path.suffix == ".so"
    assert print_kernel(kernel, default_tiling(kernel, BEST), BEST).digest == printed.digest
    whole, stem = path.read_bytes(), path.name.partition(".")[0]
    for part in (b"", whole[:100], whole[:-1], whole + b"x", whole[: len(whole) // 2]):
        path.write_bytes(part)
        assert library.find(tmp_path, stem) is None and not path.exists()
    (tmp_path / "elsewhere").write_bytes(whole)
    path.symlink_to(tmp_path / "elsewhere")
    assert library.find(tmp_path, stem) is None, "a link may lead to what others write"
    monkeypatch.setattr("flashlight.codegen.cpp.toolchain._LOADED", {})
    path.write_bytes(whole[: len(whole) // 2])
    again, tensors, outputs = build(printed, tmp_path), case.tensors(), case.outputs()
    assert again.path == path and path.read_bytes() == whole
    run(again, kernel, tensors, outputs, 1)


@needs_compiler
@pytest.mark.parametrize("reason", ["nobody's", "public", "a file", "no space", "not executable"])
def test_folders_that_cannot_be_used(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel runs all the same; in a folder that others may write to nothing is loaded or written."""
    case, kernel, printed = sigmoid("apart")
    monkeypatch.setattr("flashlight.codegen.cpp.toolchain._LOADED", {})
    monkeypatch.setattr("flashlight.codegen.cpp.toolchain._load", loading := Loading())
    folder = tmp_path / "native"
    planted = build(printed, folder).path
    if reason == "public":
        folder.chmod(0o777)
    elif reason == "a file":
        planted.unlink()
        folder.rmdir()
        folder.write_text("")
    elif reason == "no space":
        planted.unlink()
        monkeypatch.setattr(library, "replace", no_space)
    loading.refused = folder if reason == "not executable" else None
    monkeypatch.setattr("flashlight.codegen.cpp.toolchain._LOADED", {})
    loading.paths.clear()
    built = build(printed, None if reason == "nobody's" else folder)
    run(built, kernel, case.tensors(), case.outputs(), 1)
    assert folder not in built.path.parents
    if reason == "public":
        assert folder not in [p.parent for p in loading.paths]
        assert list(folder.iterdir()) == [planted]


class Loading:
    """Loads libraries and remembers from where; refuses those in one folder, as a disk without execution does."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self.refused: Path | None = None

    def __call__(self, kernel: CppKernel, path: Path) -> Built | None:
        self.paths.append(path)
        return None if path.parent == self.refused else _load(kernel, path)


def no_space(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device")


@needs_compiler
def test_wrong_tensor(tmp_path: Path):
    case, kernel, printed = sigmoid("checked")
    built, tensors = build(printed, tmp_path), case.tensors()
    tensors["q"] = tensors["q"].double()
    with pytest.raises(ValueError, match=r"q: the kernel was made for torch.float32\[1, 2, 37, 16\]"):
        run(built, kernel, tensors, case.outputs(), 1)


def test_source_is_readable():
    """The schedule on top, the user's lines beside what came from them, one short function a level."""
    case = kernels.CASES["soft cap and bias"]()
    origins = {n: "model.py:12" for n in case.kernel.nodes if isinstance(n, Map) and n.fn == "TANH"}
    source = print_kernel(case.kernel, default_tiling(case.kernel, BEST), BEST, origins).source
    assert source.startswith("// kernel ")
    assert "model.py:12" in source
    assert "static void sweep0_block(" in source
    assert max(len(f.splitlines()) for f in source.split("\n\n")) < 80


def contiguous(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, torch.empty(shape, device="meta").stride(), torch.float32)


def column_softmax() -> Program:
    """softmax over the queries, then times values: the column statistics need a kernel of their own."""
    b, m, n, e, d, k = Axis("o0", 2), Axis("o1", 41), Axis("b2", 29), Axis("o2", 12), Axis("b1", 8), Axis("b3", 41)
    q, key, v, o = (
        contiguous("q", 2, 41, 8),
        contiguous("k", 2, 29, 8),
        contiguous("v", 2, 29, 12),
        contiguous("o", 2, 41, 12),
    )

    def load(t: Tensor, *axes: Axis) -> Node:
        return Load(t.name, [of(a) for a in axes], "float")

    def score(row: Axis) -> Node:
        return Reduce("SUM", d, Map("MUL", load(q, b, row, d), load(key, b, n, d)))

    top = Reduce("MAX", k, score(k))
    total = Reduce("SUM", k, Map("EXP", Map("SUB", score(k), top)))
    weight = Map("DIV", Map("EXP", Map("SUB", score(m), top)), total)
    value = Reduce("SUM", n, Map("MUL", weight, load(v, b, n, e)))
    return Program((q, key, v), (o,), (Store("o", (of(b), of(m), of(e)), value),))


@needs_compiler
def test_program_of_several_kernels(tmp_path: Path):
    program = column_softmax()
    schedule, _ = compile_program(program)
    assert len(schedule.kernels) > 1
    printed = [print_kernel(k, default_tiling(k, BEST), BEST) for k in schedule.kernels]
    torch.manual_seed(0)
    tensors = {t.name: torch.randn(t.shape) for t in program.inputs}
    want = evaluate_program(program, tensors)["o"]
    for t in (*program.outputs, *schedule.temporaries):
        tensors[t.name] = new_output(t, torch.device("cpu"))
    for built, kernel in zip(build_all(printed, tmp_path), schedule.kernels, strict=True):
        run(built, kernel, tensors, tensors, 2)
    torch.testing.assert_close(tensors["o"], want, rtol=1e-5, atol=1e-5)
    assert compiler()
