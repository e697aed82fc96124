"""Loss curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot(path: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """One panel beside the other, each with the losses of every contender by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4), layout="constrained", squeeze=False)
    figure.suptitle(title)
    for axis, (name, curves) in zip(axes[0], panels.items(), strict=True):
        for style, (contender, losses) in zip(("-", "--", "-.", ":", "-"), curves.items(), strict=False):
            axis.plot(range(1, len(losses) + 1), losses, style, label=contender, linewidth=1.2)
        axis.set(title=name, xlabel="step", ylabel="loss")
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
