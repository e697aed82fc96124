"""Every stage prints what it printed; a change that is meant is written by `python -m tests.golden`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.stages import ARCHITECTURE, FOLDER, NAMES, stages, written


@pytest.mark.parametrize("name", NAMES)
def test_stages(name: str, tmp_path: Path) -> None:
    for file, text in stages(name, str(tmp_path)).items():
        assert text == (FOLDER / name / file).read_text(), f"{name}/{file}: see tests/golden/__main__.py"


def test_architecture_shows_them() -> None:
    text = ARCHITECTURE.read_text()
    assert text == written(text) and text.count("<!-- golden: ") >= 6
