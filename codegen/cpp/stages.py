"""Stages of the plan as C++ lines."""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.codegen.cpp.carries import CarryPrinter
from flashlight.codegen.cpp.emit import C_TYPES, SCALARS, Emitter
from flashlight.codegen.cpp.facts import affine
from flashlight.codegen.cpp.memory import LANE_TYPES
from flashlight.codegen.cpp.order import POINTWISE
from flashlight.codegen.cpp.search import find_search
from flashlight.codegen.cpp.structure import Buffer, Nest, Stage
from flashlight.codegen.tile import Loop
from flashlight.codegen.tile.contractions import Contraction
from flashlight.ir.index import Axis, Expr
from flashlight.ir.program import Load, Node, Reduce, Store


class StagePrinter(CarryPrinter):
    """Prints nests of stages.  full: conditions that full blocks leave out; masked: what only they use."""

    full: frozenset[Node] = frozenset()
    masked: frozenset[Node] = frozenset()

    def emitter(self, nest: Nest, axes: Sequence[Axis] = ()) -> Emitter:
        em = super().emitter(nest, axes)
        em.full = self.full
        return em

    def block(self, nests: Sequence[Nest], loop: Loop) -> list[str]:
        """The nests of a block, in which FULL says whether nothing is masked."""
        self.full = frozenset(loop.visit.conditions if loop.visit else ())
        self.masked = loop.only_masked
        lines = self.nests(nests, loop)
        self.full = self.masked = frozenset()
        return lines

    def exact(self, exact: Node) -> list[str]:
        """Whether skipping blocks was exact for all rows of a panel."""
        self.loop = None
        em = self.emitter([], self.facts.ordered(exact.free))
        value = em.as_kind(em.value(exact), "bool")
        em.line(f"exact = exact & {em.lift(value, 'B')};")
        return ["B exact = all<B>(1);", *em.close(), "return every_lane(exact, live);"]

    def nests(self, nests: Sequence[Nest], loop: Loop | None) -> list[str]:
        self.loop = loop
        lines: list[str] = []
        done: set[int] = set()
        for i, nest in enumerate(nests):
            lead = nest[0]
            if i in done:
                continue
            if lead.kind == "contract" and i + 1 < len(nests) and self._follows(lead, nests[i + 1]):
                lines += self._pointwise(nests[i + 1], lead, nest)
                done.add(i + 1)
            elif self.masked and all(s.node in self.masked for s in nest):
                lines += ["if (!FULL) {", *(f"  {x}" for x in self._nest(lead, nest)), "}"]
            else:
                lines += self._nest(lead, nest)
        return lines

    def _nest(self, lead: Stage, nest: Nest) -> list[str]:
        if lead.kind not in POINTWISE:
            return getattr(self, f"_{lead.kind}")(lead, nest)
        if lead.level in ("tile", "shared") and lead.out is not None and not lead.out.lanes:
            return self._scalar_map(lead)
        return self._pointwise(nest)

    def _follows(self, s: Stage, nest: Nest) -> bool:
        """Whether a nest can process the rows of a contraction as they are made."""
        p = s.product
        if p is None or nest[0].kind not in POINTWISE or len(p.sums) > 1:
            return False
        return (*self.facts.ordered(p.batch), p.row) == nest[0].axes

    def _pointwise(self, nest: Nest, source: Stage | None = None, source_nest: Nest | None = None) -> list[str]:
        """Fused loops over lanes; over the rows of a contraction, while they are made, where there is one."""
        if source is None or source.product is None or source.out is None:
            em = self.emitter(nest, nest[0].axes)
        else:
            *outer, row = nest[0].axes
            em = self.emitter(nest, outer)
            call = self._contraction_call(em, source, source.product, self._declare(source.out), False)
            a, start = self.places[row], self.bounds(row)[0]
            base = "" if start == "0" else f"{start} + "
            head = f"{call}, [&](long first, long end) {{ for (long {a} = {base}first; {a} < {base}end; ++{a})"
            em.open(row, head, "}});")
        for s in nest:
            for d in s.deps:
                if s.out is not None and s.out.home is not None and d.out is s.out.home:
                    em.value(d.node)
        for s in nest:
            if s.kind == "map":
                self._keep(em, s, nest)
            elif s.kind == "carry":
                self._accumulate(em, s)
            else:
                self._store(em, s)
        return em.close()

    def _keep(self, em: Emitter, s: Stage, nest: Nest) -> None:
        value = em.value(s.node)
        assert s.out is not None
        if all(r is nest for r in self.readers.get(s, [])):
            return
        kind = LANE_TYPES[s.out.kind]
        em.line(
            f"put<{kind}>({self.memory.pointer(self._declare(s.out))}, {em.lift(self._fit(em, value, kind), kind)});"
        )

    def _scalar_map(self, s: Stage) -> list[str]:
        """Values without lanes: the lanes of the vectors run over their last axis."""
        assert s.out is not None
        self._declare(s.out)
        if not s.out.axes:
            em = self.scalar_emitter([s])
            em.line(f"*{self.memory.pointer(s.out)} = {em.value(s.node).text};")
            return em.close()
        if isinstance(s.node, Reduce) and self.facts.adds_neighbours(s.node, self.plan.lanes):
            return self._sum_of_neighbours(s, s.node)
        *outer, lane = s.out.axes
        em = self.scalar_emitter([s], lane, outer, f"{self.places[lane]}_live")
        a, (start, count) = self.places[lane], self.bounds(lane)
        em.open(lane, self.loop_head(lane, "W"))
        end = count if start == "0" else f"{start} + {count}"
        em.line(f"const long {em.live} = {end} - {a};")
        em.line(f"const I {a}_lanes = positions({a}, {lane.last});")
        value = em.value(s.node)
        kind = {"real": "F", "bool": "B"}.get(s.out.kind, "J")
        em.line(f"store({self.memory.pointer(s.out)}, {em.lift(self._fit(em, value, kind), kind)}, {em.live});")
        return em.close()

    def _sum_of_neighbours(self, s: Stage, n: Reduce) -> list[str]:
        """Sums without lanes of what is contiguous along their axis: the lanes of the vectors run over that."""
        assert s.out is not None
        em = self.scalar_emitter([s], n.axis, s.out.axes, "W")
        total = self.new("sum")
        em.line(f"Sum<F> {total};")
        em.scopes[-1].after.append(f"*({self.memory.pointer(s.out)}) = add_lanes({total}.value());")
        em.open(n.axis, self.loop_head(n.axis, "W"))
        em.line(f"{total}.add({em.lift(em.value(n.body), 'F')});")
        return em.close()

    # ------------------------------------------------------------ contractions

    def _product(self, s: Stage, nest: Nest) -> list[str]:
        """A carry by contraction."""
        f = s.fold
        assert f is not None and s.product is not None
        lines = self._move(s) if f.moves or f.carry in self.before else []
        return [*lines, *self._contraction(s, s.product, self.carries[f.carry], nest, True)]

    def _contract(self, s: Stage, nest: Nest) -> list[str]:
        assert s.product is not None and s.out is not None
        return self._contraction(s, s.product, self._declare(s.out), nest, False)

    def _contraction(self, s: Stage, product: Contraction, out: Buffer, nest: Nest, add: bool) -> list[str]:
        em = self.emitter(nest, self.facts.ordered(product.batch))
        several = len(product.sums) > 1
        if several and not add:
            at = self.memory.pointer(out, (product.row, product.inner))
            em.line(f"memset({at}, 0, {self._rows_bytes(out, product.row)});")
        for axis in product.sums[:-1]:
            em.open(axis, self.loop_head(axis))
        em.line(f"{self._contraction_call(em, s, product, out, add or several)});")
        return em.close()

    def _contraction_call(self, em: Emitter, s: Stage, product: Contraction, out: Buffer, add: bool) -> str:
        """The call, its last parenthesis left open."""
        row, inner = fixed = (product.row, product.inner)
        lanes = next(d.out for d in s.deps if d.node is product.left and d.kind in ("pairs", "map", "pack", "contract"))
        assert lanes is not None
        scalars = next((d.out for d in s.deps if d.node is product.right and d.out and not d.out.lanes), None)
        pairs = self.facts.in_pairs(product)
        l_steps, o_steps = self.memory.strides(lanes), self.memory.strides(out)
        if scalars is not None:
            steps = self.memory.strides(scalars)
            rs, ks, source = steps[row], steps[inner], self.memory.pointer(scalars, fixed)
        else:
            rs, ks, source = self._in_place(em, product, fixed)
            ks *= 2 if pairs else 1
        args = [f"{rs}", f"{ks}", f"{l_steps[inner]} * W", f"{o_steps[row]} * W", "true" if add else "false"]
        count = self.bounds(inner)[1]
        if pairs:
            count = f"({count} + 1) / 2"
        return (f"contract<{', '.join(args)}>({source}, {self.memory.pointer(lanes, fixed)}, "
                f"{self.memory.pointer(out, fixed)}, {self.bounds(row)[1]}, {count}")  # fmt: skip

    def _rows(self, s: Stage, nest: Nest) -> list[str]:
        """A sum over the lanes of a panel, added to rows of an output."""
        product, store, loop, lane = s.product, s.store, self.loop, self.facts.lane
        assert product is not None and store is not None and loop is not None and lane is not None
        left, right = (d.out for d in s.deps)
        assert left is not None and right is not None
        x, row, padded = loop.axis, product.row, right.axes[-1]
        em = self.emitter(nest, self.facts.ordered(product.batch | product.m - {x}))
        e = self.facts.tensors[store.tensor].offset(store.index)
        step = e.coefficient(x)
        e = e - Expr([(x, step), (row, e.coefficient(row))])
        out = " + ".join([self.tensors[store.tensor], em.scalar_expr(e), f"{self.memory.starts.of(x)} * {step}"])
        sides = f"{self.memory.pointer(left, (x,))}, {self.memory.pointer(right, (padded,))}"
        em.line(f"add_rows<{self.memory.strides(left)[x]} * W, {padded.size}>({sides}, {out}, {step}, "
                f"{self.bounds(x)[1]}, live, {row.size});")  # fmt: skip
        return em.close()

    def _turn(self, s: Stage, nest: Nest) -> list[str]:
        """Rows of lanes, transposed in scratch."""
        source, out = s.deps[0].out, s.out
        assert source is not None and out is not None and s.along is not None
        self._declare(out)
        padded = out.axes[-1]
        em = self.emitter(nest, [a for a in source.axes if a != s.along])
        em.line(f"unpack<F>({self.memory.pointer(out, (padded,))}, {padded.size}, "
                f"{self.memory.pointer(source, (s.along,))}, {self.memory.strides(source)[s.along]} * W, "
                f"{s.along.size}, W);")  # fmt: skip
        return em.close()

    def _rows_bytes(self, out: Buffer, row: Axis) -> str:
        steps = self.memory.strides(out)
        assert steps[row] == 1, "rows of an accumulated contraction are neighbours"
        return f"{self.bounds(row)[1]} * W * sizeof(real)"

    def _in_place(self, em: Emitter, product: Contraction, fixed: tuple[Axis, ...]) -> tuple[int, int, str]:
        node = product.right
        assert isinstance(node, Load)
        steps = [self.facts.stride(node, a) or 0 for a in fixed]
        return steps[0], steps[1], self._tensor_at(em, node, fixed)

    def _tensor_at(self, em: Emitter, node: Load, fixed: Sequence[Axis]) -> str:
        """Address of a Load with some axes at the beginning of their block."""
        e = self.facts.linear(node)
        parts = []
        for axis in fixed:
            c = e.coefficient(axis)
            e = e - Expr([(axis, c)])
            start = self.places[axis] if axis == self.facts.lane else self.memory.starts.of(axis)
            if start and c:
                parts.append(start if c == 1 else f"{start} * {c}")
        return " + ".join([self.tensors[node.tensor], em.scalar_expr(e), *parts])

    def _search(self, s: Stage, nest: Nest) -> list[str]:
        """Whether any neighbour in memory is true, or false, for each lane."""
        f, loop, lane = s.fold, self.loop, self.facts.lane
        assert f is not None and loop is not None and lane is not None
        search = find_search(f, self.facts, loop.axis)
        assert search is not None
        em = self.emitter(nest, [a for a in s.axes if a != loop.axis])
        hit, (start, count) = self.new("found"), self.bounds(loop.axis)
        at = self._tensor_at(em, search.load, (lane, loop.axis))
        if search.room is not None:
            count = f"minimum({count}, {em.scalar_expr(search.room)} - {start})"
        stride = affine(self.facts.linear(search.load), lane)
        em.line(f"const B {hit} = any_equal({at}, {stride}, {count}, {str(search.value).lower()}, live);")
        for line in self._update(s, hit):
            em.line(line)
        return em.close()

    # ------------------------------------------------------------ moving data

    def _pack(self, s: Stage, nest: Nest) -> list[str]:
        """A strided load, transposed into rows of lanes."""
        assert s.out is not None and s.along is not None and self.facts.lane is not None and isinstance(s.node, Load)
        out = self._declare(s.out)
        em = self.emitter(nest, [a for a in s.axes if a != s.along])
        step = self.memory.strides(out)[s.along]
        source = self._tensor_at(em, s.node, (self.facts.lane, s.along))
        em.line(f"pack({self.memory.pointer(out, (s.along,))}, {step} * W, {source}, "
                f"{self.facts.stride(s.node, self.facts.lane)}, {self.bounds(s.along)[1]}, live);")  # fmt: skip
        return em.close()

    def _unpack(self, s: Stage, nest: Nest) -> list[str]:
        """Rows of lanes, transposed into an output."""
        store, source = s.store, s.deps[0].out
        assert store is not None and source is not None and s.along is not None and self.facts.lane is not None
        self._declare(source)
        t = self.facts.tensors[store.tensor]
        em = self.emitter(nest, [a for a in s.axes if a != s.along])
        e = t.offset(store.index)
        lane_step = e.coefficient(self.facts.lane)
        e = e - Expr([(self.facts.lane, lane_step), (s.along, e.coefficient(s.along))])
        first = self.memory.starts.of(s.along)
        parts = [
            self.tensors[t.name],
            em.scalar_expr(e),
            f"{self.places[self.facts.lane]} * {lane_step}",
            *([first] if first else []),
        ]
        row = self.memory.strides(source).get(s.along, 0)
        kind = LANE_TYPES[source.kind]
        em.line(f"unpack<{kind}>({' + '.join(parts)}, {lane_step}, {self.memory.pointer(source, (s.along,))}, "
                f"{row} * W, {self.bounds(s.along)[1]}, live);")  # fmt: skip
        return em.close()

    def _pairs(self, s: Stage, nest: Nest) -> list[str]:
        """Rows of floats to rows of bfloat16 pairs."""
        source, out = s.deps[0].out, s.out
        assert source is not None and out is not None and s.along is not None
        self._declare(out)
        em = self.emitter(nest, [a for a in source.axes if a != s.along])
        em.line(f"pair_rows({self.memory.pointer(out, (s.along,))}, {self.memory.pointer(source, (s.along,))}, "
                f"{self.memory.strides(source)[s.along]} * W, {self.bounds(s.along)[1]});")  # fmt: skip
        return em.close()

    def _operand(self, s: Stage, nest: Nest) -> list[str]:
        """The side without lanes as bfloat16 pairs."""
        assert s.out is not None and s.product is not None
        product, out = s.product, self._declare(s.out)
        row, inner = product.row, product.inner
        em = self.scalar_emitter(nest, None, [a for a in out.axes if a not in (row, inner)])
        source = s.deps[0].out if s.deps else None
        if source is not None:
            steps = self.memory.strides(source)
            rs, ks, text = steps[row], steps[inner], self.memory.pointer(source, (row, inner))
        else:
            rs, ks, text = self._in_place(em, product, (row, inner))
        rows, count = self.bounds(row)[1], self.bounds(inner)[1]
        to = self.memory.pointer(out, (row, inner))
        steps = self.memory.strides(out)
        if out.axes[-1] == inner:
            em.line(f"round_rows({to}, {text}, {rs}, {ks}, {rows}, {count}, {steps[row]});")
        elif rs == 1:
            em.line(f"interleave({to}, {text}, {ks}, {count}, {rows}, {steps[inner]});")
        else:
            em.line(f"interleave_strided({to}, {text}, {rs}, {ks}, {count}, {rows}, {steps[inner]});")
        return em.close()

    # ------------------------------------------------------------ outputs

    def _store(self, em: Emitter, s: Stage) -> None:
        store = s.store
        assert store is not None
        t = self.facts.tensors[store.tensor]
        value = em.as_kind(em.value(store.value), t.kind)
        at = em.address(store.index, t.shape, t.strides)
        place, lane = f"{self.tensors[t.name]} + {at.base}", self.facts.lane
        if lane is None or (lane not in store.axes and not (store.add and value.lanes)):
            self._store_one(em, store, f"lane0({value.text})" if value.lanes else value.text, place)
            return
        text = em.lift(value, {"float": "F", "bool": "B"}.get(t.kind) or (value.type if value.lanes else "J"))
        if at.vector is not None:
            em.line(f"{'scatter<true>' if store.add else 'scatter'}({place}, {at.vector}, {text}, live);")
        elif at.step == 1 and not store.add:
            em.line(f"store({place} + {self.places[lane]}, {text}, live);")
        else:
            function = "store_strided<true>" if store.add else "store_strided"
            em.line(f"{function}({place} + {self.places[lane]} * {at.step}, {at.step}, {text}, live);")

    def _store_one(self, em: Emitter, store: Store, text: str, place: str) -> None:
        """What does not differ between lanes, by the first panel."""
        t, lane = self.facts.tensors[store.tensor], self.facts.lane
        guard = f"if ({self.places[lane]} == 0) " if lane is not None else ""
        text = f"{SCALARS[t.kind]}({text})"
        text = f"narrow<{C_TYPES[t.dtype]}>({text})" if t.kind == "float" else text
        em.line(f"{guard}add_to({place}, {text});" if store.add else f"{guard}*({place}) = {text};")
