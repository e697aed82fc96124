"""The benchmark runs and writes what it promises; what it measures is not judged here."""

import json
from pathlib import Path

import pytest
import torch

from bench import products
from bench.__main__ import main
from bench.measure import spread
from bench.report import lengths
from bench.runner import Cell, Figure
from bench.variants import VARIANTS
from flashlight.codegen.cpp import available


def test_one_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--variants causal --lengths 64 --dtypes float32 --contenders sdpa,flashlight --rounds 1 --out"
    assert main([*flags.split(), str(tmp_path)]) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    assert {"cpu", "cores", "threads", "torch", "flags"} <= document["machine"].keys()
    (cell,) = document["cells"]
    assert cell["matmul_rate"] > 0 and cell["copy_bandwidth"] > 0 and cell["flops_floor_ms"] > 0
    sdpa, ours = cell["figures"]
    assert (sdpa["contender"], ours["contender"]) == ("sdpa", "flashlight")
    assert ours["ratio"] == 1 and sdpa["ratio"] > 0 and ours["peak_rss_mib"] > 0
    assert ours["largest_allocation_mib"] == pytest.approx(8 * 64 * 64 * 4 / 2**20)
    assert "fused" in cell["fused"]
    printed = capsys.readouterr().out
    assert "time(contender) / time(flashlight)" in printed and "of floor" in printed


@pytest.mark.skipif(available() is not None, reason=str(available()))
def test_a_training_step(tmp_path: Path) -> None:
    flags = "--variants train:causal --lengths 64 --dtypes float32 --contenders eager,flashlight --rounds 1 --out"
    assert main([*flags.split(), str(tmp_path)]) == 0
    (cell,) = json.loads((tmp_path / "bench.json").read_text())["cells"]
    eager, ours = cell["figures"]
    assert ours["difference"] < 1e-5 and ours["saved_mib"] < eager["saved_mib"]
    assert ours["saved_mib"] == pytest.approx(2 * 8 * 64 * 4 / 2**20)
    assert "fused" in cell["fused"]


@pytest.mark.parametrize("name", VARIANTS)
def test_contenders_compute_the_same(name: str) -> None:
    case = VARIANTS[name](128, torch.float64)
    if case.sdpa is not None:
        torch.testing.assert_close(case.sdpa(*case.inputs), case.fn(*case.inputs), rtol=1e-6, atol=1e-6)


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--variants", "nothing"])
    assert "unknown 'nothing'" in capsys.readouterr().err


def test_time_per_operation_by_length() -> None:
    cells = [
        Cell("full", "float32", n, flops=n * n * 1e6, bytes=1, figures=[Figure("flashlight", t, samples=[t])])
        for n, t in ((512, 10.0), (256, 4.0))
    ]
    words = lengths(cells).split()
    assert words[-10:] == ["full", "float32", "256", "0.061", "1.60", "full", "float32", "512", "0.038", "1.00"]


def test_spread() -> None:
    assert spread([1.0]) == 0.0
    assert spread([1.0, 1.0, 1.0, 9.0]) == pytest.approx(2.0)
    assert spread([1.0, 1.01, 1.02]) < 0.02


@pytest.mark.skipif(available() is not None, reason=str(available()))
def test_contractions_beside_brgemm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SAMPLE", 1e-4)
    run = products.build(tmp_path)
    assert all(products.rate(run, which) for which in range(4))
    assert products.rate(run, 2 * len(products.NAMES)) is None
