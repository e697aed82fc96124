"""Every attention of the zoo against eager in float64.

Traced with Inductor's decompositions, which gives the operations that compile_fx would, ten times sooner; test_programs
goes through compile_fx itself.
"""

import pytest
import torch

from flashlight.base.errors import Decline
from flashlight.front.lowering import can_lower
from flashlight.front.lowering.engine import ancestors
from tests.lowering.harness import Captured, capture, check, decomposed
from tests.zoo import ZOO, Size
from tests.zoo.declines import DECLINES

SMALL = Size(batch=2, heads=3, queries=7, keys=9, dim=16, dim_v=24)


def rounds(captured: Captured) -> bool:
    """Whether the program itself computes something in less than float64."""
    values = [n.meta.get("val") for n in captured.graph.nodes]
    return any(isinstance(v, torch.Tensor) and v.is_floating_point() and v.dtype != torch.float64 for v in values)


@pytest.mark.parametrize("variant", ZOO, ids=lambda v: v.id)
def test_zoo(variant):
    dtype = torch.float64 if torch.float64 in variant.dtypes else variant.dtypes[0]
    args = variant.make(SMALL, dtype, 0)
    captured = decomposed(variant.fn, args)
    assert [r for n in ancestors(captured.outputs, ()) if (r := can_lower(n))] == []
    check(variant.fn, *args, how=lambda fn, a: captured, tol=1e-5 if rounds(captured) else 1e-10)


@pytest.mark.parametrize("case", DECLINES, ids=lambda c: c.name)
def test_declines(case):
    args = case.make(SMALL, case.dtype, 0)
    with torch._dynamo.config.patch(**case.dynamo):
        captured = capture(case.fn, args)
    reasons = [r.reason for n in captured.graph.nodes if (r := can_lower(n))]
    with pytest.raises(Decline):
        captured.run()
    assert case.reason in " ".join(reasons).lower()
