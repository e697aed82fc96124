"""What the forward of a training step keeps for the backward, besides the inputs and the outputs.

Inductor's partitioner ends the forward with what the backward reads:

    forward:  primals -> outputs, saved        backward:  saved, tangents -> gradients
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from flashlight.front.memory import describe, owner
from flashlight.front.regions import graph as g
from flashlight.front.regions import phases
from flashlight.report.records import StoredTensor


class Partition:
    """The two graphs of a training step, seen one after the other."""

    def __init__(self) -> None:
        self.results: list[fx.Node] = []
        """The tensors that the forward returns: outputs, then what the backward reads."""

    def see(self, graph: fx.Graph) -> list[StoredTensor] | None:
        """Look at the next graph; gives what is kept between the two where it is the backward of one seen before."""
        arguments = [n for n in graph.find_nodes(op="placeholder") if g.value(n) is not None]
        read = sum(not phases.is_tangent(n) for n in arguments)
        if read == len(arguments):
            self.results = _results(graph)
            return None
        results, self.results = self.results, []
        if len(results) < read:
            return None
        return kept(results[: len(results) - read], results[len(results) - read :])


def kept(outputs: Iterable[fx.Node], read: Iterable[fx.Node]) -> list[StoredTensor]:
    """What the backward reads and neither an argument nor an output holds: each memory once, the largest first."""
    held = set(map(owner, outputs))
    memories = [memory for memory in dict.fromkeys(map(owner, read)) if memory.op != "placeholder"]
    return sorted((describe(m) for m in memories if m not in held), key=lambda tensor: -tensor.bytes)


def _results(graph: fx.Graph) -> list[fx.Node]:
    returned: list[fx.Node] = []
    fx.map_arg(graph.output_node().args, returned.append)
    return [n for n in returned if g.value(n) is not None]
