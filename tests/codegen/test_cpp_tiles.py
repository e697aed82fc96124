"""Contractions on tiles: on arrays in plain C++; with the instructions, which a handler carries out where the processor
has none; when they are chosen."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from flashlight.codegen.cpp import (
    CppKernel,
    available,
    build,
    compiler,
    default_tiling,
    detect,
    detect_isa,
    isa,
    print_kernel,
    run,
    runs_here,
)
from flashlight.codegen.cpp.isa import FLAGS
from flashlight.codegen.cpp.toolchain import COMMON_FLAGS, HERE, CompilerError
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Map
from tests.codegen import handmade

from .handmade import Case, at, finish, mul, online, parts, put, softmax, tensor

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
emulated = pytest.mark.skipif(not runs_here("avx512bf16"), reason="what is beside tiles needs avx512bf16")
INSTRUCTIONS = Path(__file__).parent / "tile_instructions.cpp"
IN_C = ("-DFL_TILES_IN_C", *FLAGS["avx512bf16"])
ROWS, PAIRS = (1, 5, 16, 17, 32, 48, 70), (1, 15, 16, 17, 40)
MOST_ROWS, MOST_PAIRS, W = max(ROWS), max(PAIRS), 32

FUNCTIONS = f"""
#define FL_BITS 512
#include "flashlight.h"
namespace fl {{
static_assert(FL_TILES == 1 && W == {W}, "tiles");
static long next_row = 0;
template <bool ADD> static long contraction(const bf16* s, const int32_t* l, real* out, long rows, long count) {{
  next_row = 0;
  contract<{2 * MOST_PAIRS}, 2, W, W, ADD>(s, l, out, rows, count, [](long first, long end) {{
    next_row = first == next_row ? end : -1;
  }});
  return next_row;
}}
extern "C" long add(const bf16* s, const int32_t* l, real* out, long rows, long count) {{
  const TileState state;
  return contraction<true>(s, l, out, rows, count);
}}
extern "C" long set(const bf16* s, const int32_t* l, real* out, long rows, long count) {{
  const TileState state;
  return contraction<false>(s, l, out, rows, count);
}}
extern "C" long stateless(const bf16* s, const int32_t* l, real* out, long rows, long count) {{
  return contraction<false>(s, l, out, rows, count);
}}
#define FILL(name, T) \\
  extern "C" void name(bf16* out, const T* s, long rs, long ks, long rows, long count, long step) {{ \\
    round_rows(out, s, rs, ks, rows, count, step); \\
  }}
FILL(fill_bfloat16, bf16) FILL(fill_float16, f16) FILL(fill_float32, float) FILL(fill_float64, double)
}}
"""


def compiled(source: str, folder: Path, flags: tuple[str, ...]) -> ctypes.CDLL:
    path = folder / "functions.cpp"
    path.write_text(source)
    made = str(path.with_suffix(".so"))
    subprocess.run([compiler(), *COMMON_FLAGS, *flags, f"-I{HERE}", str(path), "-o", made], check=True)
    return ctypes.CDLL(made)


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(FUNCTIONS, tmp_path_factory.mktemp("functions"), IN_C)


def call(function: ctypes._NamedFuncPointer, *args: torch.Tensor | int) -> int:
    found = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_long(a) for a in args]
    function.restype = ctypes.c_long
    return function(*found)


# ---------------------------------------------------------------- the functions of the headers


def operands() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of pairs, rows of pairs of lanes, rows of lanes."""
    torch.manual_seed(0)
    scalars, lanes = torch.randn(MOST_ROWS, MOST_PAIRS, 2), torch.randn(MOST_PAIRS, W, 2)
    return scalars.bfloat16(), lanes.bfloat16(), torch.randn(MOST_ROWS, W)


@emulated
@pytest.mark.parametrize("add", [False, True])
def test_contraction(functions: ctypes.CDLL, add: bool):
    for rows, pairs in itertools.product(ROWS, PAIRS):
        scalars, lanes, out = operands()
        want = out.double()
        product = torch.einsum("rki,kwi->rw", scalars[:rows, :pairs].double(), lanes[:pairs].double())
        want[:rows] = product + (want[:rows] if add else 0)
        done = call(functions.add if add else functions.set, scalars, lanes, out, rows, pairs)
        assert done == rows, "rows are done in order"
        assert torch.allclose(out.double(), want, rtol=1e-5, atol=2e-5), (rows, pairs)


@emulated
def test_contraction_without_a_state(functions: ctypes.CDLL):
    """The arrays notice that a thread has not asked for tiles, as the processor would."""
    scalars, lanes, out = operands()
    call(functions.stateless, scalars, lanes, out, 70, 40)
    assert out[:64].isnan().all()
    assert out[64:].isfinite().all()


@emulated
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1, 3])
def test_rows_are_rounded_and_transposed(functions: ctypes.CDLL, dtype: torch.dtype, gap: int):
    """s[k][r], neighbours gap elements apart, becomes out[r][k]; nothing else is written."""
    for rows, count in itertools.product((1, 7, 16, 31, 80), (1, 2, 15, 32, 33, 63, 64, 97)):
        torch.manual_seed(rows * count)
        s = torch.randn(count, rows * gap).to(dtype)
        even = (count + 1) // 2 * 2
        step = even + 6
        out = torch.full((rows, step), 7.0).bfloat16()
        want = out.clone()
        want[:, :even] = 0
        want[:, :count] = s[:, ::gap].mT.float().bfloat16()
        call(getattr(functions, f"fill_{dtype}".replace("torch.", "")), out, s, gap, rows * gap, rows, count, step)
        assert torch.equal(out, want), (rows, count)


# ---------------------------------------------------------------- whole kernels


def masked(p: handmade.Parts):
    """Causal, and a key in five is not seen at all."""
    keep = at(tensor("keep", p.x.size, dtype=torch.bool), p.x)
    return handmade.where(keep, handmade.causal(p))


def weighted() -> Case:
    """Values that are computed, so that they are laid out twice; and an odd number of them."""
    p = parts(m=40, n=77, d=48, e=33, dtype=torch.bfloat16)
    gate = tensor("gate", 77)
    top, total, acc = online(p.x, p.score, {"acc": mul(p.value, at(gate, p.x))}, operand=p.operand)
    return finish(p, [top, total, acc], [put(p.o, Map("DIV", acc.node, total.node), p.b, p.h, p.m, p.e)], [gate])


def bf16(*args, **kw) -> Callable[[], Case]:
    return lambda: softmax(*args, dtype=torch.bfloat16, **kw)


CASES: dict[str, Callable[[], Case]] = {
    "whole tiles": bf16(m=64, n=128, d=64),
    "primes": bf16(m=67, n=131, d=80, e=53),
    "causal": bf16(handmade.causal, m=70, n=150, d=80),
    "masked": bf16(masked, [tensor("keep", 149, dtype=torch.bool)], {"keep": lambda: torch.rand(149) < 0.8},
                   m=149, n=149, d=64),
    "few queries": bf16(m=9, n=100, d=64),
    "odd features": bf16(m=40, n=90, d=45),
    "weighted": weighted,
}  # fmt: skip


def in_c(kernel: Kernel, tiling) -> CppKernel:
    """The kernel for tiles, which are arrays."""
    printed = print_kernel(kernel, tiling, "amx")
    return CppKernel(printed.name, f"#define FL_TILES_IN_C 1\n{printed.source}", "avx512bf16")


@emulated
@pytest.mark.parametrize("name", CASES)
def test_kernels(name: str, tmp_path: Path):
    case = CASES[name]()
    (x,) = [s.axis for s in case.kernel.sweeps]
    tensors, want = case.tensors(), case.outputs()
    evaluate_kernel(case.kernel, tensors, want, 64)
    default = default_tiling(case.kernel, "amx")
    tilings = {default, dataclasses.replace(default.with_block(x, 48), panels=2)}
    for kernel in (in_c(case.kernel, tiling) for tiling in tilings):
        got = case.outputs()
        run(build(kernel, tmp_path), case.kernel, tensors, got, 2)
        size = max(1.0, want["o"].abs().max().item())
        torch.testing.assert_close(got["o"], want["o"], rtol=case.tolerance, atol=case.tolerance * size)


def test_layout():
    """Both sides without lanes have the pairs of a row together, unless vectors are too short for tiles."""
    case = CASES["whole tiles"]()
    tiling = default_tiling(case.kernel, "amx")
    assert tiling == default_tiling(case.kernel, "avx512bf16")
    source = print_kernel(case.kernel, tiling, "amx").source
    assert source.count("contract<64, 2, ") == 1
    assert source.count("contract<128, 2, ") == 1
    assert "interleave" not in source
    narrow = dataclasses.replace(tiling, bits=256)
    sources = [print_kernel(case.kernel, narrow, level).source for level in ("amx", "avx512bf16")]
    assert sources[0] == sources[1]
    assert "interleave" in sources[0]


# ---------------------------------------------------------------- the instructions


def change(patch: pytest.MonkeyPatch, folder: Path, right: str, wrong: str) -> None:
    """Lets the probe find other headers."""
    for path in (HERE / "probe.cpp", *HERE.glob("*.h")):
        (folder / path.name).write_text(path.read_text().replace(right, wrong))
    assert right in (HERE / "flashlight_tiles.h").read_text()
    patch.setattr(detect, "HERE", folder)
    patch.setattr(detect, "PROBE", folder / "probe.cpp")


def knows_tiles() -> bool:
    tried = [compiler(), *FLAGS["amx"], "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(tried, input="", text=True, capture_output=True).returncode == 0


needs_flags = pytest.mark.skipif(available() is None and not knows_tiles(), reason="the compiler knows no tiles")


@needs_flags
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_instructions(tmp_path: Path):
    """A kernel compiles to eight tiles in use, set up and released in the parallel region."""
    kernel = CASES["whole tiles"]().kernel
    source, made = tmp_path / "kernel.cpp", str(tmp_path / "kernel.so")
    source.write_text(print_kernel(kernel, default_tiling(kernel, "amx"), "amx").source)
    subprocess.run([compiler(), *COMMON_FLAGS, *FLAGS["amx"], f"-I{HERE}", str(source), "-o", made], check=True)
    text = subprocess.run(["objdump", "-d", made], capture_output=True, text=True, check=True).stdout
    assert all(f"%tmm{i}" in text for i in range(8))
    names = ("ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps")
    assert all(name in text for name in names)


@needs_flags
@emulated
def test_instructions_are_right():
    """The probe passes with its instructions, which a handler carries out where the processor has none."""
    assert detect.probe((*FLAGS["amx"], str(INSTRUCTIONS))) == ""


@needs_flags
@emulated
def test_wrong_instructions_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Operands in another order, or no configuration."""
    for right, wrong in (("%%tmm%c2, %%tmm%c1, %%tmm%c0", "%%tmm%c1, %%tmm%c2, %%tmm%c0"), ("ldtilecfg %0", "")):
        change(monkeypatch, tmp_path, right, wrong)
        assert "exit status" in detect.probe((*FLAGS["amx"], str(INSTRUCTIONS)))


# ---------------------------------------------------------------- detection


@emulated
def test_probe_is_right():
    """The probe passes on tiles that are right."""
    assert detect.probe(IN_C) == ""


@emulated
def test_probe_notices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The probe fails on tiles that are wrong, and says so."""
    change(monkeypatch, tmp_path, "for (int k = 0; k < 16; k++) for", "for (int k = 0; k < 15; k++) for")
    assert "exit status 1" in detect.probe(IN_C)


@needs_flags
def test_probe_here():
    """Where there are no tiles the probe dies, and this process does not."""
    assert (detect.probe(FLAGS["amx"]) == "") <= runs_here("amx")


def test_probe_that_does_not_compile_or_end(monkeypatch: pytest.MonkeyPatch):
    assert "compiled without tiles" in detect.probe(FLAGS["avx2"])
    monkeypatch.setattr(detect, "LONGEST", 0.001)
    assert "timed out" in detect.probe(IN_C)


class Machine:
    """A processor with tiles."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.permitted, self.problem, self.probes = True, "", 0
        flags = frozenset().union(*isa._NEEDS.values())
        patch.setattr(isa, "_cpu_flags", lambda: flags)
        patch.setattr(isa, "_tiles_permitted", lambda: self.permitted)
        patch.setattr(detect, "probe", self.probe)

    def probe(self, flags: tuple[str, ...]) -> str:
        assert flags == FLAGS["amx"]
        self.probes += 1
        return self.problem


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    detect.tiles_problem.cache_clear()
    yield Machine(monkeypatch)
    detect.tiles_problem.cache_clear()


def test_tiles_are_chosen(machine: Machine):
    assert detect_isa() == detect_isa() == "amx"
    assert machine.probes == 1


def test_tiles_that_are_not_permitted(machine: Machine):
    machine.permitted = False
    assert detect_isa() == "avx512bf16"
    assert not runs_here("amx")
    assert not machine.probes


def test_tiles_that_are_wrong(machine: Machine):
    machine.problem = "exit status 1"
    assert detect_isa() == "avx512bf16"
    assert detect.tiles_problem() == "exit status 1"


@pytest.mark.parametrize("problem", ["", "exit status 1"])
def test_what_the_probe_found_is_remembered(machine: Machine, problem: str, monkeypatch: pytest.MonkeyPatch):
    """By other processes too, for the same compiler."""
    machine.problem = problem
    found = detect_isa()
    detect.tiles_problem.cache_clear()
    assert detect_isa() == found
    assert machine.probes == 1
    monkeypatch.setattr(detect, "compiler_version", lambda: "another")
    detect.tiles_problem.cache_clear()
    assert detect_isa() == found
    assert machine.probes == 2


def test_nowhere_to_remember(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "file"))
    assert detect_isa() == "amx"
    assert machine.probes == 1


def test_no_compiler_no_tiles(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    def none() -> str:
        raise CompilerError("no C++ compiler")

    monkeypatch.setattr(detect, "compiler_version", none)
    assert detect_isa() == "avx512bf16"


def test_processors_without_tiles_are_not_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isa, "_cpu_flags", frozenset)
    assert detect_isa() == "portable"
    assert not machine.probes
