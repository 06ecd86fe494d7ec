"""What a plan would cost before anything is cut: bytes of the file, multiply-adds and milliseconds, for many at once.

Shapes: N states, G groups of channels, L convolutions and linear layers.

Multiply-adds are exact. Bytes are those of weights at their bits, of scales and biases, and a rest (graph, metadata)
that is set from files that were really written. Milliseconds are a sum over the layers of what was fitted to files that
were really timed. What counts in the end is always the file itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from torch import nn

from slimfer.compress.search import Costs, Knob, Levels, Plan
from slimfer.compress.sensitivity import Group
from slimfer.export.pack import GROUP_BYTES, stored_bits
from slimfer.model.complexity import Complexity
from slimfer.model.groups import Atoms, ChannelMap

Values = npt.NDArray[np.float64]

# Per output channel: a scale of 4 bytes and a bias of 2, or 3 if it is large.
CHANNEL_BYTES = 6.5
SIZE, LATENCY, MACS = range(3)  # the order of the costs


@dataclass(frozen=True)
class Shapes:
    """The convolutions and linear layers of a network, whose widths follow from those of the groups.

    Attributes:
        groups: names of the groups of channels.
        layers: names of the layers.
        fixed: (L, 2) inputs and outputs that cannot be cut.
        per_channel: (2, L, G) inputs and outputs of each layer that go with one channel of each group.
        weights: (L,) weights per pair of an input and an output channel.
        macs: (L,) multiply-adds per such pair.
        outputs: (L,) elements of the result per output channel.
        depthwise: (L,) whether each output reads only the input of the same number.
    """

    groups: tuple[str, ...]
    layers: tuple[str, ...]
    fixed: Values
    per_channel: Values
    weights: Values
    macs: Values
    outputs: Values
    depthwise: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, channels: ChannelMap, groups: Sequence[Group], cost: Complexity) -> "Shapes":
        """Take the shapes of a network from its channels and from what it costs."""
        layers = [layer for layer in channels.layers if not isinstance(layer.module, nn.BatchNorm2d)]
        rows = {row.name: row for row in cost.layers}
        per_channel = np.zeros((2, len(layers), len(groups)))
        fixed = np.zeros((len(layers), 2))
        weights, macs, outputs, depthwise = [], [], [], []
        for number, layer in enumerate(layers):
            row, (w_in, w_out) = rows[layer.name], (len(layer.inputs), len(layer.outputs))
            for side, atoms in enumerate((layer.inputs, layer.outputs)):
                found = [_count(atoms, group.atoms) for group in groups]
                per_channel[side, number] = [n / len(group.atoms) for n, group in zip(found, groups, strict=True)]
                fixed[number, side] = len(atoms) - sum(found)
            pairs = w_out if layer.depthwise else w_in * w_out
            weights.append(layer.module.weight.numel() / pairs)  # type: ignore[operator]
            macs.append(row.macs / pairs)
            outputs.append(row.activations / w_out)
            depthwise.append(layer.depthwise)
        return cls(
            tuple(group.name for group in groups),
            tuple(layer.name for layer in layers),
            fixed,
            per_channel,
            np.array(weights),
            np.array(macs),
            np.array(outputs),
            np.array(depthwise, dtype=bool),
        )

    def widths(self, kept: Values) -> tuple[Values, Values]:
        """Return inputs and outputs (N, L) of all layers when the groups keep `kept` (N, G) channels."""
        w_in, w_out = (kept @ self.per_channel[side].T + self.fixed[:, side] for side in (0, 1))
        return w_in, w_out

    def pairs(self, kept: Values) -> Values:
        """Return pairs (N, L) of an input and an output channel that have weights."""
        w_in, w_out = self.widths(kept)
        return np.where(self.depthwise, w_out, w_in * w_out)


@dataclass(frozen=True)
class Estimate:
    """Costs of states of the knobs: a `slimfer.compress.search.CostModel`, in the order SIZE, LATENCY, MACS.

    Attributes:
        shapes: of the network.
        knobs: what can be turned.
        ends: layer -> bits, of layers whose bits are not open.
        rest: bytes that no state changes.
        pace: milliseconds per file, per multiply-add and per element of a result; without it all take the same time.
        slower: factor on the milliseconds.
    """

    shapes: Shapes
    knobs: tuple[Knob, ...]
    ends: Mapping[str, int]
    rest: float = 0.0
    pace: tuple[float, float, float] | None = None
    slower: float = 1.0

    def __call__(self, states: Levels) -> Costs:
        """Return costs (N, 3) of states (N, knobs)."""
        return self._costs(*self._values(states))

    def of_plan(self, plan: Plan) -> Values:
        """Return the costs (3,) of one plan, whose widths need not be levels of the knobs."""
        kept, bits = self.values(plan)
        costs: Values = self._costs(kept, bits)[0]
        return costs

    def values(self, plan: Plan) -> tuple[Values, Values]:
        """Return channels of the groups (1, G) and bits of the layers (1, L) of a plan."""
        kept = np.array([[plan.keep[name] for name in self.shapes.groups]], dtype=np.float64)
        bits = [[plan.bits.get(name, self.ends.get(name, 8)) for name in self.shapes.layers]]
        return kept, np.array(bits, dtype=np.float64)

    def features(self, kept: Values) -> Values:
        """Return what the time depends on (N, 3): 1, multiply-adds, elements of the results."""
        elements = (self.shapes.widths(kept)[1] * self.shapes.outputs).sum(1)
        return np.stack([np.ones(len(kept)), self._macs(kept), elements], axis=1)

    def _costs(self, kept: Values, bits: Values) -> Costs:
        return np.stack([self._bytes(kept, bits), self._milliseconds(kept), self._macs(kept)], axis=1)

    def _bytes(self, kept: Values, bits: Values) -> Values:
        weights = self.shapes.pairs(kept) * self.shapes.weights
        total: Values = self.rest + CHANNEL_BYTES * self.shapes.widths(kept)[1].sum(1)
        for number in np.unique(bits):
            plain = np.where(bits == number, weights, 0.0).sum(1)
            # Weights of few bits need operators that expand them; where that saves nothing they stay bytes.
            total = total + np.minimum(plain * stored_bits(int(number)) / 8 + GROUP_BYTES, plain)
        return total

    def _macs(self, kept: Values) -> Values:
        total: Values = (self.shapes.pairs(kept) * self.shapes.macs).sum(1)
        return total

    def _milliseconds(self, kept: Values) -> Values:
        if self.pace is None:
            return np.ones(len(kept))
        return self.slower * (self.features(kept) @ np.array(self.pace))

    def _values(self, states: Levels) -> tuple[Values, Values]:
        """Return channels of the groups (N, G) and bits of the layers (N, L)."""
        columns = {
            (knob.kind, knob.name): np.array(knob.levels, dtype=np.float64)[states[:, index]]
            for index, knob in enumerate(self.knobs)
        }
        kept = [columns["cut", name] for name in self.shapes.groups]
        bits = [
            columns["bits", name] if ("bits", name) in columns else np.full(len(states), float(self.ends.get(name, 8)))
            for name in self.shapes.layers
        ]
        return np.stack(kept, axis=1) if kept else np.zeros((len(states), 0)), np.stack(bits, axis=1)


def fit_pace(features: Values, milliseconds: Values) -> tuple[float, float, float]:
    """Return the milliseconds per feature that fit measured times best, none below 0, by least squares of ratios.

    Args:
        features: (N, 3), see `Estimate.features`.
        milliseconds: (N,) measured.
    """
    scaled = features / milliseconds[:, None]
    best, least = np.zeros(features.shape[1]), np.inf
    for count in range(1, features.shape[1] + 1):
        for chosen in combinations(range(features.shape[1]), count):
            columns = list(chosen)
            unit = np.abs(scaled[:, columns]).max(0)  # multiply-adds are a million times as many as files
            weights = np.linalg.lstsq(scaled[:, columns] / unit, np.ones(len(scaled)), rcond=None)[0] / unit
            error = float(np.square(scaled[:, columns] @ weights - 1).sum())
            if (weights >= 0).all() and error < least - 1e-12:
                best, least = np.zeros(features.shape[1]), error
                best[columns] = weights
    return float(best[0]), float(best[1]), float(best[2])


def _count(atoms: Atoms, members: Atoms) -> int:
    return int(np.isin(atoms, members).sum())
