"""A training from its flags to its table: first the comparison without dropout, then the training itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import flashlight
from trainer import arguments, plot, table
from trainer.arguments import Settings
from trainer.comparison import allowed, distance
from trainer.contenders import Contender, contenders


@dataclass(frozen=True)
class Training:
    """A model and its text.

    ``build(dropout, sdpa)`` makes a module that returns the loss of a batch, if ``sdpa`` with PyTorch's own attention;
    ``batches(batch, length, seed)`` gives these without end.
    """

    name: str
    title: str
    defaults: Settings
    build: Callable[[float, bool], nn.Module]
    batches: Callable[[int, int, int], Iterator[tuple[Tensor, ...]]]


def run(training: Training, flags: Sequence[str] | None) -> int:
    """Compare, train, print and plot; 1 where the losses of a contender differ from eager's."""
    settings = arguments.read(training.title, training.defaults, flags)
    print(f"{training.name}: batches of {settings.batch} x {settings.length} tokens on {settings.device}", flush=True)
    torch._dynamo.reset()
    flashlight.reset()
    names = ("float64", *dict.fromkeys(("eager", *settings.contenders)))
    checked = train(training, settings, names, 0.0, dict.fromkeys(names, settings.check), "comparing")
    lengths = {n: settings.steps if n in ("eager", "flashlight") else settings.brief for n in settings.contenders}
    trained = train(training, settings, settings.contenders, settings.dropout, lengths, "training")
    picture = draw(training.name, settings, checked, trained)
    print(table.summary(settings, checked, trained, next(training.batches(settings.batch, settings.length, 0))))
    print(f"losses: {picture}")
    print(table.fused(flashlight.reports()))
    return verdict(checked)


def train(
    training: Training, settings: Settings, names: Sequence[str], dropout: float, steps: dict[str, int], title: str
) -> list[Contender]:
    """Contenders after their steps, which they took in turns, each with the same batches."""
    made = contenders(names, training.build, dropout, settings.seed, settings.device, settings.rate)
    batches = training.batches(settings.batch, settings.length, settings.seed)
    with tqdm(total=sum(min(steps[n], settings.steps) for n in names), desc=title, disable=None) as bar:
        for number in range(settings.steps):
            batch = tuple(x.to(settings.device) for x in next(batches))
            for contender in made[number % len(made) :] + made[: number % len(made)]:
                if number < steps[contender.name]:
                    contender.step(batch, settings.seed + number)
                    bar.set_postfix_str(f"{contender.name} {contender.losses[-1]:.4f}", refresh=False)
                    bar.update()
    return made


def draw(name: str, settings: Settings, checked: Sequence[Contender], trained: Sequence[Contender]) -> Path:
    """Both curves of every contender as a picture, and where it is."""
    picture = Path("out", f"{name}.png")
    panels = {"compared, without dropout": checked, f"trained, dropout {settings.dropout:g}": trained}
    plot.plot(picture, name, {title: {c.name: c.losses for c in them} for title, them in panels.items()})
    return picture


def verdict(checked: Sequence[Contender]) -> int:
    """Say how far each curve is from that of float64, and return 1 where one is too far."""
    exact, eager, *others = (c.losses for c in checked)
    limit, failed = allowed(eager, exact), 0
    print(f"first {len(exact)} losses without dropout, root mean square of the distance from float64:")
    print(f"  eager {distance(eager, exact):.1e}, so at most {limit:.1e} for others")
    for contender, losses in zip(checked[2:], others, strict=True):
        far = distance(losses, exact) > limit
        failed |= far
        print(f"  {contender.name} {distance(losses, exact):.1e}{': TOO FAR' if far else ''}")
    return int(failed)
