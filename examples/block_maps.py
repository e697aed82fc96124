"""Which blocks of the scores are computed, for six masks written as comparisons of positions and ids.

python examples/block_maps.py            # drawn on the terminal
python examples/block_maps.py FOLDER     # and as a PNG file each
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import flashlight
from flashlight.runtime.op import observing
from flashlight.tools.drawing import Picture, picture_png, picture_text, pictures
from flashlight.tools.request import can_write_pictures

N = 1024
"""Positions of the sequence; as an image, 4 lines of 256 pixels."""
LINE = 256

Mask = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From positions of queries [N,1] and of keys [N] and some data, what is visible, [N,N]."""


def causal(i: Tensor, j: Tensor, _: Tensor) -> Tensor:
    return j <= i


def window_and_sinks(i: Tensor, j: Tensor, _: Tensor) -> Tensor:
    return (j <= i) & ((i - j < 128) | (j < 4))


def prefix(i: Tensor, j: Tensor, length: Tensor) -> Tensor:
    """length [1]: keys before it are visible to all."""
    return (j < length) | (j <= i)


def documents(i: Tensor, j: Tensor, document: Tensor) -> Tensor:
    """document [N]: ids of documents packed into one sequence."""
    return document[:, None] == document


def strided(i: Tensor, j: Tensor, _: Tensor) -> Tensor:
    return (j <= i) & ((i - j) % 256 < 32)


def neighbours(i: Tensor, j: Tensor, _: Tensor) -> Tensor:
    """Pixels at most 1 line and 20 columns away."""
    return ((i // LINE - j // LINE).abs() <= 1) & ((i % LINE - j % LINE).abs() <= 20)


def attend(mask: Mask) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Softmax attention under a mask."""

    def attention(q: Tensor, k: Tensor, v: Tensor, data: Tensor) -> Tensor:
        """q, k, v [B,H,N,D] -> [B,H,N,D]."""
        position = torch.arange(q.shape[2], device=q.device)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return scores.masked_fill(~mask(position[:, None], position, data), float("-inf")).softmax(-1) @ v

    return attention


def main(folder: str | None = None) -> None:
    """Compile each mask, compare with eager, draw what was computed."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, N, 64)
    lengths = torch.tensor([60, 250, 130, 30, 200, 100, 254])
    data = {prefix: torch.tensor([300]), documents: torch.repeat_interleave(torch.arange(len(lengths)), lengths)}
    for mask in (causal, window_and_sinks, prefix, documents, strided, neighbours):
        attention, given = attend(mask), data.get(mask, torch.zeros(1, dtype=torch.int64))
        torch._dynamo.reset()
        before = len(flashlight.reports())
        with torch.no_grad(), observing() as seen:
            actual = torch.compile(attention, backend="flashlight")(q, k, v, given)
        torch.testing.assert_close(actual, attention(q, k, v, given), rtol=1e-4, atol=1e-4)
        for regions, run in seen.distinct(flashlight.reports()[before:]):
            for picture in pictures(regions, run):
                show(mask.__name__, picture, folder)


def show(name: str, picture: Picture, folder: str | None) -> None:
    """On the terminal, and as a PNG file where that is asked for and possible."""
    print(f"{name}\n\n{picture_text(picture)}\n")
    if folder is not None and can_write_pictures():
        Path(folder).mkdir(parents=True, exist_ok=True)
        title = f"{name.replace('_', ' ')}: {picture.blocks.visited} of {picture.blocks.total} blocks"
        Path(folder, f"{name}.png").write_bytes(picture_png(picture, title))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="where PNG files go; created where there is none")
    main(parser.parse_args().folder)
