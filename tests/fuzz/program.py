"""A program as data: sizes, inputs, steps, outputs.  It prints itself as a standalone script, which is what runs.

Step("p", "{0}.softmax(-1)", ("s",))                       prints   p = s.softmax(-1)
Step("t", "{0}[..., :3] = {1}", ("s", "x"), write=True)    prints   t = s; t[..., :3] = x
"""

from __future__ import annotations

import linecache
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from tests.fuzz import training
from tests.fuzz.data import Input
from tests.harness import leaves

HEADER = '''"""{title}"""

import torch
from torch.nn import functional as F

{sizes} = {values}
DTYPE = torch.{dtype}
INF = torch.inf{train}


def inputs(seed):
    torch.manual_seed(seed)
{inputs}
    return ({names},)


def fn({names}):
{steps}
    return ({outputs},)
'''

TAIL = '''

def main():
    """Largest errors against float64, ours and eager's, of every output."""
    args = inputs(0)
    exact = fn(*[a.double() if a.is_floating_point() else a for a in args])
    with torch.no_grad():
        ours = torch.compile(fn, backend="flashlight", options={"target": "TARGET"})(*args)
    for g, e, x in zip(ours, fn(*args), exact):
        g, e = ((t.double() - x.double()).nan_to_num(nan=INF) for t in (g, e))
        print(tuple(x.shape), "ours", g.abs().max().item(), "eager", e.abs().max().item())


if __name__ == "__main__":
    main()
'''

TRAIN_TAIL = '''

def step(f, args):
    """Outputs and gradients, in float64."""
    args = [a.detach().requires_grad_(a.is_floating_point()) for a in args]
    outputs = [o for o in f(*args) if o.requires_grad]
    tangents = [torch.randn(o.shape, generator=torch.Generator().manual_seed(0)).to(o.dtype) for o in outputs]
    gradients = torch.autograd.grad(outputs, [a for a in args if a.requires_grad], tangents, allow_unused=True)
    return [t.detach().double() for t in (*outputs, *gradients) if t is not None]


def main():
    """Largest errors against float64, ours and eager's, of every output and gradient."""
    args = inputs(0)
    exact = step(fn, [a.double() if a.is_floating_point() else a for a in args])
    ours = step(torch.compile(fn, backend="flashlight", options={"target": "TARGET"}), args)
    for g, e, x in zip(ours, step(fn, args), exact):
        g, e = ((t - x).nan_to_num(nan=INF) for t in (g, e))
        print(tuple(x.shape), "ours", g.abs().max().item(), "eager", e.abs().max().item())


if __name__ == "__main__":
    main()
'''


@dataclass(frozen=True)
class Step:
    """`out = text`, with {0}, {1}, ... for the arguments; write: the text assigns into its first argument in place.

    dims: its dimensions, "_" for one that has no name.
    """

    out: str
    text: str
    args: tuple[str, ...] = ()
    write: bool = False
    dims: tuple[str, ...] = ("_",)

    def lines(self) -> list[str]:
        if not self.write:
            return [f"{self.out} = {self.text.format(*self.args)}"]
        return [f"{self.out} = {self.args[0]}", self.text.format(self.out, *self.args[1:])]


@dataclass(frozen=True)
class Program:
    """sizes: the values of the names in the texts.  seed: what it was made from.  train: with gradients."""

    sizes: Mapping[str, int]
    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    dtype: str = "float32"
    seed: int = -1
    train: bool = False

    def script(self, title: str = "", target: str | None = None) -> str:
        """As the text of a module with `inputs(seed)` and `fn`; target: with a main that compiles and compares."""
        used = [n for n in self.sizes if re.search(rf"\b{n}\b", " ".join(self._texts()))] or list(self.sizes)[:1]
        text = HEADER.format(
            title=title or f"seed {self.seed}",
            sizes=", ".join(used),
            values=", ".join(str(self.sizes[n]) for n in used),
            dtype=self.dtype,
            train="\nTRAIN = True" if self.train else "",
            inputs="\n".join(f"    {i.name} = {i.expression()}" for i in self.inputs),
            names=", ".join(i.name for i in self.inputs),
            steps="\n".join(f"    {line}" for s in self.steps for line in s.lines()),
            outputs=", ".join(self.outputs),
        )
        tail = TRAIN_TAIL if self.train else TAIL
        return text + (tail.replace("TARGET", target) if target else "")

    def _texts(self) -> list[str]:
        return [i.expression() for i in self.inputs] + [s.text for s in self.steps]

    def live(self) -> Program:
        """Without steps and inputs that no output needs; steps that write into something needed stay."""
        needed, steps = set(self.outputs), []
        aliases = {s.out: s.args[0] for s in self.steps if s.write}
        for step in reversed(self.steps):
            written = step.write and _origin(step.out, aliases) in {_origin(n, aliases) for n in needed}
            if step.out in needed or written:
                steps.append(step)
                needed |= {step.out, *step.args}
        inputs = tuple(i for i in self.inputs if i.name in needed) or self.inputs[:1]
        return replace(self, inputs=inputs, steps=tuple(reversed(steps)))

    def renamed(self, old: str, new: str) -> Program:
        """Every use of a value replaced by another one."""

        def swap(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(new if n == old else n for n in names)

        steps = tuple(replace(s, args=swap(s.args)) for s in self.steps if s.out != old)
        return replace(self, steps=steps, outputs=swap(self.outputs))


def _origin(name: str, aliases: Mapping[str, str]) -> str:
    while name in aliases:
        name = aliases[name]
    return name


@dataclass(frozen=True)
class Case:
    """What is judged: a function and its data.  sizes: M and N, where the program has scores [..., M, N]."""

    fn: Callable[..., Any]
    inputs: Callable[[int], tuple[Any, ...]]
    dtype: Any
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Other names of the module: sizes, and what a program of the corpus says of itself."""

    @property
    def trains(self) -> bool:
        """Whether gradients are judged too."""
        return bool(self.facts.get("TRAIN"))

    def __call__(self, *args: Any) -> list[Tensor]:
        """What is judged, computed by eager."""
        return training.step(self.fn, args, self.dtype) if self.trains else leaves(self.fn(*args))


def load(text: str, name: str) -> Case:
    """The module of a script.  Its lines show in reports and tracebacks under the name."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    module = types.ModuleType("fuzzed_" + re.sub(r"\W", "_", name))
    sys.modules[module.__name__], space = module, module.__dict__  # where Dynamo looks for its names
    exec(compile(text, name, "exec"), space)  # the text is what the generator printed, or a file of the corpus
    return Case(space["fn"], space["inputs"], space["DTYPE"], name, space)
