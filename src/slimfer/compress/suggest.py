"""Which layers to give fewer bits first, by what each lost alone: the lines to paste into a recipe.

A layer with fewer bits cannot truly be better, so of its measured losses the running maximum from many bits to few
counts, from 0 on. Starting with the most bits everywhere, always the change with the least loss per byte saved comes
next, over any number of levels of one layer, so the order follows each layer's lower convex hull. Losses add up only
roughly: the sum is an estimate, to be checked by `slimfer quantize` with these bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One layer gets fewer bits.

    Attributes:
        layer: its name.
        before: its bits until then.
        bits: its bits from then on.
        saved: bytes that this saves.
        loss: that this adds, nats.
        bytes: of all weights after this change.
        total: loss of all changes up to this one.
    """

    layer: str
    before: int
    bits: int
    saved: int
    loss: float
    bytes: int
    total: float

    @property
    def loss_per_kb(self) -> float:
        """Return nats per 1000 bytes saved."""
        return 1000 * self.loss / self.saved


def order_bits(losses: Mapping[str, Mapping[int, float]], sizes: Mapping[str, Mapping[int, int]]) -> list[Change]:
    """Return all changes that save bytes, those with the least loss per byte saved first.

    Args:
        losses: layer -> bits -> loss, as measured with everything else untouched.
        sizes: layer -> bits -> bytes of its weights.
    """
    rising = {layer: _rising(measured) for layer, measured in losses.items()}
    now = {layer: max(measured) for layer, measured in losses.items()}
    total, stored = 0.0, sum(sizes[layer][bits] for layer, bits in now.items())
    changes: list[Change] = []
    while options := [
        (rising[layer][bits] - rising[layer][now[layer]], sizes[layer][now[layer]] - sizes[layer][bits], layer, bits)
        for layer in now
        for bits in rising[layer]
        if sizes[layer][bits] < sizes[layer][now[layer]]
    ]:
        loss, saved, layer, bits = min(options, key=lambda option: (option[0] / option[1], -option[1], option[2]))
        total, stored = total + loss, stored - saved
        changes.append(Change(layer, now[layer], bits, saved, loss, stored, total))
        now[layer] = bits
    return changes


def within(changes: Sequence[Change], tolerance: float) -> dict[str, int]:
    """Return the bits of the layers that the first changes give fewer, as long as the losses add up to `tolerance`."""
    return {change.layer: change.bits for change in changes if change.total <= tolerance}


def _rising(measured: Mapping[int, float]) -> dict[int, float]:
    """Return the losses made to rise from many bits to few, 0 for the most."""
    bits = sorted(measured, reverse=True)
    worst, rising = measured[bits[0]], {}
    for number in bits:
        worst = max(worst, measured[number])
        rising[number] = worst - measured[bits[0]]
    return rising
