"""Training steps of the Must-fuse list on the device: outputs and gradients are right in bfloat16 and in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.gpu.check import DEVICE, FIRST, SEEDS, SIZE, SLACK, TARGET, to_device
from tests.harness import as_double, doubled, leaves, rms_ratio
from tests.training import differentiable, eager_step, tangents_of, train_only

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", FIRST)
def test_training(name: str, dtype: torch.dtype, tmp_path, record_property) -> None:
    variant = FIRST[name]
    if dtype not in variant.dtypes:
        pytest.skip("eager does not run it in this dtype")
    compiled = train_only(variant.fn, str(tmp_path), target=TARGET)
    got, eager, exact = [], [], []
    for seed in range(SEEDS):
        args = to_device(variant.make(SIZE, dtype, seed), DEVICE)
        tangents = [t.to(DEVICE) for t in tangents_of(variant.fn(*differentiable(args)), seed)]
        got.append(_flat(*compiled.step(args, tangents)))
        eager.append(_flat(*eager_step(variant.fn, args, tangents)))
        with doubled():
            exact.append(_flat(*eager_step(variant.fn, as_double(args), [t.double() for t in tangents])))
    assert any(r.fused for r in compiled.report.regions)
    ratio = rms_ratio(got, eager, exact)
    record_property("ratio", ratio)
    assert ratio <= SLACK, f"{variant.id}: error {ratio:.2f} times eager's"


def _flat(outputs: Any, gradients: list[Any]) -> list[torch.Tensor]:
    return [t.detach() for t in [*leaves(outputs), *(g for g in gradients if g is not None)]]
