"""The command line: ``flashlight inspect``, ``flashlight cache`` and ``flashlight doctor``.

Exit codes: 0 when all went well, 2 for wrong arguments, 1 when a kernel or a check failed; ``inspect`` keeps the exit
code of a script that fails.  Help, the cache and wrong arguments need no torch, which takes seconds to import.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flashlight.codegen.offline import ARCHITECTURES, RESEMBLES
from flashlight.tools import cache_commands
from flashlight.tools.request import KINDS, Request

DISTRIBUTION = "flashlight-attention"

INSPECT = """\
Run a Python script as `python SCRIPT ARGS...` would, then print what Flashlight compiled in that run. Options may stand
before or after SCRIPT; whatever is not an option below goes to the script, and so does everything after `--`.

kinds of output (--emit):
  report                  a table of regions: fused or declined, and why
  program, passes, kernel the mathematics, what each pass made of it, the schedule
  mask                    which blocks of the scores are computed, drawn (with -o: PNG files, by matplotlib)
  triton, cpp             Triton source; C++ source for this machine
  ttir, ttgir, llir       what Triton makes of it, for each --arch (default sm_90)
  ptx, cubin, sass        NVIDIA machine code (default sm_90); cubin is binary and needs -o
  amdgcn, hsaco           AMD machine code (default gfx942); hsaco is binary and needs -o

A kernel named summary_* runs first and summarises a mask or ids in blocks: by that the others know which blocks of the
scores they may skip. No GPU is needed: kernels are compiled offline. The exit code is the script's; 1 where it
succeeds and something cannot be shown.
"""

EXAMPLES = """\
examples:
  flashlight inspect train.py --epochs 1
  flashlight inspect train.py --emit triton,ptx --arch sm_90 --arch sm_100
  flashlight inspect train.py --emit mask -o pictures
  flashlight inspect train.py --emit cubin -o out -- -o passed-to-the-script
  flashlight inspect train.py --backend --json > report.json
"""


def version() -> str:
    """The version of the installed distribution."""
    import importlib.metadata

    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


class _Version(argparse.Action):
    """argparse's own wants the version beforehand, which takes as long as all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"flashlight {version()}")
        parser.exit()


def one_of(noun: str, legal: Sequence[str], like: Mapping[str, str] | None = None) -> Callable[[str], list[str]]:
    """An argparse type: a list of names separated by commas, each of them legal.  like: what is nearest to others."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in legal]
        if unknown or not names:
            wrong = ", ".join(map(repr, unknown)) or repr(text)
            nearest = [f"; {name} is most like {like[name]}" for name in unknown if like and name in like]
            raise argparse.ArgumentTypeError(
                f"unknown {noun} {wrong} (choose from {', '.join(legal)}{''.join(nearest)})"
            )
        return names

    return parse


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="flashlight", description="Look into the attention kernels that Flashlight compiles.", allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inspect(commands)
    cache_commands.add_parser(commands)
    commands.add_parser("doctor", help="say what works on this machine, and why the rest does not", allow_abbrev=False)
    return parser


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "inspect",
        help="run a script and print every kernel it compiled",
        description=INSPECT,
        epilog=EXAMPLES,
        usage="flashlight inspect [OPTIONS] SCRIPT [ARGS...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python file; ARGS are its own arguments")
    parser.add_argument(
        "--emit",
        action="extend",
        default=[],
        type=one_of("kind", KINDS),
        metavar="KIND[,KIND...]",
        help="what to print, see above (default: report)",
    )
    parser.add_argument(
        "--arch",
        action="extend",
        default=[],
        type=one_of("architecture", tuple(ARCHITECTURES), RESEMBLES),
        metavar="ARCH[,ARCH...]",
        help=f"compile for it and print registers, spills, shared memory: {', '.join(ARCHITECTURES)}",
    )
    parser.add_argument("--kernel", metavar="NAME", help="only the kernel of this name")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="write files into DIR instead of printing")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print reports and costs as one JSON object; what the script prints to stdout goes to stderr",
    )
    parser.add_argument(
        "--backend",
        action="store_true",
        help="torch.compile calls of the script that name no backend use Flashlight",
    )


def run_inspect(parser: argparse.ArgumentParser, options: argparse.Namespace, script_args: list[str]) -> int:
    """``flashlight inspect``: check the request before the script runs, then run and print."""
    script = Path(options.script)
    if not script.exists():
        parser.error(f"no such script: {options.script}")
    if script.is_dir() and not (script / "__main__.py").exists():
        parser.error(f"{options.script} is a directory without a __main__.py: name a Python file")
    try:
        request = Request.of(options.emit, options.arch, options.kernel, options.output, options.json)
    except ValueError as error:
        parser.error(str(error))
    from flashlight.report import records as report
    from flashlight.runtime.op import observing
    from flashlight.tools import inspection, scripts

    report.reset()
    with contextlib.ExitStack() as around:
        seen = around.enter_context(observing())
        if options.backend:
            try:
                around.enter_context(inspection.default_backend())
            except ValueError as error:
                parser.error(str(error))
        if options.json:
            around.enter_context(scripts.output_to_stderr())
        code = scripts.run_script(options.script, script_args)
    sys.stdout.flush()
    if code and not options.json and not report.reports():  # the script has said why
        return code
    shown = inspection.present(request, seen)
    return code or (0 if shown else 1)


def run_doctor() -> int:
    """``flashlight doctor``."""
    from flashlight.tools import doctor

    return doctor.run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbatim: list[str] = []
    if arguments[:1] == ["inspect"] and "--" in arguments:
        split = arguments.index("--")
        arguments, verbatim = arguments[:split], arguments[split + 1 :]
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command != "inspect":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "inspect":
            return run_inspect(parser, options, [*rest, *verbatim])
        return cache_commands.run(options) if options.command == "cache" else run_doctor()
    except BrokenPipeError:  # `flashlight ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # the cache cannot be used, or -o DIR became unwritable; a script's errors end elsewhere
        print(f"flashlight: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
