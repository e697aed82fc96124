"""Wrong arguments, help, and what takes no torch."""

import json
import re
import subprocess
import sys

import pytest

from flashlight.tools import cli, request


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
        (["inspect", "SCRIPT", "--arch", "sm_89"], "sm_120, gfx942, gfx950; sm_89 is most like sm_120)"),
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
from flashlight.tools import cli
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
