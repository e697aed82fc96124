"""Programs of the Must-fuse list compiled for an H100 that is not there: the default tiling never spills.

`python -m bench.offline` does the same at more head dims and for every architecture.
"""

from __future__ import annotations

import pytest
import torch

from bench import offline
from flashlight.base.constants import gpu

ARCH, HEAD_DIM = "sm_90", 64
EXCEPTIONS: dict[str, str] = {
    "ipa": "products that are rounded before they are added take a register more than there are"
}
"""Programs whose default tiling spills, and why; another tiling has to be without."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("program", offline.programs())
def test_no_spills(program: str, cache: str) -> None:
    variant = offline.programs()[program]
    if torch.bfloat16 not in variant.dtypes:
        pytest.skip("not a program of bfloat16")
    found = offline.kernels(variant, HEAD_DIM, torch.bfloat16, cache)
    attempts = gpu.ATTEMPTS if program in EXCEPTIONS else 1
    rows = [offline.measure(program, kernel, HEAD_DIM, "bfloat16", ARCH, attempts) for kernel in found]
    assert rows and all(row.state == "compiled" for row in rows), offline.summary(rows)


def test_table_and_summary(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    flags = f"--programs softmax --archs sm_90 gfx942 --head-dims 64 --out {tmp_path / 'offline.json'}"
    assert offline.main(flags.split()) == 0
    printed = capsys.readouterr().out
    assert "1/1 softmax bfloat16 64: 2 compiled" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith("gfx942")] == [
        ["gfx942", "64", "1", "0", "0"]
    ]
    assert (tmp_path / "offline.json").read_text().count('"program": "softmax"') == 2
