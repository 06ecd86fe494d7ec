"""How much a network loses when one part of it alone is cut or rounded: what a search for the best compression reads.

Two kinds of trials, each of the whole network with one change:

* `cut`: of one group of channels (see `slimfer.compress.surgery.groups_of`) the weakest share goes. BN scales say which
  (network slimming), or the L1 norms of filters where there are none. What the removed channels carried is folded
  onward, and the BN statistics behind the cut are measured anew on training pictures, as `slim` and `prune` do it.
* `bits`: the weights of one layer are rounded, scales and corrections as `quantize` makes them; activations and all
  other layers stay float.

Nothing is fine-tuned. Every trial reads the same sample of pictures as the unchanged network, so differences are paired
and much surer than accuracies. All layers before the change are computed once for all trials (`slimfer.model.prefix`).
"""

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from slimfer.compress.config import AnalyzeConfig
from slimfer.compress.prune import filter_scores, l1_norms
from slimfer.compress.quantize import CORRECTION_IMAGES, correct_layer, freeze_layer, to_tensor
from slimfer.compress.slim import gamma_scores
from slimfer.compress.surgery import channels_of, count_params, fold_constants, groups_of, relearning
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.metrics import paired_difference, sqnr_db
from slimfer.model.complexity import complexity
from slimfer.model.fold import fold, layer_calls
from slimfer.model.groups import Atoms, ChannelMap
from slimfer.model.narrow import remove_atoms
from slimfer.model.prefix import Prefix, reached
from slimfer.model.quant import QuantConv2d, QuantLinear
from slimfer.train.checkpoint import Checkpoint

BATCH = 128
Logits = npt.NDArray[np.float32]
Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One change: of group `name` the share `value` of channels goes, or the weights of layer `name` get `value` bits.

    The control changes nothing but the BN statistics, all of which it measures anew.
    """

    kind: Literal["control", "cut", "bits"]
    name: str
    value: float


@dataclass(frozen=True)
class Group:
    """Channels that can be cut to any width without touching others.

    Attributes:
        name: of the first layer that makes them; of all of them where that is not unique.
        layers: that make them: one, or those that add up to a residual stream.
        atoms: the channels, the weakest first.
        criterion: what their order goes by, `gamma` or `l1`.
    """

    name: str
    layers: tuple[str, ...]
    atoms: Atoms
    criterion: Literal["gamma", "l1"]

    def weakest(self, ratio: float) -> Atoms:
        """Return the share `ratio` of the channels that goes first, as near as possible; one always stays."""
        size = len(self.atoms)
        return np.sort(self.atoms[: size - max(1, round(size * (1 - ratio)))])


def find_groups(channels: ChannelMap) -> tuple[Group, ...]:
    """Return the groups of channels that may be cut, in the order of the layers that make them first."""
    free = channels.free_atoms()
    gamma, norms = (
        dict(zip(scores.atoms.tolist(), scores.values, strict=True))
        for scores in (gamma_scores(channels), filter_scores(channels, l1_norms))
    )
    found = groups_of(channels, free)
    firsts = Counter(layers[0] for layers in found)
    groups = []
    for layers, members in found.items():
        atoms = free[members]
        normed = all(int(atom) in gamma for atom in atoms)
        scores = np.array([(gamma if normed else norms)[int(atom)] for atom in atoms])
        name = layers[0] if firsts[layers[0]] == 1 else "+".join(layers)
        groups.append(Group(name, layers, atoms[np.argsort(scores, kind="stable")], "gamma" if normed else "l1"))
    order = [layer.name for layer in channels.producers()]
    return tuple(sorted(groups, key=lambda group: [order.index(name) for name in group.layers]))


class Sensitivity:
    """All trials on one network, ready to run in the order of `trials`.

    Attributes:
        groups: the channels that can be cut.
        layers: names of the layers whose weights can be rounded, in the order of execution.
        trials: all there is to try; cuts first, each kind in the order of the layers.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Frames,
        sample: Frames,
        config: AnalyzeConfig | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        """Trace the network.

        Args:
            checkpoint: a float network.
            calibration: training pictures, for BN statistics and for the corrections of rounded layers.
            sample: the pictures that every trial is judged on.
            config: which trials.
            device: where networks run, `cpu` or `cuda`.

        Raises:
            InputError: if the network is quantized already, or cannot be followed.
        """
        if checkpoint.quant:
            raise InputError("the network is quantized already; analyze the float network that it came from")
        self._config, self._device, self._spec = config or AnalyzeConfig(), device, checkpoint.spec
        self._sample, self._calibration = sample, calibration
        self._channels = channels_of(checkpoint, checkpoint.build())
        self._folded = fold(checkpoint.build())
        self.groups = find_groups(self._channels)
        self.layers = tuple(dict.fromkeys(str(node.target) for node in layer_calls(self._folded)))
        ratios, bits = self._config.ratios, self._config.bits
        self.trials = (
            *([Trial("control", "recalibrated", 0.0)] if ratios and self._config.recalibrate else []),
            *(Trial("cut", group.name, ratio) for group in self.groups for ratio in ratios),
            *(Trial("bits", layer, number) for layer in self.layers for number in bits),
        )

    def run(self, done: Collection[Trial] = ()) -> Iterator[Row]:
        """Yield the result of each trial that is not `done`; see `ROW` for the keys."""
        left = [trial for trial in self.trials if trial not in done]
        for graph, judge, kinds in (
            (self._channels.graph, self._cut, ("control", "cut")),
            (self._folded, self._round, ("bits",)),
        ):
            own = [trial for trial in left if trial.kind in kinds]
            if own:
                bench = _Bench(graph, self._sample, self._calibration, self._device)
                for trial in own:
                    yield {**vars(trial), **judge(bench, trial)}

    def _cut(self, bench: "_Bench", trial: Trial) -> Row:
        """Cut one group, or only measure all BN statistics anew."""
        variant = copy.deepcopy(self._channels)
        removed, place = np.array([], dtype=np.int64), 0
        told: Row = {}
        if trial.kind == "cut":
            group = next(group for group in self.groups if group.name == trial.name)
            removed = group.weakest(trial.value)
            place = min(reached(variant.graph, group.layers))
            told = {"kept": len(group.atoms) - len(removed), "channels": len(group.atoms)}
        bench.advance(place)
        readers = [layer.name for layer in variant.producers() if np.isin(layer.inputs, removed).any()]
        fold_constants(variant, removed)
        remove_atoms(variant, removed)
        graph = bench.ready(variant.graph)
        numbers = reached(graph, readers) if trial.kind == "cut" else set(range(len(graph.graph.nodes)))
        if self._config.recalibrate and numbers:
            with relearning(_norms(graph, numbers)):
                for _ in bench.calibration.finish(graph):
                    pass
        told |= {
            "params": count_params(self._channels, removed),
            "macs": complexity(graph, self._spec.channels, self._spec.image).macs,
        }
        return {**told, **bench.judge(graph)}

    def _round(self, bench: "_Bench", trial: Trial) -> Row:
        """Round the weights of one layer."""
        nodes = list(bench.graph.graph.nodes)
        calls = [number for number, node in enumerate(nodes) if node.target == trial.name]
        bench.advance(calls[0])
        layer = bench.graph.get_submodule(trial.name)
        rounded = round_layer(layer, int(trial.value))
        x = torch.cat(list(bench.calibration.inputs(calls[0])))[:CORRECTION_IMAGES]
        with torch.no_grad():
            expected, value = layer(x), rounded(x)
            if len(calls) == 1:  # as `correct`
                value = correct_layer(rounded, value, expected)
        bench.graph.add_submodule(trial.name, rounded)
        try:
            judged = bench.judge(bench.graph)
        finally:
            bench.graph.add_submodule(trial.name, layer)
        return {"sqnr_db": _finite(sqnr_db(expected.cpu().numpy(), value.cpu().numpy())), **judged}


def round_layer(layer: nn.Module, bits: int) -> QuantConv2d | QuantLinear:
    """Return a copy of a float layer with weights of `bits` bits, scales as `quantize` chooses them."""
    own = copy.deepcopy(layer)
    rounded = QuantConv2d.of(own, bits) if isinstance(own, nn.Conv2d) else QuantLinear.of(own, bits)  # type: ignore[arg-type]
    freeze_layer(rounded, 1.0)  # the input stays float; its scale would only bound the bias
    return rounded.eval()


def compare(before: Logits, after: Logits, labels: npt.NDArray[np.int64]) -> Row:
    """Return what a change did to the answers (N, K) for the same pictures; see `ROW`."""
    hits = [logits.argmax(1) == labels for logits in (before, after)]
    losses = [_nll(logits, labels) for logits in (before, after)]
    difference, low, high = paired_difference(hits[0], hits[1])
    return {
        "accuracy": float(hits[1].mean()),
        "drop": 0.0 - difference,
        "drop_ci95": [0.0 - high, 0.0 - low],
        "nll": float(losses[1].mean()),
        "nll_increase": float((losses[1] - losses[0]).mean()),
        "nll_increase_se": float((losses[1] - losses[0]).std() / np.sqrt(len(labels))),
        "same": float((before.argmax(1) == after.argmax(1)).mean()),
        "logits_sqnr_db": _finite(sqnr_db(before, after)),
    }


# What a row holds, besides the trial; keys that a kind of trial does not have are absent.
ROW: Mapping[str, str] = {
    "kept": "cut: channels of the group that stay",
    "channels": "cut: channels of the group before",
    "params": "cut: parameters of the whole network after it",
    "macs": "cut: multiply-adds of the whole network after it",
    "sqnr_db": "bits: signal to noise of the layer's own outputs, dB; null if nothing changed",
    "accuracy": "share of the sample that is read correctly",
    "drop": "accuracy lost against the unchanged network on the same pictures (fraction)",
    "drop_ci95": "95 % interval of the drop, paired",
    "nll": "mean cross-entropy, nats",
    "nll_increase": "what of it the change added",
    "nll_increase_se": "standard error of that, paired",
    "same": "share of the sample with the same label as before",
    "logits_sqnr_db": "signal to noise of the network's logits, dB; null if nothing changed",
}


class _Bench:
    """One form of the network with its cached activations, and its answers, which trials are compared to."""

    def __init__(self, graph: fx.GraphModule, sample: Frames, calibration: Frames, device: str) -> None:
        self.device, self.labels = device, sample.labels
        self.graph = self.ready(copy.deepcopy(graph))
        self.sample, self.calibration = (Prefix(self.graph, self._batches(frames)) for frames in (sample, calibration))
        self.logits = _answers(self.sample, self.graph)

    def ready(self, graph: fx.GraphModule) -> fx.GraphModule:
        return graph.eval().to(self.device)

    def advance(self, place: int) -> None:
        for prefix in (self.sample, self.calibration):
            prefix.advance(place)

    def judge(self, graph: fx.GraphModule) -> Row:
        return compare(self.logits, _answers(self.sample, graph), self.labels)

    def _batches(self, frames: Frames) -> Sequence[Tensor]:
        # Of even size: BN cannot learn from a last batch of one picture.
        count = -(-len(frames) // BATCH)
        return [
            batch.to(self.device).contiguous(memory_format=torch.channels_last)
            for batch in to_tensor(frames).chunk(count)
        ]


def _answers(prefix: Prefix, graph: fx.GraphModule) -> Logits:
    return np.concatenate([logits.float().cpu().numpy() for logits in prefix.finish(graph)])


def _norms(graph: fx.GraphModule, numbers: Collection[int]) -> list[nn.BatchNorm2d]:
    """Return the batch normalizations all of whose calls are among the nodes of these numbers."""
    calls: dict[str, list[int]] = {}
    for number, node in enumerate(graph.graph.nodes):
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(number)
    modules = ((graph.get_submodule(target), found) for target, found in calls.items())
    return [m for m, found in modules if isinstance(m, nn.BatchNorm2d) and set(found) <= set(numbers)]


def _nll(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(1, keepdims=True)
    return np.log(np.exp(x).sum(1)) - x[np.arange(len(labels)), labels]


def _finite(decibels: float) -> float | None:
    return decibels if np.isfinite(decibels) else None
