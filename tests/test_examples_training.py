"""The trainings among the examples: each runs, its losses are eager's, everything is fused; flags that are wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

import flashlight

FOLDER = Path(__file__).parent.parent / "examples"
FLAGS = ("--steps", "3", "--check", "2", "--batch", "2", "--contenders", "eager,flashlight")


@pytest.fixture(autouse=True)
def _there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As `python examples/NAME.py` finds its modules, with a folder for pictures."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "small"),
    [
        ("train_gpt", 200, {"LAYERS": 1, "WIDTH": 96}),
        ("train_t5_encoder", 160, {"LAYERS": 2, "WIDTH": 64}),
        ("train_gemma2", 160, {"LAYERS": 2, "WIDTH": 64}),
        ("finetune_minilm", 128, {"LAYERS": 1}),
    ],
)
def test_training(
    name: str, length: int, small: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = _load(name)
    for constant, value in small.items():
        monkeypatch.setattr(module, constant, value)
    dropout = () if name == "train_t5_encoder" else ("--dropout", "0")  # with it, everything compiles twice
    assert module.main([*FLAGS, *dropout, "--length", str(length)]) == 0
    reports = flashlight.reports()
    assert sum(r.fused for r in reports) >= 2 and not any(r.declined for r in reports), reports
    # Indices of positions may be stored, such as T5's buckets: all heads, layers and sequences share them.
    assert not [s for r in reports for s in r.score_sized if "float" in s.dtype], reports
    output = capsys.readouterr().out
    assert "tokens/s" in output and "TOO FAR" not in output
    assert Path("out", f"{name}.png").stat().st_size > 1000


def test_losses_that_differ_are_an_error() -> None:
    module = _load("train_gpt")
    from trainer import comparison  # pyright: ignore[reportMissingImports]

    exact = [8.0, 7.0]
    assert comparison.distance([8.0, 7.1], exact) > comparison.allowed([8.0, 7.00001], exact)
    assert comparison.distance([8.0, 7.00002], exact) <= comparison.allowed([8.0, 7.00001], exact)
    assert comparison.distance([8.0, float("nan")], exact) == torch.inf
    assert module.DEFAULTS.steps == 30


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        (("--steps", "0"), "'0'", "whole number of at least 1"),
        (("--length", "many"), "'many'", "whole number of at least 16"),
        (("--contenders", "eager,flash"), "'eager,flash'", "some of eager,inductor,sdpa,flashlight"),
        (("--contenders", "eager,eager"), "'eager,eager'", "each once"),
        (("--dropout", "1"), "'1'", "at least 0 and below 1"),
        (("--device", "gpu"), "'gpu'", "a device that is there"),
    ],
)
def test_flags_that_are_wrong(
    flags: tuple[str, ...], given: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        _load("train_gpt").main(flags)
    assert stop.value.code == 2
    message = " ".join(capsys.readouterr().err.split())
    assert given in message and expected in message
