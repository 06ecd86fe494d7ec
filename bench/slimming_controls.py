"""Slimming against its controls at equal parameters: other criteria, random pruning, and the same net from scratch.

All start from the same dense network (but the last, which starts from fresh weights), are cut to the parameter count
that slimming reaches at the given ratio, get new BN statistics, and train for the same number of epochs at the same
rate, plainly (no teacher), so that only the choice of channels differs.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from slimfer.compress.config import Criterion, Limits, PruneConfig, SlimConfig
from slimfer.compress.prune import prune
from slimfer.compress.slim import slim
from slimfer.data.frames import Dataset
from slimfer.metrics import score
from slimfer.model.complexity import complexity
from slimfer.report.tables import Table
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.evaluate import predict_logits, softmax
from slimfer.train.loop import fit, initial

NAMES: Mapping[Criterion, str] = {
    "l1": "L1-norm pruning",
    "l2": "L2-norm pruning",
    "fpgm": "geometric-median pruning",
    "taylor": "Taylor pruning",
    "random": "random pruning",
}


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        criteria: those of the controls.
        slim: the cut whose parameter count the controls are given.
        finetune: the training after every cut.
    """

    criteria: tuple[Criterion, ...] = ("l1", "fpgm", "taylor", "random")
    slim: SlimConfig = field(
        default_factory=lambda: SlimConfig(ratio=0.65, limits=Limits(round_to=8, max_layer_ratio=0.85))
    )
    finetune: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=2, lr=0.02))


def run(settings: Settings, dense: Checkpoint, dataset: Dataset, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Cut, train and score every contestant; the dense network is the first row."""
    train, validation = dataset["train"], dataset["validation"]

    def accuracy(checkpoint: Checkpoint) -> float:
        probabilities = softmax(predict_logits(checkpoint.build(), validation))
        return float(score(probabilities, validation.labels, validation.classes)["accuracy"])

    slimmed = slim(dense, settings.slim, train)
    params = _cost(slimmed)["params"]
    scratch = initial(slimmed.spec, dense.labels, seed=settings.finetune.seed)
    controls = (PruneConfig(name, params=params, limits=settings.slim.limits) for name in settings.criteria)
    cuts = {
        "network slimming": slimmed,
        **{NAMES[control.criterion]: prune(dense, train, control) for control in controls},
        "slimmed net from scratch": scratch,
    }
    rows = [{"name": "dense", **_cost(dense), "cut": accuracy(dense), "trained": None}]
    for name, checkpoint in cuts.items():
        note(f"training: {name}")
        trained = fit(checkpoint, train, validation, settings.finetune)
        rows.append({"name": name, **_cost(checkpoint), "cut": accuracy(checkpoint), "trained": accuracy(trained)})
    return {"settings": asdict(settings), "network": dense.spec.to_dict(), "rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return the comparison as a table."""
    epochs = result["settings"]["finetune"]["epochs"]
    header = ("choice of channels", "parameters", "MACs", "after the cut %", f"after {epochs} epochs %")
    rows = [
        (
            row["name"],
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:.1f} M",
            f"{100 * row['cut']:.2f}",
            "–" if row["trained"] is None else f"{100 * row['trained']:.2f}",
        )
        for row in result["rows"]
    ]
    return Table(header, rows, (False, True, True, True, True))


def _cost(checkpoint: Checkpoint) -> dict[str, int]:
    cost = complexity(checkpoint.build(), checkpoint.spec.channels, checkpoint.spec.image)
    return {"params": cost.params, "macs": cost.macs}
