"""The custom op: plans in memory and on disk, strides, empty tensors, and what happens when a kernel fails."""

from __future__ import annotations

import base64
import re
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import flashlight
from flashlight.base.cache import Cache
from flashlight.base.errors import FlashlightError
from flashlight.codegen.cpp import available
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program, Tensor
from flashlight.passes.pipeline import compile_program
from flashlight.report.records import RegionReport
from flashlight.runtime import op as runtime
from flashlight.runtime.plan import Plan, plan_key, sources_hash
from tests.test_backend import draw, fresh  # noqa: F401  (a fixture)
from tests.test_regions import joint_graph


def attention(q, k, v):
    return torch.softmax(q @ k.mT * 0.25, -1) @ v


@pytest.fixture
def program() -> Program:
    """Attention over draw()'s tensors, in the order that Dynamo gives them."""
    from flashlight.front.lowering import lower

    graph, _ = joint_graph(attention, draw())
    return lower(graph.output_node().args[0], list(graph.find_nodes(op="placeholder")))  # type: ignore[arg-type]


def plan_of(program: Program, **facts: object) -> Plan:
    schedule = compile_program(program)[0]
    plan = Plan(plan_key(program, str(sorted(facts.items()))), "evaluate", False, "file.py:1", program, schedule)
    for name, value in facts.items():
        setattr(plan, name, value)
    return plan


def register(plan: Plan) -> RegionReport:
    """Make the plan known to the op; the report that is told of failures."""
    report = RegionReport(True, source=plan.source)
    runtime.register(plan, report)
    return report


def op(plan: Plan, inputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.ops.flashlight.fused(inputs, plan.key, plan.text)[0]


def ordered() -> list[torch.Tensor]:
    """k, q, v: graph inputs come in the order of their first use by a stack machine."""
    q, k, v = draw()
    return [k, q, v]


def check(plan: Plan, inputs: list[torch.Tensor] | None = None) -> None:
    expected = attention(*draw()).reshape(plan.program.outputs[0].shape)
    given = inputs or ordered()
    found = op(plan, given)
    other = op(plan, [given[1], given[0], given[2]])
    assert min((found - expected).abs().max(), (other - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("target", ["reference", "evaluate", "triton-interpret"])
def test_runs_on_every_target(program: Program, target: str):
    plan = plan_of(program, target=target)
    register(plan)
    check(plan)


def test_fake_outputs_have_the_planned_layout(program: Program):
    plan = plan_of(program)
    register(plan)
    with FakeTensorMode() as mode:
        (found,) = torch.ops.flashlight.fused([mode.from_tensor(x) for x in ordered()], plan.key, plan.text)
    (out,) = plan.program.outputs
    assert (tuple(found.shape), found.stride(), found.dtype) == (out.shape, out.strides, out.dtype)


def test_torchs_own_checks_of_the_op(program: Program):
    plan = plan_of(program)
    register(plan)
    arguments = (ordered(), plan.key, plan.text)
    torch.library.opcheck(torch.ops.flashlight.fused.default, arguments, test_utils="test_faketensor")


def test_other_strides_are_copied(program: Program):
    plan = plan_of(program, strict=True)
    register(plan)
    check(plan, [x.mT.contiguous().mT for x in ordered()])


def test_wrong_shapes_are_an_error(program: Program):
    plan = plan_of(program, strict=True)
    register(plan)
    with pytest.raises(FlashlightError, match="got torch"):
        op(plan, [x[:1] for x in ordered()])


def test_a_document_is_enough(program: Program, tmp_path):
    """Another process, without memory of the plan."""
    plan = plan_of(program, target="reference")
    cache = Cache(tmp_path / "cache")
    cache.put(plan.key, plan.to_document())
    again = Plan.from_document(plan.key, cache.get(plan.key) or {})
    assert (again.program, again.schedule) == (plan.program, plan.schedule)
    runtime.forget()
    runtime.use_cache(str(tmp_path / "cache"))
    check(plan)


def test_the_text_of_a_plan_is_enough(program: Program):
    """What the op carries: without lines, and of characters that any generated code can quote."""
    plan = plan_of(program, cache_dir="/a/directory")
    again = Plan.from_text(plan.key, plan.text)
    assert (again.program, again.schedule, again.cache_dir) == (plan.program, plan.schedule, plan.cache_dir)
    assert program.origins and not again.program.origins and not again.source
    bare = replace(plan, source="elsewhere.py:7", program=replace(program, origins={}))
    assert bare.text == plan.text and re.fullmatch("[A-Za-z0-9+/=]{,2000}", plan.text)


@pytest.mark.parametrize("text", ["", "plan", "====", base64.b64encode(zlib.compress(b"[]")).decode()])
def test_a_text_that_is_no_plan_is_an_error(text: str):
    with pytest.raises((ValueError, KeyError, TypeError)):
        Plan.from_text("0" * 64, text)


def test_the_op_needs_nothing_but_its_arguments(program: Program):
    plan = plan_of(program, cache_dir=None)
    runtime.forget()
    check(plan)
    assert Cache().get(plan.key), "and keeps it for the next process"
    assert runtime.find_plan(plan.key).program == program


@pytest.mark.skipif(available() is not None, reason=str(available()))
def test_each_plan_uses_its_own_cache(program: Program, tmp_path: Path):
    """Not the first of the process; one that is refused is neither read nor written, and the kernel runs."""
    first, second, public = (tmp_path / name for name in ("first", "second", "public"))
    public.mkdir()
    public.chmod(0o777)
    for folder in (first, second, public):
        plan = plan_of(program, target="cpp", cache_dir=str(folder))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = register(plan)
            check(plan)
        assert report.fused and bool(caught) == (folder is public)
    assert [len(list(folder.glob("native/*.so"))) for folder in (first, second)] == [1, 1]
    assert not list(public.iterdir())


def test_a_plan_that_nobody_has():
    runtime.forget()
    with pytest.raises(FlashlightError, match="no plan 00000"):
        runtime.find_plan("0" * 64)


def test_keys_ignore_lines_and_know_options(program: Program):
    bare = Program(program.inputs, program.outputs, program.stores)
    assert plan_key(bare, "a") == plan_key(program, "a") != plan_key(program, "b")
    assert sources_hash() == sources_hash()


# ---------------------------------------------------------------- failures


def broken(plan: Plan) -> Plan:
    """A plan whose kernel reads a tensor that does not exist."""
    (kernel,) = plan.schedule.kernels
    lost = tuple(Tensor(f"lost{i}", t.shape, t.strides, t.dtype) for i, t in enumerate(kernel.outputs))
    changed = type(kernel)(**{**{f: getattr(kernel, f) for f in kernel.__dataclass_fields__}, "outputs": lost})
    stores = tuple(type(s)("lost0", s.index, s.value) for s in kernel.stores)
    changed = type(kernel)(**{**{f: getattr(changed, f) for f in kernel.__dataclass_fields__}, "stores": stores})
    plan.schedule = Schedule((changed,))
    return plan


def test_a_failing_kernel_is_replaced_by_inductor_with_one_warning(program: Program):
    plan = broken(plan_of(program, case="fallback"))
    runtime.forget()
    report = register(plan)
    with pytest.warns(UserWarning, match=r"file.py:1: the kernel failed"):
        check(plan)
    assert not report.fused and "failed to compile or run" in (report.reason or "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(plan)


def test_a_failing_kernel_raises_when_strict(program: Program):
    plan = broken(plan_of(program, strict=True, case="strict"))
    runtime.forget()
    register(plan)
    with pytest.raises(FlashlightError, match=r"file.py:1: the kernel failed"):
        op(plan, ordered())


@pytest.mark.parametrize("empty", [(0, 3, 5, 4), (2, 3, 0, 4)])
def test_empty_tensors_launch_nothing(empty: tuple[int, ...]):
    q, k = torch.randn(empty), torch.randn(*empty[:2], 7, 4)
    with torch.no_grad():
        found = torch.compile(attention, backend="flashlight")(q, k, k)
    assert found.shape == empty


def test_no_keys_give_what_eager_gives():
    def sigmoid(q, k, v):
        return torch.sigmoid(q @ k.mT) @ v

    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 0, 4)
    with torch.no_grad():
        found = torch.compile(sigmoid, backend="flashlight")(q, k, k)
    torch.testing.assert_close(found, sigmoid(q, k, k))
    assert flashlight.reports()
