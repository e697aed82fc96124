"""What is said without being asked: that nothing was fused, that Dynamo will not compile again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import flashlight
from flashlight.base import warn
from flashlight.base.errors import FlashlightWarning, first_line
from flashlight.base.options import OptionError, Options
from flashlight.report import notices
from flashlight.report.records import RegionReport, Report
from flashlight.runtime import op as runtime
from tests.zoo.declines import cumsum_weights, topk_keys

DECLINED = RegionReport(False, "top-k of the scores", "model.py:40", "attention0", fix="use a threshold")
FUSED = RegionReport(True, None, "model.py:12", "attention1")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHLIGHT_WARN", raising=False)
    warn.forget()
    torch._dynamo.reset()


def said(do: Callable[[], Any]) -> list[str]:
    """The warnings of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        do()
    return [str(w.message) for w in caught if issubclass(w.category, FlashlightWarning)]


def test_nothing_fused_is_said_in_one_line_with_reason_fix_and_line():
    (line,) = said(lambda: notices.notify(Report([DECLINED]), Options()))
    assert "\n" not in line
    for part in (
        "model.py:40",
        "top-k of the scores",
        "fix: use a threshold",
        "flashlight.explain",
        "FLASHLIGHT_WARN=0",
    ):
        assert part in line


def test_each_message_comes_once():
    other = RegionReport(False, "sort", "model.py:50")
    reports = [Report([DECLINED]), Report([DECLINED, other]), Report([other]), Report([other])]
    lines = said(lambda: [notices.notify(r, Options()) for r in reports])
    assert [line.split(":")[2] for line in lines] == ["40", "50"]


@pytest.mark.parametrize(
    "report", [Report([DECLINED, FUSED]), Report([FUSED]), Report(), Report([], [("a.py:1", "x")])]
)
def test_nothing_is_said_where_something_was_fused_or_nothing_could_be(report: Report):
    assert said(lambda: notices.notify(report, Options())) == []


def test_switches(monkeypatch: pytest.MonkeyPatch):
    report = Report([DECLINED])
    assert said(lambda: notices.notify(report, Options(warn=False))) == []
    monkeypatch.setenv("FLASHLIGHT_WARN", "0")
    assert said(lambda: notices.notify(report, Options())) == []
    monkeypatch.setenv("FLASHLIGHT_WARN", "1")
    assert len(said(lambda: notices.notify(report, Options()))) == 1
    monkeypatch.setenv("FLASHLIGHT_WARN", "no")
    with pytest.raises(OptionError, match="0, 1"):
        notices.notify(report, Options())


def test_a_cache_that_cannot_be_used_is_said_once_at_the_users_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.warns(FlashlightWarning, match="keeps nothing on disk: .*file is not a directory") as caught:
        assert [runtime.use_cache(str(tmp_path / "file")) for _ in range(3)] == [None] * 3
    assert [w.filename for w in caught] == [__file__]


def call(fn: Callable[..., Tensor], *shape: int, **options: Any) -> None:
    """Compile and run once, without gradients."""
    compiled = torch.compile(fn, backend="flashlight", options={"fx_graph_cache": False, **options})
    with torch.no_grad():
        compiled(*torch.randn(3, *shape).unbind())


def test_a_compiled_function_says_it_and_explain_does_not():
    with pytest.warns(FlashlightWarning) as caught:
        call(topk_keys, 1, 2, 20, 16)
    (ours,) = (w for w in caught if w.category is FlashlightWarning)
    line = str(ours.message)
    assert ours.filename in (topk_keys.__code__.co_filename, __file__), "a line of the user's"
    assert "declines.py:" in line and "top-k" in line
    with torch.no_grad():
        assert said(lambda: flashlight.explain(cumsum_weights, *torch.randn(3, 1, 2, 20, 16).unbind())) == []


def test_the_last_compilation_is_announced():
    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT, -1) @ v

    with torch._dynamo.config.patch(recompile_limit=2):
        compiled = torch.compile(attention, backend="flashlight", options={"fx_graph_cache": False})
        with torch.no_grad():
            lines = [said(lambda n=n: compiled(*torch.randn(3, 1, 2, n, 16).unbind())) for n in (20, 21, 22)]
    assert [len(x) for x in lines] == [0, 1, 0]
    assert "test_notices.py:" in lines[1][0] and "2 times" in lines[1][0] and "recompile_limit" in lines[1][0]


def test_the_first_line_of_an_error_is_short():
    assert [first_line(e) for e in (ValueError(" a\nb"), ValueError())] == ["a", "ValueError"]
    assert first_line(ValueError("x" * 5000)) == "x" * 400 + "..."
