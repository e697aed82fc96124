"""python -m bench: contenders x variants x lengths x dtypes in one process, in turns, with both floors."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch

from bench import machine, measure, report
from bench.contenders import CONTENDERS, compile_tools
from bench.runner import Cell, Plan, run_cell
from bench.sections import CASES, SECTIONS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def parser() -> argparse.ArgumentParser:
    """The flags; lists are separated by commas or spaces."""
    result = argparse.ArgumentParser("python -m bench", description=__doc__)
    result.add_argument("--variants", nargs="+", metavar="NAME", help=f"of {', '.join(CASES)}")
    result.add_argument("--lengths", nargs="+", metavar="S", help="sequence lengths")
    result.add_argument("--dtypes", nargs="+", metavar="DTYPE", help=f"of {', '.join(DTYPES)}")
    result.add_argument("--contenders", nargs="+", metavar="NAME", help=f"of {', '.join(CONTENDERS)}")
    result.add_argument("--rounds", type=int, help="at least so many; up to four times as many under foreign load")
    result.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    result.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="default: %(default)s")
    result.add_argument("--section", choices=SECTIONS, default="variants", help="default: %(default)s; flags change it")
    result.add_argument("--quick", action="store_const", const="quick", dest="section", help="a five-minute selection")
    return result


def settings(arguments: argparse.Namespace, error: Any) -> dict[str, Any]:
    """What to run, checked."""
    base = SECTIONS[arguments.section]

    def chosen(name: str, legal: Sequence[str] | None) -> list[str]:
        given = getattr(arguments, name)
        words = [str(w) for w in getattr(base, name)] if given is None else " ".join(given).replace(",", " ").split()
        for word in words:
            if legal is None and not (word.isdigit() and int(word) >= 16):
                error(f"--{name}: {word!r} is not a whole number of at least 16")
            if legal is not None and word not in legal:
                error(f"--{name}: unknown {word!r}; one of {', '.join(legal)}")
        return list(dict.fromkeys(words))

    rounds = base.rounds if arguments.rounds is None else arguments.rounds
    if rounds < 1:
        error("--rounds: at least 1")
    return {
        "variants": chosen("variants", tuple(CASES)),
        "lengths": [int(word) for word in chosen("lengths", None)],
        "dtypes": chosen("dtypes", tuple(DTYPES)),
        "contenders": chosen("contenders", CONTENDERS),
        "rounds": rounds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 where a contender failed or computed something else."""
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {text}", flush=True)

    flags = parser()
    arguments = flags.parse_args(argv)
    wanted = settings(arguments, flags.error)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    description = machine.describe()
    for name, value in description.items():
        print(f"{name:>18}: {' '.join(value) if isinstance(value, list) else value}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as cache, torch.no_grad():
        cells = run_all(wanted, description, arguments.out, cache, say)
    print("\n" + report.details(cells))
    print("\ntime(contender) / time(flashlight), medians over the rounds; ~ where the times never became steady")
    print(report.ratios(cells))
    if table := report.masks(cells):
        print("\nmasks: our time over that of our dense kernel; time(contender) / time(flashlight)\n" + table)
    if len(wanted["lengths"]) > 1:
        print("\nflashlight's time per operation by length\n" + report.lengths(cells))
    print(_notes(cells))
    title = f"{description['cpu']}, {description['threads']} threads, torch {description['torch']}"
    if report.plot(arguments.out / "bench.png", title, cells):
        say(f"wrote {arguments.out / 'bench.png'}")
    else:
        say("no plot: matplotlib is missing or there is nothing to compare")
    say(f"wrote {arguments.out / 'bench.json'}")
    return int(any(figure.problem for cell in cells for figure in cell.figures))


def run_all(wanted: dict[str, Any], description: dict[str, Any], out: Path, cache: str, say: Any) -> list[Cell]:
    """Every cell, with the results so far on disk after each; compilers begin with empty caches."""
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(cache) / "inductor")
    cells: list[Cell] = []
    try:
        say("starting the compilers")
        compile_tools(wanted["contenders"], str(Path(cache) / "flashlight"))
        plan = Plan(wanted["contenders"], wanted["rounds"], str(Path(cache) / "flashlight"))
        todo = [(v, d, n) for n in wanted["lengths"] for d in wanted["dtypes"] for v in wanted["variants"]]
        size = min(2048, max(256, *wanted["lengths"]))
        probes = {dtype: measure.Probe(DTYPES[dtype], size) for dtype in wanted["dtypes"]}
        for number, (variant, dtype, length) in enumerate(todo, 1):
            say(f"{number}/{len(todo)} {variant} {dtype} {length}")
            cell = run_cell(variant, DTYPES[dtype], length, plan, probes[dtype], say)
            cells.append(cell)
            say(f"{number}/{len(todo)} {summary(cell)}")
            report.write_json(out / "bench.json", description, wanted, cells)
    finally:
        if kept is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept
    return cells


def summary(cell: Cell) -> str:
    """A cell in a line."""
    ratios = " ".join(f"{f.contender} {f.milliseconds:.3g} ms" for f in cell.figures if f.samples)
    doubt = "" if cell.steady else ", NOT STEADY"
    return f"{cell.name}: {ratios} ({cell.rounds} rounds, foreign load {cell.foreign_load:.0%}{doubt})"


def _notes(cells: Sequence[Cell]) -> str:
    """Measured rates, loads and problems."""
    lines = []
    for dtype in dict.fromkeys(cell.dtype for cell in cells):
        rates = [cell.matmul_rate / 1e9 for cell in cells if cell.dtype == dtype]
        copies = [cell.copy_bandwidth / 1e9 for cell in cells if cell.dtype == dtype]
        matmul, copy = f"{min(rates):.0f}-{max(rates):.0f} GFLOP/s", f"{min(copies):.1f}-{max(copies):.1f} GB/s"
        lines.append(f"{dtype}: torch.mm {matmul}, copy {copy}")
    lines += [f"{cell.name}: {f.contender}: {f.problem}" for cell in cells for f in cell.figures if f.problem]
    if unsteady := [cell.name for cell in cells if not cell.steady]:
        lines.append(f"not steady, run these again on a quiet machine: {'; '.join(unsteady)}")
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
