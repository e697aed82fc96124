"""A cache and a registry of their own for each test, and scripts to inspect."""

import textwrap
from pathlib import Path

import pytest

from flashlight.report import records as registry
from flashlight.report.records import Report
from tests.cli.recorded import ATTENTION, DECLINED, FUSED


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "cache"))
    registry.reset()
    yield
    registry.reset()


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A script that records one report twice, as two layers of a model would, and says what it was given."""
    path = tmp_path / "train.py"
    path.write_text(
        textwrap.dedent(f"""
        import sys
        import helper
        from flashlight.report.records import Report, record

        print("arguments", sys.argv[1:], __name__)
        text = {Report([FUSED, DECLINED], [("model.py:77", "softmax over classes")]).to_json()!r}
        record(Report.from_json(text))
        record(Report.from_json(text))
        if "--fail" in sys.argv:
            raise KeyError("of the script")
        if "--exit" in sys.argv:
            sys.exit(eval(sys.argv[-1]))
        """)
    )
    (tmp_path / "helper.py").write_text("")
    return str(path)


@pytest.fixture
def causal(tmp_path: Path) -> str:
    """A script with causal attention over four key blocks."""
    path = tmp_path / "causal.py"
    path.write_text(ATTENTION)
    return str(path)
