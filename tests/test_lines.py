"""Reports of graphs that a cache has, made from code that stands on other lines."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

import flashlight
from flashlight.front import capture, lines
from flashlight.report.records import Report

ATTENTION = """
import torch

def attention(q, k, v):
    scores = q @ k.mT / 3
    return scores.softmax(-1) @ v, scores

compiled = torch.compile(attention, backend="flashlight", options={"target": "evaluate"})
with torch.no_grad():
    compiled(*torch.randn(3, 1, 2, 300, 16))
"""


def test_a_pattern_tells_which_operations_share_a_line():
    assert lines.pattern(["a.py:3", "", "a.py:3", "a.py:4"]) == lines.pattern(["b.py:9", "", "b.py:9", "c.py:4"])
    assert lines.pattern(["a.py:3", "a.py:3"]) != lines.pattern(["a.py:3", "a.py:4"])


def test_every_line_of_a_document_moves_at_once():
    where = lines.moves(["a.py:3", "a.py:30"], ["a.py:30", "b.py:1"])
    document = {"source": "a.py:3", "reason": ["written at a.py:30", "data.py:3", "a.py:301", 3, None], "n": 3}
    expected = {"source": "a.py:30", "reason": ["written at b.py:1", "data.py:3", "a.py:301", 3, None], "n": 3}
    assert lines.moved(document, where) == expected
    assert lines.moves(["a.py:3"], ["a.py:3"]) == {}


@pytest.fixture
def passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list with an entry for each run of the pass, and caches of their own."""
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "ours"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    runs: list[int] = []
    run = capture.Capture.__call__
    monkeypatch.setattr(capture.Capture, "__call__", lambda self, graph: (runs.append(1), run(self, graph))[1])
    return runs


def test_a_report_from_the_cache_has_the_lines_of_the_code_that_runs(tmp_path: Path, passes: list[int]):
    def report(name: str, text: str) -> Report:
        path = tmp_path / name
        path.write_text(text)
        torch._dynamo.reset()
        flashlight.reset()
        runpy.run_path(str(path))
        (made,) = flashlight.reports()
        return made

    def said(made: Report) -> tuple[str, set[str], set[str]]:
        (region,) = made.regions
        texts = [region.kernels[-1].kernel, region.kernels[-1].program]
        comments = {line.partition("# ")[2] for text in texts for line in text.splitlines()} - {""}
        return region.source, {t.source for t in made.score_sized}, comments

    first = report("a.py", ATTENTION)
    assert said(first) == ("a.py:5", {"a.py:5"}, {"a.py:5", "a.py:6"})
    assert said(report("b.py", "\n" * 7 + ATTENTION)) == ("b.py:12", {"b.py:12"}, {"b.py:12", "b.py:13"})
    assert len(passes) == 1, "Inductor's cache has the graph"
    assert said(report("a.py", "# a comment\n" + ATTENTION)) == ("a.py:6", {"a.py:6"}, {"a.py:6", "a.py:7"})
    again = report("c.py", ATTENTION.replace("q @ k.mT / 3", "q @ (\n        k.mT\n    ) / 3"))
    assert (again.regions[0].source, len(passes)) == ("c.py:5", 2), "lines of another pattern cannot be told apart"
    assert again.regions[0].key == first.regions[0].key, "kernels are shared all the same"
