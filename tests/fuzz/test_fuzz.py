"""The fuzzer on a few seeds, and the fuzzer itself: programs are valid, faults are seen, good programs not accused."""

from __future__ import annotations

import unittest.mock
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.kernel import Kernel
from flashlight.runtime import targets
from tests.fuzz import gears, memory, runner
from tests.fuzz.data import Input
from tests.fuzz.grammar.skeletons import program
from tests.fuzz.judge import Fault
from tests.fuzz.program import Program, Step, load
from tests.fuzz.shrink import shrink

PLAIN = Program(
    {"B": 2, "M": 65, "N": 300, "D": 16},
    tuple(Input(n, ("B", d, "D")) for n, d in (("q", "M"), ("k", "N"), ("v", "N"))),
    (
        Step("s", "{0} @ {1}.mT", ("q", "k")),
        Step("t", "{0} * 0.25", ("s",)),
        Step("u", "{0}", ("t",)),
        Step("w", "{0}[..., :3] = -INF", ("u",), write=True),
        Step("p", "{0}.softmax(-1)", ("w",)),
        Step("o", "{0} @ {1}", ("p", "v")),
        Step("x", "{0}.sum(-1)", ("p",)),
    ),
    ("o", "x"),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with gears.session() as name:
        yield name


def test_seeds_give_the_same_valid_programs() -> None:
    invalid = 0
    for seed in range(150):
        text = program(seed).script()
        assert text == program(seed).script()
        case = load(text, f"<fuzz {seed}>")
        try:
            case.fn(*case.inputs(0))
        except RuntimeError:
            invalid += 1
    assert invalid <= 3


@pytest.mark.parametrize("train", [False, True])
def test_a_wrong_kernel_is_seen(train: bool, folder: str) -> None:
    def wrong(kernel: Kernel, tensors: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> None:
        evaluate_kernel(kernel, tensors, outputs)
        for x in outputs.values():
            x.flatten()[-1] *= 1 + 1e-4

    plain = replace(PLAIN, steps=tuple(s for s in PLAIN.steps if not s.write), train=train).renamed("w", "u")
    assert runner.judged(plain, "evaluate", folder).faults == []
    with unittest.mock.patch.object(targets, "evaluate_kernel", wrong):
        kinds = {f.kind for f in runner.judged(plain, "evaluate", folder).faults}
    assert kinds & {"wrong", "imprecise"}


def test_what_the_report_lists_is_no_finding(folder: str) -> None:
    """A product of a backward that a region reads: no mark is on it, and the report names it."""
    case = load(replace(program(123), train=True).script(), "<fuzz 123>")
    with torch.no_grad():
        run = gears.run("evaluate", case, folder)
    assert not list(memory.unlisted(case, run))
    with unittest.mock.patch.object(memory, "score_sized", lambda _: []):
        assert list(memory.unlisted(case, run))


def test_shrinking_keeps_the_step_that_matters() -> None:
    small = shrink(PLAIN, lambda p: any("softmax" in s.text for s in p.steps), seconds=20.0)
    assert [s.text for s in small.steps] == ["{0}.softmax(-1)"]
    assert len(small.inputs) == 1


def test_a_crash_of_the_process_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault("internal", "load of t12 in kernel 3")
    assert fault.signature == Fault("internal", "load of t1 in kernel 7").signature


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_evaluated(seed: int, folder: str) -> None:
    verdict = runner.judged(program(seed), "evaluate", folder)
    faults = [f for f in verdict.faults if f.kind != "memory"]
    assert not faults, program(seed).script(title="\n".join(f"{f.kind}: {f.detail}" for f in faults))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 20))
def test_trained(seed: int, folder: str) -> None:
    one = replace(program(seed), train=True)
    faults = [f for f in runner.judged(one, "evaluate", folder).faults if f.kind != "memory"]
    assert not faults, one.script(title="\n".join(f"{f.kind}: {f.detail}" for f in faults))
