"""``flashlight inspect --emit mask``."""

from pathlib import Path

import pytest

from flashlight.tools import cli, request


def test_masks_are_drawn(causal: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", causal, "--emit", "report,mask"]) == 0
    output = capsys.readouterr().out
    assert "20 of 32" in output
    assert output.count("== attention0.mask.txt ==") == 1
    assert "alike): 10 of 16 blocks visited\n+...\n#+..\n##+.\n###+\n" in output
    assert "blocks where" in output and "unmasked where" in output
    assert "# full: computed without masks   + partial: computed with masks   . skipped" in output
    assert "12 full, 8 partial, 12 skipped of 32 blocks: 62.5% visited" in output


def test_masks_of_other_kernels_are_not(causal: str, script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", causal, "--emit", "mask", "--kernel", "nothing"]) == 1
    assert "mask.txt" not in capsys.readouterr().out
    assert cli.main(["inspect", script, "--emit", "mask"]) == 0
    assert "no region of this run skips blocks" in capsys.readouterr().out


@pytest.mark.skipif(not request.can_write_pictures(), reason="matplotlib is not installed")
def test_masks_as_files(causal: str, tmp_path: Path):
    assert cli.main(["inspect", causal, "--emit", "mask", "-o", str(tmp_path / "out")]) == 0
    (picture,) = (tmp_path / "out").iterdir()
    assert picture.name == "attention0.mask.png" and picture.read_bytes().startswith(b"\x89PNG")


def test_masks_as_files_need_matplotlib(causal: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(request, "can_write_pictures", lambda: False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", causal, "--emit", "mask", "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "pip install matplotlib" in capsys.readouterr().err
