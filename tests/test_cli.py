"""The command line, on scripts that record reports by hand."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from flashlight import cache_commands, cli, doctor, inspection, request
from flashlight import report as registry
from flashlight.report import KernelReport, RegionReport, Report

SOURCE = """
import triton
import triton.language as tl


@triton.jit
def double0(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * 2)
"""

TRITON = {
    "source": SOURCE,
    "name": "double0",
    "signature": {"x_ptr": "*fp32", "out_ptr": "*fp32"},
    "constants": {"BLOCK": 128},
    "num_warps": 4,
    "num_stages": 2,
}

FUSED = RegionReport(
    fused=True,
    source="model.py:12",
    name="attention0",
    kernels=[
        KernelReport("double0", "triton", SOURCE, "PROGRAM TEXT", "KERNEL TEXT", sweeps=1, triton=TRITON),
        KernelReport("native0", "c++", "int main();", "OTHER PROGRAM", "OTHER KERNEL", sweeps=1),
    ],
    passes=[("hoist", "HOISTED"), ("stream", "STREAMED")],
)
DECLINED = RegionReport(False, "top-k along the key axis", "model.py:40", "attention1", fix="compare with a threshold")


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
        from flashlight.report import Report, record

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
        f"from flashlight.report import Report, record\nrecord(Report())\nopen({str(out)!r}, 'w').close()\n"
    )
    assert cli.main(["inspect", str(path), "-o", str(out)]) == 1
    assert str(out) in capsys.readouterr().err


ATTENTION = """
import torch

def attention(q, k, v):
    i = torch.arange(q.shape[2])
    scores = q @ k.mT / 8
    return scores.masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v  # line 7

with torch.no_grad():
    options = {"target": "evaluate", "fx_graph_cache": False}
    compiled = torch.compile(attention, backend="flashlight", options=options)
    for _ in range(2):
        compiled(*torch.randn(3, 1, 2, 256, 64))
"""


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


@pytest.fixture
def causal(tmp_path: Path) -> str:
    """A script with causal attention over four granules."""
    path = tmp_path / "causal.py"
    path.write_text(ATTENTION)
    return str(path)


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
    assert "no region of this run passes blocks over" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["explode"], "invalid choice: 'explode'"),
        (["inspect"], "required: SCRIPT"),
        (["inspect", "no/such.py"], "no such script: no/such.py"),
        (["inspect", "/proc"], "/proc is a directory without a __main__.py: name a Python file"),
        (
            ["inspect", "SCRIPT", "--emit", "ptx,wasm"],
            "unknown kind 'wasm' (choose from report, program, passes, kernel, triton, cpp, mask, ttir",
        ),
        (["inspect", "SCRIPT", "--emit", ""], "unknown kind ''"),
        (["inspect", "SCRIPT", "--arch", "sm_75"], "unknown architecture 'sm_75' (choose from sm_80, sm_90, sm_100"),
        (["inspect", "SCRIPT", "--emit", "cubin"], "--emit cubin is binary: say where to write it with -o DIR"),
        (
            ["inspect", "SCRIPT", "--emit", "ptx", "--arch", "gfx942"],
            "--emit ptx needs one of --arch sm_80, sm_90, sm_100, sm_120",
        ),
        (["inspect", "SCRIPT", "-o", "SCRIPT"], "is not a directory"),
        (["inspect", "SCRIPT", "-o", "SCRIPT/below"], "is not a directory"),
        (["inspect", "SCRIPT", "-o", "/proc/below"], "-o /proc/below: cannot write to /proc: "),
        (["inspect", "SCRIPT", "--json", "--emit", "kernel"], "--json has everything that --emit could show"),
        (["cache"], "required: action"),
        (["cache", "burn"], "invalid choice: 'burn'"),
        (["cache", "list", "more"], "unrecognized arguments: more"),
        (["cache", "prune"], "required: --max-size"),
        (["cache", "prune", "--max-size", "much"], "'much' is no size, such as 500M, 1.5G or 2GiB"),
    ],
)
def test_wrong_arguments(script: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main([argument.replace("SCRIPT", script) for argument in arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "arguments [" not in captured.out  # the script did not run


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["cache", "--help"], ["--version"]])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    output = capsys.readouterr().out
    assert "flashlight" in output
    assert arguments != ["--help"] or "clear or prune the cache" in output
    if arguments[0] == "inspect":
        assert all(word in output for word in ("hsaco", "sm_100", "examples:", "-o DIR"))
        assert all(re.search(rf"\b{kind}\b", output) for kind in request.KINDS)


WITHOUT_TORCH = """
import json, sys
from flashlight import cli
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments)
    except SystemExit:
        pass
    assert "torch" not in sys.modules, arguments
"""


def test_help_the_cache_and_wrong_arguments_need_no_torch(script: str):
    """Importing it takes seconds."""
    commands = [["--help"], ["inspect", "--help"], ["--version"], [], ["explode"], ["cache", "path"], ["cache", "list"]]
    commands += [["cache", "prune", "--max-size", "1G"], ["cache", "clear"], ["inspect", "no/such.py"]]
    commands += [["inspect", script, "--emit", "wasm"], ["inspect", script, "-o", "/proc/below"]]
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)], check=True, capture_output=True)


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
