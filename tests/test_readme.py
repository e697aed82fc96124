"""The README's snippets run as they stand, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flashlight.tools import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("text", SNIPPETS)
def test_snippets_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(text, "README.md", "exec"), {"__name__": "snippet"})
    assert re.search(r"[12] fused, 0 declined", capsys.readouterr().out)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"flashlight (inspect|cache|doctor)\b", README))))
def test_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0 and command in capsys.readouterr().out
