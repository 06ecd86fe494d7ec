"""Dense-sparse-dense training against its control: training just as long at the same rates, without masks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from slimfer.compress.config import CompressConfig, DistillConfig, DsdConfig, MaskConfig
from slimfer.compress.pipeline import run_steps
from slimfer.compress.plan import dsd_steps
from slimfer.data.frames import Dataset
from slimfer.metrics import score
from slimfer.report.tables import Table
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.evaluate import predict_logits, softmax


@dataclass(frozen=True)
class Settings:
    """What is compared: DSD with each sparsity, and its control, with each seed; there is no teacher."""

    sparsities: tuple[float, ...] = (0.3,)
    seeds: tuple[int, ...] = (0, 1, 2)
    dsd: DsdConfig = field(
        default_factory=lambda: DsdConfig(sparse=TrainConfig(epochs=2, lr=0.02), dense=TrainConfig(epochs=2, lr=0.005))
    )


def run(settings: Settings, network: Checkpoint, dataset: Dataset, work: Path) -> dict[str, Any]:
    """Train and score every way; the network that all start from is the first row. Trainings go on in `work`."""
    validation = dataset["validation"]

    def accuracy(checkpoint: Checkpoint) -> float:
        answers = softmax(predict_logits(checkpoint.build(), validation))
        return float(score(answers, validation.labels, validation.classes)["accuracy"])

    rows: list[dict[str, Any]] = [{"name": "start", "sparsity": None, "accuracies": [accuracy(network)]}]
    for sparsity in (None, *settings.sparsities):
        name = "control, no masks" if sparsity is None else "dense-sparse-dense"
        row: dict[str, Any] = {"name": name, "sparsity": sparsity, "accuracies": [], "after_sparse": []}
        for seed in settings.seeds:
            dsd = replace(
                settings.dsd,
                control=sparsity is None,
                sparse=replace(settings.dsd.sparse, seed=seed),
                dense=replace(settings.dsd.dense, seed=seed),
            )
            config = CompressConfig(mask=MaskConfig(sparsity=sparsity or 0.0), dsd=dsd, distill=DistillConfig(weight=0))
            steps = dsd_steps(config)
            stages = run_steps(network, dataset, steps, work / f"seed{seed}-{sparsity or 'control'}")
            for key, stage in (("accuracies", stages[-1]), ("after_sparse", stages[-2])):
                row[key].append(accuracy(stage.checkpoint))
            print(f"{name} {sparsity}, seed {seed}: {row['accuracies'][-1]:.4f}", flush=True)
        rows.append(row)
    return {"settings": asdict(settings), "n": len(validation), "network": network.spec.to_dict(), "rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return mean, seeds and the gain over the control as a table."""
    control = next(row for row in result["rows"] if row["sparsity"] is None and row["name"] != "start")
    base = _mean(control["accuracies"])
    rows = []
    for row in result["rows"]:
        mean = _mean(row["accuracies"])
        after = row.get("after_sparse")
        rows.append(
            (
                row["name"],
                "–" if row["sparsity"] is None else f"{100 * row['sparsity']:.0f} %",
                f"{100 * _mean(after):.2f}" if after else "–",
                f"{100 * mean:.2f}",
                ", ".join(f"{100 * value:.2f}" for value in row["accuracies"]),
                f"{100 * (mean - base):+.2f}".replace("-", "−"),
            )
        )
    header = ("training", "sparsity", "after the sparse phase %", "accuracy %", "by seed", "over the control")
    return Table(header, tuple(rows), (False, True, True, True, True, True))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
