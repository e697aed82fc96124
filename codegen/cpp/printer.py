"""Kernel to C++: one translation unit, a short function for each level of the plan.

setup     once a task              prologue  once a panel           sweepN_start   once a sweep and panel
sweepN_shared  once a block of the swept axis                       sweepN_block   once a block and panel
epilogue  once a panel

Sweeps that skip blocks also have a test of blocks, a block function for blocks with and without masks, and where
needed sweepN_exact, once a panel: whether skipping blocks was right (see visits.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from flashlight.base.constants import cpu
from flashlight.codegen.cpp.emit import C_TYPES
from flashlight.codegen.cpp.isa import PAIR_BITS, PAIRS, Isa
from flashlight.codegen.cpp.memory import PANEL_LEVELS, Memory
from flashlight.codegen.cpp.names import Names, Places
from flashlight.codegen.cpp.plan import make_plan
from flashlight.codegen.cpp.stages import StagePrinter
from flashlight.codegen.cpp.structure import Buffer, Plan
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.codegen.cpp.toolchain import CppKernel
from flashlight.codegen.cpp.visits import TestPrinter, coarse, step
from flashlight.codegen.tile import Loop, tile_program
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Node
from flashlight.ir.text import kernel_text


def print_kernel(kernel: Kernel, tiling: Tiling, isa: Isa, origins: Mapping[Node, str] | None = None) -> CppKernel:
    """The kernel as C++ for one instruction set.  origins: node -> 'file.py:12', shown as comments
    (default: the kernel's own)."""
    pairs = isa in PAIRS and tiling.bits >= PAIR_BITS
    tiled = tile_program(tiling.applied(kernel), origins or kernel.origins)
    printer = _Printer(make_plan(tiled, tiling, pairs, isa == "amx" and tiling.bits == 512))
    return CppKernel(printer.entry, printer.text(), isa)


EACH = "for (long i = 0; i < panels; ++i)"


@dataclass(frozen=True)
class _Function:
    """kinds: p for one of a panel, w of work memory, f a template over FULL, b that gives a truth value."""

    name: str
    kinds: str
    doc: str
    lines: list[str]


class _Printer:
    def __init__(self, plan: Plan):
        self.plan, self.kernel, self.tiling = plan, plan.tiled.kernel, plan.tiling
        k = self.kernel
        self.names = Names()
        self.entry = self.names(k.name)
        self.tensors: Places[str] = Places()
        self.places: Places[Axis] = Places()
        self.starts: Places[Axis] = Places()
        self.counts: Places[Axis] = Places()
        self.tensors.update((t.name, self.names(t.name)) for t in k.inputs + k.outputs)
        for axis in dict.fromkeys([*k.grid, *k.tile, *k.resident, *[s.axis for s in k.sweeps]]):
            self.places[axis] = self.names(axis.name)
        for axis in [*k.tile[1:], *[s.axis for s in k.sweeps]]:
            if axis not in self.starts:
                self.starts[axis] = self.names(f"{axis.name}_first")
                self.counts[axis] = self.names(f"{axis.name}_count")
        self.lane = plan.facts.lane
        self.visits = any(s.visit for s in k.sweeps)
        self.memory = Memory(plan.tiling, self.places, self.starts)
        self.buffers: list[Buffer] = []
        self.kinds: dict[str, str] = {}
        """The functions that have something to do."""
        self.stages = StagePrinter(plan, self.memory, self.names, self.tensors, self.counts, self.buffers)

    # ------------------------------------------------------------ functions

    def text(self) -> str:
        functions = self._functions()
        parts = [self._header(), "namespace fl {", "namespace {", self._structs(), *functions, self._task(),
                 "}  // namespace", self._entry(), "}  // namespace fl", ""]  # fmt: skip
        return "\n\n".join(parts)

    def _functions(self) -> list[str]:
        """The functions that have something to do."""
        functions = []
        for f in self._bodies():
            if f.lines:
                functions.append(self._function(f))
                self.kinds[f.name] = f.kinds
            for places in (self.tensors, self.places, self.starts, self.counts):
                places.forget()
        return functions

    def _bodies(self) -> Iterator[_Function]:
        """Every function in order; what a body reads is known when it is asked for."""
        plan, s = self.plan, self.stages
        yield _Function(
            "setup", "w", "once a task: what neither the lane nor the sweep changes", s.nests(plan.tile, None)
        )
        yield _Function("prologue", "pw", "once a panel: what the sweeps do not change", s.nests(plan.prologue, None))
        for i, planned in enumerate(plan.loops):
            loop = planned.loop
            assert loop is not None
            name = f"sweep{i}"
            yield _Function(f"{name}_shared", "w", "a block, for all panels", s.nests(planned.shared, loop))
            start = [*s.identities(loop), *s.nests(planned.start, loop)]
            yield _Function(f"{name}_start", "pw", "before the first block", start)
            kinds = "pwf" if loop.visit else "pw"
            yield _Function(f"{name}_block", kinds, "a block for one panel", s.block(planned.block, loop))
            if loop.exact is not None:
                doc = "whether skipping blocks was exact, for every row"
                yield _Function(f"{name}_exact", "pwb", doc, s.exact(loop.exact))
        stores = [*s.nests(plan.epilogue.shared, None), *s.nests(plan.epilogue.block, None)]
        yield _Function("epilogue", "pw", "once a panel", stores)

    def _function(self, f: _Function) -> str:
        """A function that unpacks what its body has asked for."""
        head = []
        for t in (t for t in self.tensors if t in self.tensors.read):
            const = "const " if any(t == i.name for i in self.kernel.inputs) else ""
            name = self.tensors[t]
            head.append(f"{const}{C_TYPES[self.kernel.tensor(t).dtype]}* __restrict {name} = t.{name};")
        grid = [self.places[a] for a in self.kernel.grid if a in self.places.read]
        ends = [p[a] for p in (self.starts, self.counts) for a in p if a in p.read]
        head += [f"const long {n} = g.{n};" for n in [*grid, *ends]]
        if self.lane is not None and "p" in f.kinds:
            if self.lane in self.places.read:
                head.append(f"const long {self.places[self.lane]} = p.first;")
            if self.lane in self.places.lanes:
                vector = self.places.positions(self.lane)
                head.append(f"const I {vector} = positions({self.places[self.lane]}, {self.lane.last});")
            head.append("const long live = p.live;")
        panel = "Panel& p, " if "p" in f.kinds else ""
        returned = "bool" if "b" in f.kinds else "void"
        lines = [f"// {f.doc}", *(["template <bool FULL>"] if "f" in f.kinds else []),
                 f"static {returned} {f.name}(const Tensors& t, const Tile& g, {panel}Work& w) {{"]  # fmt: skip
        return "\n".join([*lines, *[f"  {x}" for x in [*head, *f.lines]], "}"])

    # ------------------------------------------------------------ data

    def _header(self) -> str:
        lines = [f"// {x}" for x in kernel_text(self.kernel).splitlines()]
        double = ["#define FL_DOUBLE 1"] if self.kernel.accumulate is torch.float64 else []
        return "\n".join([*lines, *double, f"#define FL_BITS {self.tiling.bits}", '#include "flashlight.h"'])

    def _structs(self) -> str:
        members = [f"{'const ' if t in self.kernel.inputs else ''}{C_TYPES[t.dtype]}* {self.tensors[t.name]};"
                   for t in self.kernel.inputs + self.kernel.outputs]  # fmt: skip
        grid = [f"long {self.places[a]};" for a in self.kernel.grid]
        blocks = [f"long {self.starts[a]}, {self.counts[a]};" for a in self.starts]
        blocks += ["long visited;  // key blocks of swept axes that were not skipped"] if self.visits else []
        panel = ["long first, live;  // position of lane 0, lanes that exist"]
        work: list[str] = []
        for b in self.buffers:
            (panel if b.level in PANEL_LEVELS else work).append(self.memory.declare(b))
        return "\n".join(
            [
                _struct("Tensors", members),
                _struct("Tile", grid + blocks),
                _struct("Panel", panel),
                _struct("Work", work),
            ]
        )

    # ------------------------------------------------------------ control

    def _call(self, name: str, indent: str = "  ") -> list[str]:
        """The call of a function, if it has something to do; for every panel if it is one of a panel."""
        if name not in self.kinds:
            return []
        return [f"{indent}{EACH} {name}(t, g, p[i], w);" if "p" in self.kinds[name] else f"{indent}{name}(t, g, w);"]

    def _task(self) -> str:
        """One task: all panels of a tile through all sweeps."""
        lines = ["static void run_task(const Tensors& t, Tile& g, long panels, Panel* p, Work& w) {"]
        lines += [*self._call("setup"), *self._call("prologue")]
        for i, s in enumerate(self.plan.loops):
            assert s.loop is not None
            print_loop = self._loop if s.loop.visit is None else self._visiting
            lines += print_loop(f"sweep{i}", s.loop)
        return "\n".join([*lines, *self._call("epilogue"), "}"])

    def _loop(self, name: str, loop: Loop) -> list[str]:
        axis = loop.axis
        first, count, block = self.starts[axis], self.counts[axis], self.tiling.extent(axis)
        return [
            *self._call(f"{name}_start"),
            f"  for (g.{first} = 0; g.{first} < {axis.size}; g.{first} += {block}) {{",
            f"    g.{count} = {axis.size} - g.{first} < {block} ? {axis.size} - g.{first} : {block};",
            *self._call(f"{name}_shared", "    "),
            *self._call(f"{name}_block", "    "),
            "  }",
        ]

    def _visiting(self, name: str, loop: Loop) -> list[str]:
        """A loop that skips blocks."""
        axis, visit, longest = loop.axis, loop.visit, self.tiling.extent(loop.axis)
        assert visit is not None
        key_block = step(loop, longest)
        rows = "p[0].first, p[panels - 1].first + p[panels - 1].live - 1"
        one = "p[i].first, p[i].first + p[i].live - 1"
        lines = [
            *self._test(f"{name}_test", loop),
            f"const auto {name} = [&](const auto& test) {{",
            *self._call(f"{name}_start"),
            f"  visit(0, {axis.size}, {key_block}, {longest}, {coarse(loop, visit)}, test({rows}),",
            "        [&](long first, long count, bool full) {",
            f"    g.{self.starts[axis]} = first, g.{self.counts[axis]} = count;",
            f"    g.visited += (count + {key_block - 1}) / {key_block};",
            *self._call(f"{name}_shared", "    "),
            f"    if (full) {EACH} {name}_block<true>(t, g, p[i], w);",
            f"    else if (panels == 1) {name}_block<false>(t, g, p[0], w);",
            f"    else {EACH} {{",
            *(f"      {x}" for x in self._partial(name, loop, f"test({one})")),
            "    }",
            "  });",
            "};",
            f"{name}({name}_test);",
        ]
        if loop.exact is not None:
            lines += [
                f"bool {name}_right = true;",
                f"{EACH} {name}_right = {name}_right && {name}_exact(t, g, p[i], w);",
                f"if (!{name}_right) {name}([](long, long) {{ return [](long, long) {{ return 1; }}; }});",
            ]
        return [f"  {x}" for x in lines]

    def _partial(self, name: str, loop: Loop, test: str) -> list[str]:
        """A partial block for one panel: cut again for its own rows, unless panels share what was made of the block."""
        axis, longest = loop.axis, self.tiling.extent(loop.axis)
        key_block = step(loop, longest)
        if f"{name}_shared" in self.kinds:
            return [
                f"const int kind = kind_of({test}, first, count, {key_block});",
                f"if (kind == 2) {name}_block<true>(t, g, p[i], w);",
                f"else if (kind) {name}_block<false>(t, g, p[i], w);",
            ]
        return [
            f"visit(first, first + count, {key_block}, {longest}, 1, {test}, [&](long from, long length, bool all) {{",
            f"  g.{self.starts[axis]} = from, g.{self.counts[axis]} = length;",
            f"  if (all) {name}_block<true>(t, g, p[i], w);",
            f"  else {name}_block<false>(t, g, p[i], w);",
            "});",
        ]

    def _test(self, name: str, loop: Loop) -> list[str]:
        """The test of blocks, with what it names."""
        assert loop.visit is not None
        rows = {}
        for i, axis in enumerate(self.kernel.tile):
            start, count = self.starts.of(axis), self.counts.of(axis)
            rows[axis] = ("rows_first", "rows_last") if i == 0 else (f"g.{start}", f"g.{start} + g.{count} - 1")
        places = {a: f"g.{n}" if a in self.kernel.grid else n for a, n in self.places.items()}
        tensors = {t: f"t.{n}" for t, n in self.tensors.items()}
        test = TestPrinter(self.plan.facts, self.names, places, tensors, rows).lines(name, loop, loop.visit)
        return ["// 0: a block is skipped, 1: it needs masks, 2: it does not", *test]

    def _entry(self) -> str:
        k = self.kernel
        lanes, panels = self.tiling.lanes(k.accumulate), self.tiling.panels
        rows = self.lane.size if self.lane else 1
        tiles = math.ceil(rows / (lanes * panels))
        second = k.tile[1] if len(k.tile) > 1 else None
        sizes = [a.size for a in k.grid] + ([second.blocks(self.tiling.extent(second))] if second else [])
        if not k.in_order:
            sizes.append(tiles)
        casts = []
        for i, t in enumerate(k.inputs + k.outputs):
            const = "const " if t in k.inputs else ""
            casts.append(f"({const}{C_TYPES[t.dtype]}*)tensors[{i}]")
        lines = [
            "struct Thread { Tasks tasks; Panel p[PANELS]; Work w; };",
            f"// {' x '.join(map(str, sizes))} tasks; returns 0, or 1 when there is no memory for scratch",
            f'extern "C" int {self.entry}(void* const* tensors, long threads, long* visited) {{',
            f"  const Tensors t = {{{', '.join(casts)}}};",
            "  Thread* memory = (Thread*)aligned_alloc(64, threads * sizeof(Thread));",
            "  if (!memory) return 1;",
            "  for (long i = 0; i < threads; ++i)",
            f"    memory[i].tasks = {{{math.prod(sizes)} * i / threads, {math.prod(sizes)} * (i + 1) / threads}};",
            f"#pragma omp parallel num_threads(threads) if ({'threads > 1' if self._large() else 'false'})",
            "  {",
            "    const TileState state;",
            "    const long me = omp_get_thread_num();",
            "    Thread& own = memory[me];",
            "    for (long i = 0; i < threads; ++i) "
            "for (long task; (task = memory[(me + i) % threads].tasks.take()) >= 0;) {",
            f"      Tile g{'{}' if self.visits else ''};",
            "      long rest = task;",
            *[f"      {x}" for x in self._decode(tiles, second)],
            *[f"      {x}" for x in self._tiles(tiles, rows)],
            *(["#pragma omp atomic", "      *visited += g.visited;"] if self.visits else []),
            "    }",
            "  }",
            "  free(memory);",
            "  return 0;",
            "}",
        ]
        return "\n".join([f"constexpr long PANELS = {panels};", *lines])

    def _tiles(self, tiles: int, rows: int) -> list[str]:
        """The tile of a task, or all tiles of its grid position in order."""
        lines = [
            "long panels = 0;",
            f"for (long first = tile * PANELS * W; panels < PANELS && first < {rows}; first += W, ++panels)",
            f"  own.p[panels].first = first, own.p[panels].live = {rows} - first < W ? {rows} - first : W;",
            "run_task(t, g, panels, own.p, own.w);",
        ]
        if not self.kernel.in_order:
            return lines
        return [f"for (long tile = 0; tile < {tiles}; ++tile) {{", *(f"  {x}" for x in lines), "}"]

    def _large(self) -> bool:
        """Whether there is more to do than starting threads costs."""
        return sum(volume(c.step.args[0].free) for c in self.kernel.carries) > cpu.ONE_THREAD

    def _decode(self, tiles: int, second: Axis | None) -> list[str]:
        """Task number to grid position, tile and block of a second tile axis; tiles of one position are neighbours."""
        lines = []
        if second is not None:
            block = self.tiling.extent(second)
            first, count = self.starts[second], self.counts[second]
            blocks = second.blocks(block)
            lines.append(f"g.{first} = rest % {blocks} * {block}, rest /= {blocks};")
            lines.append(f"g.{count} = {second.size} - g.{first} < {block} ? {second.size} - g.{first} : {block};")
        if not self.kernel.in_order:
            lines.append(f"const long tile = rest % {tiles};")
            lines.append(f"rest /= {tiles};")
        return lines + [
            f"g.{self.places[axis]} = rest % {axis.size}, rest /= {axis.size};" for axis in reversed(self.kernel.grid)
        ]


def _struct(name: str, members: list[str]) -> str:
    if not members:
        return f"struct {name} {{}};"
    return "\n".join([f"struct {name} {{", *[f"  {m}" for m in members], "};"])
