"""Every example runs, fuses something and agrees with eager (the examples raise or print what they compare)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import flashlight

EXAMPLES = sorted(p for p in (Path(__file__).parent.parent / "examples").glob("*.py") if p.stem != "demo")


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
