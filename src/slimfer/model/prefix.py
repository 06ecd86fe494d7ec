"""Run the unchanged beginning of a network once, and only the rest for each variant of it.

A variant is a graph with the same nodes, some of whose layers are others. Up to the first node that such a layer
reaches, all variants compute the same; `Prefix` keeps what is alive there, per batch of pictures, and finishes any
variant from it. Going on to later places lets go of what is no longer needed, so variants are best tried in the order
of the layers that they change.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

MEMORY = 1 << 31  # bytes


class Prefix:
    """The values of a graph's nodes that are alive at one place, for each batch."""

    def __init__(self, graph: fx.GraphModule, batches: Sequence[Tensor], *, memory: int = MEMORY) -> None:
        """Begin before the first node.

        Args:
            graph: the network, in evaluation mode.
            batches: its inputs, (N, C, H, W) each.
            memory: bytes that kept values may take; batches beyond it are computed from the start each time.
        """
        self.graph, self.memory = graph, memory
        self._batches = tuple(batches)
        self._states: list[_State] = [_State() for _ in batches]
        self._dying = _last_uses(graph)

    @property
    def bytes(self) -> int:
        """Return what the kept values take."""
        return sum(state.bytes() for state in self._states)

    @torch.no_grad()
    def advance(self, place: int) -> None:
        """Go on to just before node number `place`.

        Raises:
            ValueError: if `place` was passed already.
        """
        used = 0
        for index, batch in enumerate(self._batches):
            state = self._states[index]
            if state.place > place:
                raise ValueError(f"place {place} is passed already, the values of {state.place} are kept")
            run = _Run(self.graph, batch, state.place, state.values)
            run.go_to(place, self._dying)
            kept = _State(place, run.values())
            used += kept.bytes()
            if used > self.memory:
                used -= kept.bytes()
                kept = _State()
            self._states[index] = kept

    @torch.no_grad()
    def finish(self, graph: fx.GraphModule) -> Iterator[Tensor]:
        """Yield what `graph` answers for each batch; up to the place reached it must compute what the network does."""
        for batch, state in zip(self._batches, self._states, strict=True):
            run = _Run(graph, batch, state.place, state.copies())
            run.go_to(len(run.nodes), self._dying)
            yield run.answer

    @torch.no_grad()
    def inputs(self, place: int) -> Iterator[Tensor]:
        """Yield, for each batch, what node number `place`, the one reached, reads (its first argument)."""
        for batch, state in zip(self._batches, self._states, strict=True):
            run = _Run(self.graph, batch, state.place, state.copies())
            run.go_to(place, self._dying)
            yield run.env[run.nodes[place].all_input_nodes[0]]


def reached(graph: fx.GraphModule, targets: Collection[str]) -> set[int]:
    """Return the numbers of the nodes that call one of the modules `targets`, or read what such a node makes."""
    found: set[fx.Node] = set()
    numbers = set()
    for number, node in enumerate(graph.graph.nodes):
        called = node.op == "call_module" and node.target in targets
        if called or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
            numbers.add(number)
    return numbers


class _State:
    """A place, and the values of nodes before it, by number, that are read from there on."""

    def __init__(self, place: int = 0, values: dict[int, Any] | None = None) -> None:
        self.place, self.values = place, values or {}

    def copies(self) -> dict[int, Any]:
        """Return the values with tensors of their own: layers may work in place."""
        # A tensor that is the value of two nodes has to stay one.
        copied = {id(value): value.clone() for value in self.values.values() if isinstance(value, Tensor)}
        return {number: copied.get(id(value), value) for number, value in self.values.items()}

    def bytes(self) -> int:
        tensors = {id(value): value for value in self.values.values() if isinstance(value, Tensor)}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class _Run(fx.Interpreter):
    """One pass over a graph, begun at a place with the values that are alive there."""

    def __init__(self, graph: fx.GraphModule, batch: Tensor, place: int, values: dict[int, Any]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.extra_traceback = False  # else fx adds six lines to each error
        self.nodes = list(graph.graph.nodes)
        self.place = place
        self.args_iter = iter([batch.clone()])  # the first layer may work in place as well
        self.env = {self.nodes[number]: value for number, value in values.items()}
        self.answer: Any = None

    def go_to(self, place: int, dying: Sequence[Sequence[int]]) -> None:
        """Run the nodes up to `place`, letting go of values that nothing reads any more."""
        for number in range(self.place, place):
            self.answer = self.env[self.nodes[number]] = self.run_node(self.nodes[number])
            for dead in dying[number]:
                del self.env[self.nodes[dead]]
        self.place = max(place, self.place)

    def values(self) -> dict[int, Any]:
        return {number: self.env[node] for number, node in enumerate(self.nodes) if node in self.env}


def _last_uses(graph: fx.GraphModule) -> list[list[int]]:
    """Return, for each node by number, the values that nothing reads after it."""
    numbers = {node: number for number, node in enumerate(graph.graph.nodes)}
    dying: list[list[int]] = [[] for _ in numbers]
    seen: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        for used in (node, *node.all_input_nodes):
            if used not in seen:
                seen.add(used)
                dying[numbers[node]].append(numbers[used])
    return dying
