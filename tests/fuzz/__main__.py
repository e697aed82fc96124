"""The command line of the fuzzer: many programs, one program, or a script.

    python -m tests.fuzz --seeds 0:6000 --gear evaluate --workers 2       judge the programs of these seeds
    python -m tests.fuzz --minutes 60                                     from a seed of the clock, for an hour
    python -m tests.fuzz --show 45                                        print one program and its verdict
    python -m tests.fuzz --shrink 45                                      print the smallest with the same fault
    python -m tests.fuzz --file tests/fuzz/corpus/dead_rows.py            judge a script with `inputs` and `fn`

Gears: evaluate (0.5 s a program), native (-O1, seconds), triton (interpreted, seconds), inductor (the whole compiler),
gpu (Triton on the CUDA device that is there).  With --train, every gear runs training steps: outputs, and the gradients
of all inputs for drawn gradients of the outputs, are judged alike.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tests.fuzz import gears, runner
from tests.fuzz.grammar.skeletons import program
from tests.fuzz.judge import SEVERITY, Verdict, judge
from tests.fuzz.program import load


def main(argv: list[str] | None = None) -> int:
    """Exit status: 1 where there was a fault."""
    args = _parser().parse_args(argv)
    if args.file:
        return _judge_file(args.file, args.gear)
    if args.show is not None or args.shrink is not None:
        return _one(args.show if args.show is not None else args.shrink, args)
    return _many(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", metavar="A:B", help="seeds from A up to B")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument("--gear", choices=gears.TARGETS, default="evaluate")
    parser.add_argument("--train", action="store_true", help="training steps: outputs and gradients of all inputs")
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--out", type=Path, help="folder for a script of every program with a fault")
    parser.add_argument("--shrink-seconds", type=float, default=40.0, help="for the first of every kind of fault (40)")
    parser.add_argument(
        "--ignore", default="", metavar="KINDS", help=f"kinds that are no faults, of {','.join(SEVERITY)}"
    )
    parser.add_argument("--show", type=int, metavar="SEED")
    parser.add_argument("--shrink", type=int, metavar="SEED")
    parser.add_argument("--file", type=Path, metavar="SCRIPT")
    return parser


def _judge_file(path: Path, gear: str) -> int:
    with gears.session() as folder:
        return _print(judge(load(path.read_text(), path.name), gear, folder))


def _one(seed: int, args: argparse.Namespace) -> int:
    one = replace(program(seed, small=args.gear == "triton"), train=args.train)
    with gears.session() as folder:
        verdict = runner.judged(one, args.gear, folder)
        faults = [f for f in verdict.faults if f.kind not in args.ignore.split(",")]
        if args.shrink is not None and faults:
            one = runner.smallest(one, args.gear, folder, faults[0], args.shrink_seconds)
            verdict = runner.judged(one, args.gear, folder)
    print(one.script(target=gears.TARGETS[args.gear]))
    return _print(verdict)


def _print(verdict: Verdict) -> int:
    for fault in verdict.faults:
        print(f"{fault.kind}: {fault.detail}")
    for reason in verdict.declined:
        print(f"declined: {reason}")
    print(verdict.outcome)
    return 1 if verdict.faults else 0


def _many(args: argparse.Namespace) -> int:
    ignored = args.ignore.split(",")

    def each(result: runner.Result) -> None:
        result.verdict.faults = [f for f in result.verdict.faults if f.kind not in ignored]
        for fault in result.verdict.faults[:1]:
            print(f"seed {result.seed} {fault.kind}: {fault.detail[:300]}", flush=True)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                title = f'"""seed {result.seed}, {result.gear}: {fault.kind}: {fault.detail}"""\n'
                text = title + result.script.partition("\n")[2]
                (args.out / f"{fault.kind}-{result.gear}-{result.seed}.py").write_text(text)

    seconds = args.minutes * 60 if args.minutes else None
    summary = runner.run(_seeds(args), args.gear, args.workers, seconds, args.shrink_seconds, each, args.train)
    print(summary)
    return 1 if summary.faults else 0


def _seeds(args: argparse.Namespace) -> Iterable[int]:
    if args.seeds:
        first, _, last = args.seeds.partition(":")
        return range(int(first), int(last)) if last else itertools.count(int(first))
    if not args.minutes:
        sys.exit("say --seeds A:B or --minutes N")
    first = int(time.time()) % 1_000_000 * 1000
    print(f"seeds from {first}")
    return itertools.count(first)


if __name__ == "__main__":
    sys.exit(main())
