"""The process that works through items; it ends where the device cannot be used any more.

    python -m bench.gpu.worker OUT cuda rates smoke:full cell:causal:64

An item leaves "begin" and "end" events; a cell leaves a "contender" event for each contender, and what has one already,
or was begun and never ended, is not run again.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

FATAL_STATUS = 3


def main(arguments: list[str]) -> int:
    """Run the items in order.  Arguments: folder, device, batch x heads x length, items."""
    out, device, sizes, *items = arguments
    work = Worker(Path(out), device, [int(n) for n in sizes.split("x")])
    for item in items:
        work.run(item)
    return 0


class Worker:
    """Runs items and writes what comes of them."""

    def __init__(self, out: Path, device: str, sizes: list[int]):
        from bench.gpu import events
        from bench.gpu.cells import Sizes

        self.out, self.device = out, device
        self.sizes = Sizes(*sizes, device=device)
        self.events = events

    def run(self, item: str) -> None:
        """One item, guarded."""
        kind, *rest = item.split(":")
        self.events.add(self.out, "begin", item=item)
        try:
            found = {"device": self._device, "rates": self._rates, "triton": self._triton, "smoke": self._smoke,
                     "cell": self._cell, "train": self._train}[kind](*rest)  # fmt: skip
            self.events.add(self.out, "end", item=item, **found)
        except Exception as error:
            self._failed("end", error, item=item)
        gc.collect()

    def _failed(self, kind: str, error: Exception, **facts: Any) -> None:
        """Write the error down; end the process if the device is lost."""
        from bench.gpu.device import is_fatal

        self.events.add(self.out, kind, error=f"{type(error).__name__}: {error}", trace=traceback.format_exc(), **facts)
        if is_fatal(error):
            sys.stdout.flush()
            os._exit(FATAL_STATUS)

    def _device(self) -> dict[str, Any]:
        from bench.gpu.device import describe

        return describe(self.device)

    def _rates(self) -> dict[str, Any]:
        from bench.gpu.device import rates

        return rates(self.device, 8192 if self.device == "cuda" else 256)

    def _triton(self) -> dict[str, Any]:
        """The smallest kernel that needs matrix units, launched."""
        import torch

        from flashlight.codegen.offline import load_function
        from flashlight.tools.doctor import PROBE

        matrix = (torch.eye(16) * 3).to(self.device)
        result = torch.empty_like(matrix)
        load_function(PROBE, "probe")[(1,)](matrix, result, 16)
        if not torch.equal(result.cpu(), torch.eye(16) * 9):
            raise AssertionError(f"a matrix product came out wrong: {result}")
        return {}

    def _smoke(self, name: str) -> dict[str, Any]:
        from bench.gpu.smoke import run

        return run(name, self.device)

    def _cell(self, variant: str, dim: str) -> dict[str, Any]:
        return self._contenders(f"{variant}:{dim}", variant, int(dim), train=False)

    def _train(self, variant: str, dim: str) -> dict[str, Any]:
        return self._contenders(f"train:{variant}:{dim}", variant, int(dim), train=True)

    def _contenders(self, name: str, variant: str, dim: int, train: bool) -> dict[str, Any]:
        import torch

        from bench.gpu.cells import CONTENDERS, Cell

        known = {e["contender"] for e in self.events.read(self.out) if e.get("cell") == name}
        with torch.no_grad():
            cell = Cell(variant, dim, self.sizes, self.out, train)
            self.events.add(self.out, "facts", cell=name, **cell.facts())
            for contender in (c for c in CONTENDERS if c not in known):
                self._contender(cell.measure, contender, name)
            return {}

    def _contender(self, measure: Callable[[str], dict[str, Any]], contender: str, cell: str) -> None:
        self.events.add(self.out, "contender-begin", cell=cell, contender=contender)
        try:
            self.events.add(self.out, "contender", cell=cell, contender=contender, **measure(contender))
        except Exception as error:
            self._failed("contender", error, cell=cell, contender=contender)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
