"""``flashlight doctor``."""

from pathlib import Path

import pytest

from flashlight.tools import cli, doctor


def test_doctor(capsys: pytest.CaptureFixture[str]):
    code = cli.main(["doctor"])
    lines = {line[6:28].strip(): line for line in capsys.readouterr().out.splitlines()}
    for name in (
        "python",
        "torch",
        "triton",
        "sympy",
        "cache",
        "native kernels",
        "Triton interpreter",
        "offline sm_90",
        "offline gfx950",
    ):
        assert lines[name].startswith("ok"), lines[name]
    assert code == (0 if lines["backend='flashlight'"].startswith("ok") else 1)


def test_doctor_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor, "ARCHITECTURES", {"sm_1": None})
    assert cli.main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  cache" in output
    assert "no    C++ compiler          no C++ compiler: none of $CXX, g++, clang++ is on PATH" in output
    assert "no    native kernels        they take a C++ compiler" in output
    assert "no    offline sm_1          unknown architecture 'sm_1'; known: sm_80" in output
