"""What a training has shown, as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tabulate import tabulate
from torch import Tensor

from flashlight.report.records import Report
from trainer.arguments import Settings
from trainer.comparison import furthest
from trainer.contenders import Contender
from trainer.measure import kept, largest_allocation, peak

WARM_UP = 2
"""Steps whose times do not count: they compile."""


def summary(
    settings: Settings, checked: Sequence[Contender], trained: Sequence[Contender], batch: Sequence[Tensor]
) -> str:
    """A line for each contender."""
    batch = [x.to(settings.device) for x in batch]
    count = batch[0].numel()
    headers = ["", "steps", "tokens/s", "ms/step", "MiB", "kept MiB", "first s", "loss", "from eager"]
    by_name = {c.name: c for c in checked}
    rows = []
    for contender in trained:
        seconds = statistics.median(contender.seconds[WARM_UP:] or contender.seconds)
        twin = by_name[contender.name]
        measure = peak if settings.device.startswith("cuda") else largest_allocation
        rows.append(
            (
                contender.name,
                len(contender.losses),
                f"{count / seconds:.0f}",
                f"{seconds * 1e3:.0f}",
                f"{measure(lambda c=contender: c.update(batch)):.1f}",
                f"{kept(lambda c=contender: c.loss_of(*batch), contender.model.parameters()):.1f}",
                f"{twin.seconds[0]:.1f}",
                f"{contender.losses[-1]:.4f}",
                f"{furthest(twin.losses, by_name['eager'].losses):.1e}",
            )
        )
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * 8))


def fused(reports: Sequence[Report]) -> str:
    """What Flashlight has to say of its graphs: a line each where all is well."""
    lines = []
    for report in reports:
        declined = [f"  {r.source}: declined, {r.reason}" for r in report.regions if not r.fused]
        stored = [f"  {s.source}: {s.op} {list(s.shape)} is stored, {s.reason}" for s in report.score_sized]
        left = [f"  {source}: {what}" for source, what in report.untouched]
        lines += [str(report).splitlines()[0], *dict.fromkeys([*declined, *stored, *left])]
    return "\n".join(lines)
