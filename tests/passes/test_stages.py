"""The schedule is decided by named passes, each of which says what it made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from flashlight.base.errors import InternalError
from flashlight.ir.checks import check_schedule
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Index, Map, Program
from flashlight.passes.pipeline import LAWS, PIPELINE, SCHEDULE, Stage, compile_program
from flashlight.passes.sparsity.share import parted
from tests.dsl import Builder, div, exp, mul, number, total
from tests.passes.masks import integers
from tests.passes.test_schedule import E, H, M, N, normalised, scores

ROWS, KEYS, WIDE = Axis("o1", 512), Axis("n", 512), Axis("d", 64)


def stages(program: Program) -> dict[str, Stage]:
    """What each pass made, by its name."""
    stage: Any = program
    by_pass = {}
    for name, step in PIPELINE:
        by_pass[name] = stage = step(stage)
    return by_pass


def masked(two_maps: bool = False) -> Program:
    """Rows over the keys up to their own, and with two_maps the weights as well."""
    b = Builder()
    s = Map("WHERE", Map("LE", Index(of(N)), Index(of(M))), scores(b), number(-math.inf))
    p = normalised(s)
    b.store(total(N, mul(p, b.at("v", H, N, E))), H, M, E)
    if two_maps:
        b.store(p, H, M, N)
    return b.program


def by_document() -> Program:
    """Rows over the keys of their document, of which they have summaries."""
    b = Builder()
    s = total(WIDE, mul(b.at("q", H, ROWS, WIDE), b.at("k", H, KEYS, WIDE)))
    same = Map("EQ", integers(b, "ids", torch.int64, ROWS), integers(b, "docs", torch.int64, KEYS))
    p = normalised(Map("WHERE", same, s, number(-math.inf)), KEYS)
    b.store(total(KEYS, mul(p, b.at("v", H, KEYS, E))), H, ROWS, E)
    return b.program


@pytest.mark.parametrize("program", [masked, by_document, lambda: masked(True)], ids=["mask", "ids", "weights"])
def test_every_stage_prints_itself_and_the_last_is_the_schedule(program: Callable[[], Program]) -> None:
    by_pass = stages(program())
    assert all(str(stage) for stage in by_pass.values())
    assert by_pass["share"] == compile_program(program())[0]


def test_each_decision_shows_where_it_is_taken() -> None:
    by_pass = stages(masked(two_maps=True))
    assert "sweep x < 11, rows o0 < 2, o1 < 6" in str(by_pass["sweeps"])
    assert str(by_pass["group"]).count("group attention") == 1
    assert "tile " not in str(by_pass["group"]) and "tile   o1 < 6" in str(by_pass["tile"])
    assert "sum=" not in str(by_pass["tile"]) and "rescaled by" in str(by_pass["stream"])
    assert "sweep y" not in str(by_pass["stream"]) and "sweep y" in str(by_pass["maps"])
    assert "grid   o0 < 2" in str(by_pass["kernels"])


def test_tests_of_blocks_and_their_summaries_come_last() -> None:
    by_pass = stages(by_document())
    assert "blocks where" not in str(by_pass["kernels"]) and "blocks where" in str(by_pass["visits"])
    assert "summaries\n" in str(by_pass["visits"])
    names = [k.name.partition("_")[0] for k in compile_program(by_document())[0].kernels]
    assert names[0] == "summary" and names[-1] == "attention0"


def test_the_trace_has_what_changed_something() -> None:
    names = [name for name, _ in compile_program(masked())[1]]
    assert names[0] == "lowered" and names[-4:] == ["tile", "stream", "kernels", "summaries"]
    assert "joint" not in names and "maps" not in names
    assert [name for name, _ in (*LAWS, *SCHEDULE)] == [name for name, _ in PIPELINE]


def test_only_summaries_of_inputs_are_shared() -> None:
    program = by_document()
    schedule, _ = compile_program(program)
    first, rest, own = parted(program, schedule)
    assert first is not None and {t.name for t in first[0].inputs} == {"docs"}
    assert set(rest.inputs) - set(program.inputs) == set(first[0].outputs)
    assert len(first[1].kernels) + len(own.kernels) == len(schedule.kernels)


def two_kernels() -> tuple[Program, Schedule]:
    """Normalised over the rows, then over the keys: sums over the rows are a temporary."""
    b = Builder()
    e = exp(scores(b))
    b.store(total(N, mul(div(e, total(M, e)), b.at("v", H, N, E))), H, M, E)
    return b.program, compile_program(b.program)[0]


def test_a_schedule_is_a_graph_of_kernels() -> None:
    _, schedule = two_kernels()
    first, last = schedule.kernels
    (sums,) = schedule.temporaries
    assert schedule.writers == {sums.name: first, "out0": last}
    assert sums in last.inputs
    assert not schedule.saved
    assert replace(schedule, kernels=(first, replace(last, phase="backward"))).saved == (sums,)


def test_temporaries_have_one_layout() -> None:
    program, schedule = two_kernels()
    (sums,) = schedule.temporaries
    check_schedule(schedule, program)
    with pytest.raises(InternalError, match="row-major"):
        check_schedule(replace(schedule, temporaries=(replace(sums, strides=sums.strides[::-1]),)), program)
