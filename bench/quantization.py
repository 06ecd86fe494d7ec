"""Ways to integers by range method, correction, bits and training, against the float network that they start from.

Answers of the imitated integer network in torch; what the file answers is held to it by `slimfer.export.parity`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slimfer.compress.config import CompressConfig, DistillConfig, QatConfig, QuantizeConfig
from slimfer.compress.pipeline import run_steps
from slimfer.compress.plan import PlannedStep
from slimfer.compress.quantize import RANGES
from slimfer.data.frames import Dataset
from slimfer.metrics import score, sqnr_db
from slimfer.report.tables import Table
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.config import TrainConfig
from slimfer.train.evaluate import predict_logits, softmax


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        images: pictures to calibrate on.
        bits: of the weights after training only.
        methods: of quantization-aware training, each with (weights, activations) bits.
        train: the training with integers; the float network teaches.
    """

    images: int = 1024
    bits: tuple[int, ...] = (6, 4, 3, 2)
    methods: tuple[tuple[str, str, int, int], ...] = (
        ("lsq", "lsq", 8, 8),
        ("ste", "ste", 4, 8),
        ("dorefa", "ste", 4, 8),
        ("lsq", "lsq", 4, 8),
        ("lsq", "pact", 4, 4),
        ("lsq", "lsq", 4, 4),
        ("lsq", "lsq", 2, 8),
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1, lr=0.005))


def run(settings: Settings, network: Checkpoint, dataset: Dataset, work: Path) -> dict[str, Any]:
    """Quantize and score in every way; the float network is the first row. Trainings go on in `work`."""
    validation = dataset["validation"]
    reference = predict_logits(network.build(), validation)

    def row(name: str, way: str, bits: int, activations: int, checkpoint: Checkpoint) -> dict[str, Any]:
        logits = predict_logits(checkpoint.build(), validation)
        accuracy = score(softmax(logits), validation.labels, validation.classes)["accuracy"]
        print(f"{name}, {way}, {bits}/{activations} bits: {100 * accuracy:.2f} %", flush=True)
        return {
            "name": name,
            "way": way,
            "bits": bits,
            "activations": activations,
            "accuracy": accuracy,
            "sqnr_db": min(sqnr_db(reference, logits), 999.0),
            "agreement": float((reference.argmax(1) == logits.argmax(1)).mean()),
        }

    rows = [row("float", "–", 32, 32, network)]
    for name, way, kinds, config in _ways(settings, work):
        folder = work / f"{name}-{way}-{config.quantize.bits}-{config.quantize.activations}".replace(" ", "")
        end = run_steps(network, dataset, [PlannedStep(kind, config) for kind in kinds], folder)[-1].checkpoint
        rows.append(row(name, way, config.quantize.bits, config.quantize.activations, end))
    epochs = settings.train.epochs
    return {
        "images": settings.images,
        "epochs": epochs,
        "n": len(validation),
        "network": network.spec.to_dict(),
        "rows": rows,
    }


def _ways(settings: Settings, work: Path) -> Iterator[tuple[str, str, tuple[str, ...], CompressConfig]]:
    """Give (name, how, kinds of steps, settings) of each way."""
    plain = CompressConfig(
        quantize=QuantizeConfig(images=settings.images), distill=DistillConfig(cache=str(work / "answers"))
    )

    def after(way: str, **values: Any) -> tuple[str, str, tuple[str, ...], CompressConfig]:
        return "after training", way, ("quantize",), replace(plain, quantize=replace(plain.quantize, **values))

    for ranges in RANGES:
        yield after(f"{ranges}, not corrected", ranges=ranges, correct_bias=False)
        yield after(ranges, ranges=ranges)
    yield after("minmax, equalized", equalize=True)
    for bits in settings.bits:
        yield after("minmax, not corrected", bits=bits, correct_bias=False)
        yield after("minmax", bits=bits)
    yield after("minmax", activations=4)
    for weights, activations, bits, activation_bits in settings.methods:
        quantize = replace(plain.quantize, bits=bits, activations=activation_bits)
        qat = QatConfig(weights=weights, activations=activations, train=settings.train)  # type: ignore[arg-type]
        yield (
            "quantization-aware",
            f"{weights}, {activations}",
            ("quantize", "qat"),
            replace(plain, quantize=quantize, qat=qat),
        )


def table(result: Mapping[str, Any]) -> Table:
    """Return the comparison as a table."""
    header = ("training", "how", "weights", "activations", "accuracy %", "SQNR dB", "same label %")
    rows = [
        (
            row["name"],
            row["way"],
            f"{row['bits']} bits",
            f"{row['activations']} bits",
            f"{100 * row['accuracy']:.2f}",
            "–" if row["name"] == "float" else f"{row['sqnr_db']:.1f}",
            f"{100 * row['agreement']:.2f}",
        )
        for row in result["rows"]
    ]
    return Table(header, tuple(rows), (False, False, True, True, True, True, True))
