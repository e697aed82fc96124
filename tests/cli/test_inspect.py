"""``flashlight inspect``, mostly on scripts that record reports by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flashlight.report import records as registry
from flashlight.report.records import KernelReport, RegionReport, Report
from flashlight.tools import cli, inspection, request
from tests.cli.recorded import ATTENTION, DECLINED, SOURCE, TRITON


def test_report_is_the_default(script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--epochs", "3", "file"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("arguments ['--epochs', '3', 'file'] __main__")
    assert "attention0  model.py:12  fused" in output
    assert "reason: top-k along the key axis" in output
    assert "fix: compare with a threshold" in output
    assert "model.py:77  softmax over classes" in output


@pytest.mark.parametrize("before", [True, False])
def test_options_stand_anywhere(script: str, before: bool, capsys: pytest.CaptureFixture[str]):
    options = ["--emit", "kernel,program", "--emit", "passes"]
    assert cli.main(["inspect", *options, script, "a"] if before else ["inspect", script, "a", *options]) == 0
    output = capsys.readouterr().out
    assert "arguments ['a']" in output
    assert output.count("== double0.kernel.txt ==\nKERNEL TEXT") == 1
    assert "PROGRAM TEXT" in output
    assert "-- hoist\nHOISTED\n\n-- stream\nSTREAMED" in output
    assert "declined" not in output


def test_what_follows_two_dashes_is_the_scripts(script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--x", "--", "--emit", "nonsense", "--", "-o"]) == 0
    assert "arguments ['--x', '--emit', 'nonsense', '--', '-o']" in capsys.readouterr().out


def test_failing_script(script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--fail"]) == 1
    captured = capsys.readouterr()
    assert "attention0" in captured.out
    assert captured.err.startswith("Traceback")
    assert "KeyError: 'of the script'" in captured.err
    assert "runpy" not in captured.err


@pytest.mark.parametrize(
    ("code", "expected"), [("0", 0), ("3", 3), ("None", 0), ("True", 1), ("'no data'", 1), ("KeyboardInterrupt()", 1)]
)
def test_script_that_exits(script: str, code: str, expected: int, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--exit", code]) == expected
    captured = capsys.readouterr()
    assert "attention0" in captured.out
    assert ("no data" in captured.err) == (code == "'no data'")


def test_a_script_that_succeeds_fails_where_something_cannot_be_shown(script: str):
    assert cli.main(["inspect", script, "--kernel", "nothing"]) == 1
    assert cli.main(["inspect", script, "--kernel", "nothing", "--exit", "7"]) == 7


@pytest.mark.parametrize("kind", ["program", "passes", "kernel", "triton", "cpp", "ttir", "mask"])
def test_what_takes_a_kernel_fails_where_nothing_was_fused(kind: str, capsys: pytest.CaptureFixture[str]):
    registry.record(Report([DECLINED]))
    assert not inspection.present(request.Request.of([kind], [], None, None))
    assert f"--emit {kind}: nothing was fused in this run; --emit report says why" in capsys.readouterr().err
    assert inspection.present(request.Request.of(["report"], [], None, None))
    assert not inspection.present(request.Request.of([], ["sm_90"], None, None))
    assert "--arch sm_90: nothing was fused" in capsys.readouterr().err


def test_what_takes_a_kernel_fails_where_nothing_was_compiled(capsys: pytest.CaptureFixture[str]):
    assert not inspection.present(request.Request.of(["cpp"], [], None, None))
    captured = capsys.readouterr()
    assert "Flashlight compiled nothing in this run" in captured.out
    assert captured.err == "flashlight: --emit cpp: nothing was fused in this run\n"
    assert inspection.present(request.Request.of([], [], None, None))


def test_interrupted_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "stopped.py"
    path.write_text("raise KeyboardInterrupt\n")
    assert cli.main(["inspect", str(path)]) == 130
    assert "KeyboardInterrupt" in capsys.readouterr().err


def test_script_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "broken.py"
    path.write_text("def f(:\n")
    assert cli.main(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert "SyntaxError" in captured.err
    assert captured.err.startswith('  File "') and not captured.out, "only the error"


def test_the_interpreter_is_left_as_it_was(script: str):
    before = (list(sys.argv), list(sys.path), sys.modules["__main__"])
    cli.main(["inspect", script, "x"])
    assert (sys.argv, sys.path, sys.modules["__main__"]) == before


def test_what_layers_share_is_printed_once(capsys: pytest.CaptureFixture[str]):
    kernels = [KernelReport(f"attn{i}", program="ONE PROGRAM", kernel=f"KERNEL {i}") for i in range(2)]
    layers = [
        RegionReport(True, kernels=kernels, passes=[("hoist", "HOISTED")], name=f"attention{i}") for i in range(3)
    ]
    registry.record(Report(layers))
    registry.record(Report(layers))
    assert inspection.present(request.Request.of(["report", "program", "passes", "kernel"], [], None, None))
    output = capsys.readouterr().out
    assert output.count("ONE PROGRAM") == output.count("HOISTED") == 1
    assert output.count("KERNEL 0") == output.count("KERNEL 1") == 1
    assert output.count("attention0-2") == 1 and "(2 graphs like this)" in output


def test_json(script: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--json", "--arch", "sm_90", "--exit", "5"]) == 5
    captured = capfd.readouterr()
    shown = json.loads(captured.out)
    assert "arguments ['--exit', '5']" in captured.err
    assert [Report.from_dict(report).fused for report in shown["reports"]] == [1, 1]
    double, native = shown["costs"]
    assert (double["kernel"], double["arch"], double["fits"]) == ("double0", "sm_90", True) and double["registers"] > 0
    assert "no Triton form" in native["error"]
    assert cli.main(["inspect", script, "--json", "-o", str(tmp_path / "out"), "--kernel", "double0"]) == 0
    (report, _) = json.loads((tmp_path / "out" / "report.json").read_text())["reports"]
    assert [[k["name"] for k in region["kernels"]] for region in report["regions"]] == [["double0"]]


def test_machine_kinds(script: str, capsys: pytest.CaptureFixture[str]):
    code = cli.main(
        ["inspect", script, "--emit", "ttir,ptx,sass,amdgcn", "--arch", "sm_80,gfx942", "--kernel", "double0"]
    )
    output = capsys.readouterr().out
    assert code == 0
    for title in ("sm_80.ttir", "gfx942.ttir", "sm_80.ptx", "sm_80.sass", "gfx942.amdgcn"):
        assert f"== double0.{title} ==" in output
    assert "gfx942.ptx" not in output
    assert ".target sm_80" in output
    table = [line.split() for line in output.splitlines() if line.startswith("double0 ")]
    assert [row[1] for row in table] == ["sm_80", "gfx942"]
    assert all(row[3:] == ["0", "B", "0", "B", "0", "B"] for row in table)


@pytest.mark.parametrize(
    ("kind", "arch"), [("ttgir", "sm_90"), ("ptx", "sm_90"), ("sass", "sm_90"), ("amdgcn", "gfx942")]
)
def test_default_architecture(script: str, kind: str, arch: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--emit", kind, "--kernel", "double0"]) == 0
    output = capsys.readouterr().out
    assert f"== double0.{arch}.{kind} ==" in output
    assert len([line for line in output.splitlines() if line.startswith("double0 ")]) == 1


def test_cpp_is_printed_where_something_else_runs(causal: str, script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", causal, "--emit", "cpp"]) == 0
    output = capsys.readouterr().out
    assert "== attention0.cpp ==" in output and 'extern "C"' in output
    assert cli.main(["inspect", script, "--emit", "cpp"]) == 1
    assert "flashlight: kernel double0 has no form as cpp" in capsys.readouterr().err


def test_a_program_is_that_of_a_region(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kernels = [KernelReport(name, program="CONDITION" if name < "b" else "ATTENTION") for name in ("a", "b", "c")]
    registry.record(Report([RegionReport(True, kernels=kernels, name="attention0")]))
    assert inspection.present(request.Request.of(["program"], [], None, tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["attention0.program.txt"]
    assert (tmp_path / "attention0.program.txt").read_text() == "CONDITION\n\nATTENTION\n"


def test_arch_alone_prints_costs(script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--arch", "sm_120"]) == 1
    captured = capsys.readouterr()
    assert "double0   sm_120" in captured.out
    assert "native0 has no Triton form to compile for sm_120, only c++" in captured.err


def test_files(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "out" / "deep"
    kinds = "report,program,passes,kernel,triton,ptx,cubin,hsaco"
    assert cli.main(["inspect", script, "--emit", kinds, "-o", str(folder), "--kernel", "double0"]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "report.txt",
        "attention0.program.txt",
        "double0.kernel.txt",
        "attention0.passes.txt",
        "double0.py",
        "double0.sm_90.ptx",
        "double0.sm_90.cubin",
        "double0.gfx942.hsaco",
    }
    assert (folder / "double0.py").read_text() == SOURCE
    assert (folder / "double0.gfx942.hsaco").read_bytes()[:4] == b"\x7fELF"
    assert f"wrote {folder / 'double0.sm_90.ptx'}" in capsys.readouterr().out


def test_a_folder_that_is_lost_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, out = tmp_path / "script.py", tmp_path / "out"
    path.write_text(
        f"from flashlight.report.records import Report, record\nrecord(Report())\nopen({str(out)!r}, 'w').close()\n"
    )
    assert cli.main(["inspect", str(path), "-o", str(out)]) == 1
    assert str(out) in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(torch.compiler, "set_default_backend"), reason="this PyTorch cannot be told")
def test_scripts_that_name_no_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "plain.py"
    path.write_text(
        ATTENTION.replace('backend="flashlight", ', "").replace("options=options", "").replace("(2)", "(1)")
    )
    before = torch.compiler.get_default_backend()
    assert cli.main(["inspect", str(path), "--backend"]) == 0
    assert "1 fused" in capsys.readouterr().out
    assert torch.compiler.get_default_backend() == before


def test_versions_without_a_default_backend(script: str, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.delattr(torch.compiler, "set_default_backend", raising=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", script, "--backend"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "torch.compile(..., backend='flashlight')" in captured.err
    assert "arguments [" not in captured.out


def test_different_kernels_of_one_name(capsys: pytest.CaptureFixture[str]):
    twins = [KernelReport("attn0", kernel=text) for text in ("A", "B", "A", "C")]
    registry.record(Report([RegionReport(True, kernels=twins)]))
    assert inspection.present(inspection.Request.of(["kernel"], [], None, None))
    titles = ("attn0.kernel.txt", "attn0-2.kernel.txt", "attn0-3.kernel.txt")
    pieces = [f"== {title} ==\n{text}\n\n" for title, text in zip(titles, "ABC", strict=True)]
    assert capsys.readouterr().out == "".join(pieces)


def test_kernel_that_does_not_compile(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    broken = TRITON | {"source": SOURCE.replace("* 2", "* nothing")}
    registry.record(Report([RegionReport(True, kernels=[KernelReport("double0", triton=broken)])]))
    assert not inspection.present(inspection.Request.of(["ptx"], [], None, None))
    captured = capsys.readouterr()
    assert "does not compile, see below" in captured.out
    assert "double0 does not compile for sm_90" in captured.err
    assert "nothing is not defined" in captured.err


def test_unknown_kernel(script: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["inspect", script, "--kernel", "attn7"]) == 1
    assert "no kernel 'attn7' in this run; there are: double0, native0" in capsys.readouterr().err


def test_closed_pipe_is_not_a_traceback(script: str):
    command = [sys.executable, "-m", "flashlight", "inspect", script, "--emit", "sass"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ), text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.wait(60)
    assert "BrokenPipe" not in error
