"""Every example runs, fuses something and agrees with eager (the examples raise or print what they compare)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

import flashlight

ROOT = Path(__file__).parent.parent
TRAININGS = {"train_gpt", "train_t5_encoder", "train_gemma2", "finetune_minilm"}
"""These have flags, and tests of their own in test_examples_training.py."""
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.stem not in {"demo", *TRAININGS})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    flashlight.reset()
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    reports = flashlight.reports()
    assert sum(r.fused for r in reports) >= 1 and not any(r.declined for r in reports), "\n".join(map(str, reports))
    assert capsys.readouterr().out.strip()


def test_pictures_of_the_readme_are_those_of_the_example() -> None:
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    masks = {Path(p).stem for p in pictures}
    source = (ROOT / "examples" / "block_maps.py").read_text()
    assert len(masks) == 6 and all(f"def {mask}(" in source for mask in masks)
    assert all((ROOT / p).read_bytes().startswith(b"\x89PNG") and (ROOT / p).stat().st_size < 30_000 for p in pictures)
