"""Sweeps that skip blocks: the interpreted kernel computes what visiting every block does, and passes over the
blocks that the block map says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from flashlight.analysis.blocks import FULL, SKIPPED, block_map
from flashlight.base.constants import cpu, gpu
from flashlight.codegen.offline import ARCHITECTURES, Compiled, compile_source
from flashlight.codegen.tile import evaluate_kernel
from flashlight.codegen.triton import Tiling, default_tiling, interpreter, print_kernel, run_interpreted
from flashlight.ir.evaluate import new_output
from flashlight.ir.kernel import Kernel
from flashlight.passes.pipeline import compile_program
from tests.harness import compile_only
from tests.passes.test_visits import with_ids

INF = math.inf


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]


def causal(q, k):
    i, j = positions(q, k)
    return j <= i


def window(q, k):
    i, j = positions(q, k)
    return (j <= i) & (i - j < 70)


def window_and_sinks(q, k):
    i, j = positions(q, k)
    return (j <= i) & ((i - j < 40) | (j < 4))


def prefix(q, k, lengths):
    i, j = positions(q, k)
    return (j < lengths[:, None, None, None]) | (j <= i)


def documents(q, k, doc):
    return doc[:, None, :, None] == doc[:, None, None, :]


def documents_causal(q, k, doc):
    return documents(q, k, doc) & causal(q, k)


def padding(q, k, present):
    return present[:, None, None, :]


def dilated(q, k):
    i, j = positions(q, k)
    return (j <= i) & ((i - j) % 10 == 0) & (i - j < 80)


def block_diagonal(q, k):
    i, j = positions(q, k)
    return i // 80 == j // 80


def windows_by_head(q, k, widths):
    i, j = positions(q, k)
    return (i - j).abs() < widths[:, None, None]


def powers_of_two(q, k):
    i, j = positions(q, k)
    apart = i // 16 - j // 16
    return (apart & (apart - 1)) == 0


def dense(q, k, mask):
    return mask


def _lengths(b: int, h: int, s: int) -> Tensor:
    return torch.arange(b) * 77 + 30


def _documents(b: int, h: int, s: int) -> Tensor:
    return torch.randint(0, 4, (b, s)).sort(-1)[0]


def _modalities(b: int, h: int, s: int) -> Tensor:
    """In no order, of a type too narrow for their sets."""
    kinds = torch.tensor([-1, 0, 40, 10**9], dtype=torch.int32)
    return kinds[torch.randint(0, 4, (b, -(-s // 50)))].repeat_interleave(50, -1)[:, :s]


def _present(b: int, h: int, s: int) -> Tensor:
    return torch.arange(s) < torch.arange(b)[:, None] * 60 + 70


def _widths(b: int, h: int, s: int) -> Tensor:
    return torch.arange(h) * 60 + 5


def _mask(b: int, h: int, s: int) -> Tensor:
    coarse = torch.rand(-(-s // 64), -(-s // 64)) > 0.6
    mask = coarse.repeat_interleave(64, 0).repeat_interleave(64, 1)[:s, :s].clone()
    mask[5, 70:80] = ~mask[5, 70:80]
    return mask


MASKS: dict[str, tuple[Callable[..., Tensor], Callable[[int, int, int], Tensor] | None]] = {
    "causal": (causal, None),
    "window": (window, None),
    "window and sinks": (window_and_sinks, None),
    "prefix": (prefix, _lengths),
    "documents": (documents, _documents),
    "documents causal": (documents_causal, _documents),
    "modalities": (documents, _modalities),
    "padding": (padding, _present),
    "dilated": (dilated, None),
    "block diagonal": (block_diagonal, None),
    "windows by head": (windows_by_head, _widths),
    "powers of two": (powers_of_two, None),
    "dense": (dense, _mask),
}
NEIGHBOURS = ["causal", "window", "prefix", "block diagonal", "windows by head"]
"""Masks whose visited blocks are seen to be neighbours."""

BY_BATCH, BY_HEAD = ("prefix", "documents", "modalities", "padding"), ("windows by head",)


@dataclass
class Case:
    """The main kernel of an attention with a mask, and its inputs, summaries included."""

    kernel: Kernel
    tensors: dict[str, Tensor]

    def tiling(self, rows: int, columns: int) -> Tiling:
        tile = self.kernel.tile
        blocks = {a: rows if a is tile[-1] else 1 for a in tile}
        return Tiling({**blocks, **dict.fromkeys((s.axis for s in self.kernel.sweeps), columns)}, 4, 2)

    def compare(self, *tilings: Tiling) -> None:
        """Interpreted, the kernel gives what its meaning is, every block visited."""
        want = evaluated(self.kernel, self.tensors)
        for tiling in tilings:
            got = {name: torch.full_like(t, 7) for name, t in want.items()}
            printed = print_kernel(self.kernel, tiling)
            run_interpreted(printed, self.kernel, self.tensors, got)
            for name, t in want.items():
                torch.testing.assert_close(got[name], t, rtol=2e-5, atol=2e-5, equal_nan=True)


def evaluated(kernel: Kernel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    outputs = {t.name: new_output(t, torch.device("cpu")) for t in kernel.outputs}
    evaluate_kernel(kernel, tensors, outputs)
    return outputs


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("kernels"))


def attention(
    name: str, cache: str, size: int = 200, fill: float = -INF, additive: bool = False,
    poison: tuple[int, int] = (0, 0), dim: int = 16, dtype: torch.dtype = torch.float32,
) -> Case:  # fmt: skip
    """The kernel of softmax attention under a mask.  poison: keys whose k and v are NaN."""
    torch.manual_seed(0)
    batch, heads = 1 + (name in BY_BATCH), 1 + (name in BY_HEAD)
    q, k, v = (torch.randn(batch, heads, size, dim, dtype=dtype) for _ in range(3))
    k[:, :, poison[0] : poison[1]] = v[:, :, poison[0] : poison[1]] = INF
    mask, make = MASKS[name]
    extra = (make(batch, heads, size),) if make else ()

    def fn(q, k, v, *extra):
        keep, scores = mask(q, k, *extra), q @ k.mT / 4
        masked = scores + torch.where(keep, 0.0, fill) if additive else scores.masked_fill(~keep, fill)
        return masked.softmax(-1) @ v

    with patch.object(cpu, "SUMMARIES_SHARE", INF):  # of such small sizes, too
        compiled = compile_only(fn, cache, target="evaluate")
        compiled(q, k, v, *extra)
    plan = compiled.plans[-1]
    tensors = dict(zip([t.name for t in plan.program.inputs], compiled.given[plan.key], strict=True))
    for kernel in plan.schedule.kernels[:-1]:
        tensors |= evaluated(kernel, tensors)
    kernel = plan.schedule.kernels[-1]
    assert any(s.visit for s in kernel.sweeps), kernel
    return Case(kernel, tensors)


@pytest.mark.parametrize("name", MASKS)
def test_same_as_every_block(name: str, cache: str):
    case = attention(name, cache)
    case.compare(case.tiling(64, 64), case.tiling(32, 16))


def test_summaries_of_ids():
    """Smallest, largest and the set of each key block, from a kernel of their own."""
    b, _, tensors = with_ids("same", "large and negative")
    for kernel in compile_program(b.program)[0].kernels[:-1]:
        Case(kernel, tensors).compare(default_tiling(kernel, "sm_90"))


@pytest.mark.parametrize("name", ["causal", "window", "window and sinks", "documents", "dense"])
def test_blocks_of_several_key_blocks(name: str, cache: str):
    case = attention(name, cache, 333)
    case.compare(case.tiling(64, 128), case.tiling(128, 256))


@pytest.mark.parametrize("name", MASKS)
def test_finite_fills(name: str, cache: str):
    """Rows without anything unmasked attend to everything alike."""
    case = attention(name, cache, fill=-1e9)
    case.compare(case.tiling(64, 64))


@pytest.mark.parametrize("name", ["causal", "window", "padding", "documents"])
def test_additive_masks_of_the_smallest_number(name: str, cache: str):
    case = attention(name, cache, fill=torch.finfo(torch.float32).min, additive=True)
    case.compare(case.tiling(64, 64))


@pytest.mark.parametrize("name", ["causal", "window and sinks", "documents", "padding", "dense"])
@pytest.mark.parametrize("fill", [-INF, -1e9])
def test_infinite_keys_and_values_spread_as_in_eager(name: str, fill: float, cache: str):
    case = attention(name, cache, fill=fill, poison=(150, 152))
    case.compare(case.tiling(64, 64))


@pytest.mark.parametrize("size", [128, 129, 192, 255])
def test_ends(size: int, cache: str):
    for name in ("causal", "window and sinks"):
        case = attention(name, cache, size)
        case.compare(case.tiling(64, 64), case.tiling(64, 32), case.tiling(16, 128))


@pytest.mark.parametrize("name", ["window", "window and sinks", "documents causal", "dense"])
def test_part_by_part(name: str, cache: str, monkeypatch: pytest.MonkeyPatch):
    """So few key blocks at once that a sweep has several parts."""
    monkeypatch.setattr(gpu, "MOST_KEY_BLOCKS", 2)
    case = attention(name, cache, 333, fill=-1e9)
    assert "_part in range" in print_kernel(case.kernel, case.tiling(64, 64)).source
    case.compare(case.tiling(64, 64), case.tiling(64, 128), case.tiling(64, 32))


# ---------------------------------------------------------------- which blocks are visited


def visited(case: Case, rows: int, columns: int) -> Tensor:
    """1 for the blocks that the loop with masks visits, 2 for the one without, by a variant that takes notes."""
    kernel, sweep = case.kernel, case.kernel.sweeps[-1]
    printed = print_kernel(kernel, case.tiling(rows, columns))
    source = printed.source.replace("BLOCK", "seen_ptr, BLOCK", 1)
    text, full = "", False
    for line in source.splitlines(keepends=True):
        full = "# Full" in line or (full and "# Blocks" not in line)
        text += line
        if found := re.match(r"( +)x\w* = (x_start\w*) \+ tl.arange", line):
            blocks = -(-sweep.axis.size // columns)
            at = f"seen_ptr + program * {blocks} + {found[2]} // BLOCK_X"
            text += f"{found[1]}tl.store({at}, tl.load({at}) + {1 + full})\n"
    tiles = [-(-a.size // rows) for a in kernel.tile]
    seen = torch.zeros([*[a.size for a in kernel.grid], *tiles, -(-sweep.axis.size // columns)], dtype=torch.int32)
    given = [*[case.tensors[t.name] for t in kernel.inputs], *evaluated(kernel, case.tensors).values(), seen]
    interpreter.run(text, printed.name, printed.grid, [*given, *printed.constants.values()])
    return seen.flip(-2)


@pytest.mark.parametrize("name", MASKS)
def test_visits_what_the_block_map_says(name: str, cache: str):
    case = attention(name, cache, 330)
    want = block_map(case.kernel, case.kernel.sweeps[-1], case.tensors, 64)
    got = visited(case, 64, 64)
    whole = 330 // 64
    assert torch.equal(got > 0, want != SKIPPED)
    assert not (got[..., whole:] == FULL).any()
    if name in NEIGHBOURS:
        assert torch.equal(got[..., :whole], want[..., :whole].int())
    else:
        assert (want[got == FULL] == FULL).all()


def test_large_blocks_are_visited_if_a_part_of_them_is(cache: str):
    case = attention("window", cache, 512)
    fine = visited(case, 64, 64)
    coarse = visited(case, 64, 128)
    assert torch.equal(coarse > 0, fine.unflatten(-1, (4, 2)).amax(-1) > 0)
    assert torch.equal(coarse == FULL, fine.unflatten(-1, (4, 2)).amin(-1) == FULL)


def test_all_blocks_are_visited_again_where_skipping_was_wrong(cache: str):
    """Rows beyond the window of all keys: one redo of every block, besides the visited ones."""
    case = attention("padding", cache, 256, fill=-1e9)
    case.tensors = {n: torch.zeros_like(t) if t.dtype is torch.bool else t for n, t in case.tensors.items()}
    assert bool((visited(case, 64, 64) >= 1).all())


# ---------------------------------------------------------------- the text


def loops(source: str) -> list[str]:
    """The bodies of the loops over blocks."""
    return re.split(r"\n +for x_\w+ in range\(.*", source)[1:]


def test_the_full_loop_has_no_masks(cache: str):
    for name in ("causal", "documents", "dense"):
        case = attention(name, cache, 200)
        text = print_kernel(case.kernel, case.tiling(64, 64)).source
        full, partial = loops(text)
        masks = (', float("-inf")', "mask=", "o2[:, None]")
        assert all(m in partial for m in masks)
        assert not any(m in full for m in masks)


@pytest.mark.parametrize("name", MASKS)
def test_runs_only_where_visited_blocks_may_be_apart(name: str, cache: str):
    case = attention(name, cache)
    assert ("while " in print_kernel(case.kernel, case.tiling(64, 64)).source) == (name not in NEIGHBOURS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", ["window", "documents"])
def test_compiles(name: str, arch: str, cache: str):
    """With all there can be: runs of blocks, ragged ends, computing again."""
    case = attention(name, cache, fill=-1e9, dtype=torch.bfloat16)
    assert compiled(case.kernel, arch).fits


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("name", ["window", "documents"])
def test_no_spills(name: str, dim: int, arch: str, cache: str):
    case = attention(name, cache, 256, dim=dim, dtype=torch.bfloat16)
    assert compiled(case.kernel, arch).spills == 0


def test_the_full_loop_compiles_to_no_selection(cache: str):
    """No element of the scores is compared or chosen; references of rows are."""
    case = attention("causal", cache, 512, dim=64, dtype=torch.bfloat16)
    chosen = re.compile(r"arith\.(cmpi|select) .*tensor<128x64x")
    full, partial = compiled(case.kernel, "sm_90").asm["ttgir"].split("scf.for")[1:]
    assert chosen.search(partial)
    assert not chosen.search(full)


def compiled(kernel: Kernel, arch: str) -> Compiled:
    tk = print_kernel(kernel, default_tiling(kernel, arch))
    return compile_source(tk.source, tk.name, tk.signature, tk.constants, arch, tk.num_warps, tk.num_stages)
