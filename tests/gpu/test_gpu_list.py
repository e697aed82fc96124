"""The Must-fuse list on the device: every program is right in bfloat16 and in float32."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.check import DEVICE, FIRST, TARGET, error_of

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", FIRST)
def test_program(name: str, dtype: torch.dtype, cache: str, record_property) -> None:
    if dtype not in FIRST[name].dtypes:
        pytest.skip("eager does not run it in this dtype")
    record_property("ratio", error_of(FIRST[name], dtype, DEVICE, TARGET, cache))
