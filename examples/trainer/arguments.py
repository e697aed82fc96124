"""The flags of a training, checked when they are read."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """What a training can be told: the flags of its script.

    ``check``: the first steps, without dropout, in which losses are compared with eager's. ``brief``: the steps of
    contenders other than eager and Flashlight, whose times are known after a few.
    """

    steps: int
    length: int
    batch: int
    contenders: tuple[str, ...]
    dropout: float = 0.0
    rate: float = 1e-3
    check: int = 4
    brief: int = 6
    seed: int = 0
    device: str = "cpu"


def read(title: str, defaults: Settings, arguments: Sequence[str] | None) -> Settings:
    """The settings that the flags give; `defaults.contenders` are those there are."""
    parser = argparse.ArgumentParser(description=title, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def flag(name: str, kind: Callable[[str], object], text: str) -> None:
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name), help=text, metavar=name.upper())

    flag("steps", whole(1), "steps of eager and Flashlight")
    flag("length", whole(16), "tokens of a sequence")
    flag("batch", whole(1), "sequences of a step")
    flag("contenders", names(defaults.contenders), f"some of {','.join(defaults.contenders)}")
    flag("dropout", probability, "of attention weights")
    flag("rate", probability, "of learning")
    flag("check", whole(1), "steps without dropout whose losses are compared with float64")
    flag("brief", whole(1), "steps of the other contenders at most")
    flag("seed", whole(0), "of weights, batches and dropout")
    flag("device", device, "such as cpu or cuda")
    return Settings(**vars(parser.parse_args(arguments)))


def whole(least: int) -> Callable[[str], int]:
    """Whole numbers of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number of at least {least}")
        return int(text)

    return read


def probability(text: str) -> float:
    """A number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of at least 0 and below 1")
    return value


def names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Different names with commas between them, each of them known."""

    def read(text: str) -> tuple[str, ...]:
        given = tuple(text.split(","))
        if len(set(given)) < len(given) or not set(given) <= set(known):
            raise argparse.ArgumentTypeError(f"got {text!r}, expected some of {','.join(known)}, each once")
        return given

    return read


def device(text: str) -> str:
    """A device that is there."""
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:
        reason = textwrap.shorten(str(error), 80)
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a device that is there: {reason}") from None
    return text
