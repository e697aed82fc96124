"""``flashlight cache``."""

import re
from pathlib import Path

import pytest

from flashlight.tools import cache_commands, cli, doctor


def test_cache_commands(causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "cache"
    assert cli.main(["cache", "path"]) == 0
    assert capsys.readouterr().out == f"{root}\n"
    assert cli.main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"0 B in {root}\n"
    assert cli.main(["inspect", causal]) == 0
    capsys.readouterr()
    assert cli.main(["cache", "list"]) == 0
    _, _, row, last = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in re.split("  +", row)]
    assert cells[1:4] == ["causal.py:6", "float32 3x[1, 2, 256, 64]", "float32 [1, 2, 256, 64]"]
    assert row.endswith(" s") and last.startswith("1 region, ") and last.endswith(str(root))
    assert cli.main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 region, ")
    assert cli.main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"0 B in {root}\n"
    root.chmod(0o777)
    assert cli.main(["cache", "list"]) == 1
    assert "anyone may write" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["cache", "list"], ["cache", "clear"], ["doctor"]])
def test_a_cache_that_cannot_be_created(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", "/proc/flashlight/cache")
    monkeypatch.setattr(doctor, "_attempt", lambda name, check, needed: doctor.Finding(name, True, ""))
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "/proc/flashlight/cache cannot be created in /proc: " in captured.out + captured.err


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("500", 500), ("500 kB", 500_000), ("1.5G", 1_500_000_000), ("2MiB", 2 << 20)]
)
def test_sizes(text: str, count: int):
    assert cache_commands.size(text) == count


def test_sizes_and_ages_for_people():
    assert [cache_commands.human(n) for n in (0, 999, 1000, 999_999, 5e13)] == ["0 B", "999 B", "1 kB", "1 MB", "50 TB"]
    assert [cache_commands.age(n) for n in (-1, 59, 60, 7200, 9e5)] == ["0 s", "59 s", "1 min", "2 h", "10 d"]
