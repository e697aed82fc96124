"""python -m bench.gpu: hands work to worker processes within a time, and writes the table after every item."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import events, table

ROOT = Path(__file__).parent.parent.parent
SMOKE = ("full", "causal", "dead_rows", "differential", "by_keys", "train_full", "train_causal", "train_differential")
VARIANTS = ("causal", "full", "alibi", "document", "softcap", "window256", "differential", "sigmoid")
TRAINED = ("causal", "full", "softcap", "window256", "document", "alibi", "differential", "sigmoid")
STAGES = {
    "smoke": ("device", "triton", "rates", *(f"smoke:{name}" for name in SMOKE)),
    "first": tuple(f"cell:{name}:{dim}" for dim in (64, 128) for name in VARIANTS[:2]),
    "list": (),
    "train": (*(f"train:{name}:64" for name in TRAINED), "train:full:128", "train:causal:128"),
    "rest": tuple(f"cell:{name}:{dim}" for dim in (64, 128) for name in VARIANTS[2:]),
}
SILENCE = 100.0
"""Seconds without an event after which a worker is taken to hang."""
LIST_SECONDS = 180.0
"""What the tests on the device may take at most."""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    found = argparse.ArgumentParser("gpu_check", description="Does Flashlight run on this GPU, right, and how fast?")
    found.add_argument("--out", type=Path, default=Path("out/gpu"), metavar="DIR", help="default: %(default)s")
    found.add_argument("--seconds", type=float, default=540, help="for everything, default: %(default)s")
    found.add_argument("--stages", default=",".join(STAGES), help="some of %(default)s, in the order given")
    found.add_argument("--cells", default="", help="only these, such as causal:64,train:full:128")
    found.add_argument("--tests", default="", metavar="WORDS", help="only tests on the device that match, as -k")
    found.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1), help="of the tests")
    found.add_argument("--sizes", default="4x16x4096", help="batch x heads x length of the cells, default: %(default)s")
    found.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu exercises this script itself")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages; 1 where something failed."""
    flags = parser().parse_args(argv)
    stages = flags.stages.split(",")
    if unknown := set(stages) - set(STAGES):
        parser().error(f"unknown stages {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    out = flags.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    (out / events.FILE).unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as scratch:
        check = Check(flags, out, Path(scratch))
        for stage in stages:
            if stage == "list":
                check.tests()
            else:
                check.items([i for i in STAGES[stage] if not flags.cells or _chosen(i, flags.cells)])
    print(_table(out))
    print(f"everything, failures in full: {out / 'table.txt'}, {out / 'results.json'}, sources in {out / 'sources'}")
    return int(any(e.get("error") and e.get("outcome") != "passed" for e in events.read(out)))


def _table(out: Path) -> str:
    """The table, on disk too; what stops it as text, since the events are what matters."""
    try:
        return table.write(out)
    except Exception as error:
        return f"no table: {type(error).__name__}: {error}"


def _chosen(item: str, cells: str) -> bool:
    return not _is_cell(item) or item.removeprefix("cell:") in cells.split(",")


def _is_cell(item: str) -> bool:
    return item.startswith(("cell:", "train:"))


class Check:
    """One run of the script."""

    def __init__(self, flags: argparse.Namespace, out: Path, scratch: Path):
        self.flags, self.out, self.end = flags, out, time.monotonic() + flags.seconds
        caches = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "FLASHLIGHT_CACHE_DIR")
        self.environment = {**os.environ, **{name: str(scratch / name.split("_")[0].lower()) for name in caches}}
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONFAULTHANDLER": "1"}

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def items(self, items: Sequence[str]) -> None:
        """Work through items; those in which a worker dies are noted, and a cell goes on with its next contender."""
        todo, tries = list(items), dict.fromkeys(items, 0)
        while todo and self.left > 5:
            self._work(todo)
            done = {e["item"] for e in events.read(self.out) if e["kind"] == "end"}
            begun = [e["item"] for e in events.read(self.out) if e["kind"] == "begin"]
            todo = [i for i in todo if i not in done]
            if todo and begun and begun[-1] == todo[0]:
                tries[todo[0]] += 1
                if not _is_cell(todo[0]) or tries[todo[0]] > 5:
                    todo.pop(0)
            elif todo:
                events.add(self.out, "died", item=todo[0], error="the worker did not start", trace=self._log())
                todo.pop(0)
        for item in todo:
            print(f"no time left for {item}", flush=True)

    def _work(self, todo: Sequence[str]) -> None:
        """One worker, until it ends, hangs, or time is up."""
        command = [sys.executable, "-m", "bench.gpu.worker", str(self.out), self.flags.device, self.flags.sizes, *todo]
        seen, heard = len(events.read(self.out)), time.monotonic()
        with (self.out / "worker.log").open("a") as log:
            worker = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, cwd=ROOT, start_new_session=True
            )
            try:
                while worker.poll() is None:
                    time.sleep(0.2)
                    found = events.read(self.out)
                    if len(found) > seen:
                        self._say(found[seen:])
                        seen, heard = len(found), time.monotonic()
                    if self.left <= 0 or time.monotonic() - heard > SILENCE:
                        _kill(worker)
            finally:
                _kill(worker)
        self._say(events.read(self.out)[seen:])
        if worker.returncode:
            self._died(worker.returncode)
        _table(self.out)

    def _died(self, status: int) -> None:
        """Note where a worker ended, unless it told so itself."""
        why = "no time left" if self.left <= 0 else f"the worker ended with status {status}"
        last = (e for e in reversed(events.read(self.out)) if e["kind"] != "facts")
        where = next(last, {"kind": "begin", "item": ""})
        if where["kind"] in ("begin", "contender-begin"):
            facts = {k: where[k] for k in ("item", "cell", "contender") if k in where}
            events.add(self.out, "died", **{"item": "", **facts}, error=why, trace=f"{why}\n{self._log()}")
            print(f"  {why} in {facts}", flush=True)

    def _log(self, lines: int = 60) -> str:
        try:
            return "\n".join((self.out / "worker.log").read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _say(self, found: Sequence[dict[str, object]]) -> None:
        for e in found:
            if e["kind"] in ("end", "contender"):
                name = e.get("item") or f"{e.get('cell')} {e.get('contender')}"
                figure = e.get("milliseconds")
                result = str(e.get("error") or "ok").splitlines()[0] if figure is None else f"{figure:.3f} ms"
                print(f"[{self.flags.seconds - self.left:5.0f} s] {name}: {result[:160]}", flush=True)
        if any(e["kind"] == "end" for e in found):
            _table(self.out)

    def tests(self) -> None:
        """The tests that are marked as needing a GPU, in many processes: most of their time is compiling."""
        seconds = min(LIST_SECONDS, self.left - 5)
        if seconds < 20:
            print("no time left for the tests on the device", flush=True)
            return
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"]
        if importlib.util.find_spec("xdist") and self.flags.processes > 1:
            command += ["-n", str(self.flags.processes), "--dist", "worksteal"]
        if self.flags.tests:
            command += ["-k", self.flags.tests]
        extra = {"FLASHLIGHT_GPU_EVENTS": str(self.out), "FLASHLIGHT_TUNE_SECONDS": "0", "OMP_NUM_THREADS": "1"}
        extra |= {"TORCHINDUCTOR_COMPILE_THREADS": "1", "FLASHLIGHT_GPU_DEVICE": self.flags.device}
        with (self.out / "tests.log").open("w") as log:
            run = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment | extra, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
            try:
                run.wait(seconds)
            except subprocess.TimeoutExpired:
                events.add(self.out, "died", item="list", error=f"the tests took more than {seconds:.0f} s")
            finally:
                _kill(run)
        _table(self.out)
        print(f"[{self.flags.seconds - self.left:5.0f} s] {self._tail()}", flush=True)

    def _tail(self) -> str:
        lines = (self.out / "tests.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "the tests printed nothing"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process of ours and what it started, unless it has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
