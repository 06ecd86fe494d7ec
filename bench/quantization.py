"""Static quantization by range method, with and without bias correction, against the float network.

Answers of the imitated integer network in torch; what the file answers is held to it by `slimfer.export.parity`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimfer.compress.quantize import RANGES, quantize
from slimfer.data.frames import Dataset
from slimfer.metrics import score, sqnr_db
from slimfer.report.tables import Table
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits, softmax


@dataclass(frozen=True)
class Settings:
    """What is compared: pictures to calibrate on, and bits of the weights."""

    images: int = 1024
    bits: tuple[int, ...] = (8, 6, 4)


def run(settings: Settings, network: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """Quantize and score in every way; the float network is the first row."""
    validation = dataset["validation"]
    reference = predict_logits(network.build(), validation)

    def measured(checkpoint: Checkpoint) -> dict[str, float]:
        logits = predict_logits(checkpoint.build(), validation)
        return {
            "accuracy": score(softmax(logits), validation.labels, validation.classes)["accuracy"],
            "sqnr_db": min(sqnr_db(reference, logits), 999.0),
            "agreement": float((reference.argmax(1) == logits.argmax(1)).mean()),
        }

    rows: list[dict[str, Any]] = [{"bits": 32, "method": "float", "correct_bias": False, **measured(network)}]
    ways = [(8, method, correct) for method in RANGES for correct in (False, True)]
    ways += [(bits, "minmax", correct) for bits in settings.bits if bits != 8 for correct in (False, True)]
    for bits, method, correct in ways:
        quantized = quantize(
            network, dataset["train"], bits=bits, method=method, correct_bias=correct, images=settings.images
        )
        rows.append({"bits": bits, "method": method, "correct_bias": correct, **measured(quantized)})
    return {"images": settings.images, "n": len(validation), "network": network.spec.to_dict(), "rows": rows}


def table(result: Mapping[str, Any]) -> Table:
    """Return the comparison as a table."""
    header = ("weights", "ranges", "bias correction", "accuracy %", "SQNR dB", "same label %")
    rows = [
        (
            f"{row['bits']} bits",
            row["method"],
            "yes" if row["correct_bias"] else "no",
            f"{100 * row['accuracy']:.2f}",
            "–" if row["method"] == "float" else f"{row['sqnr_db']:.1f}",
            f"{100 * row['agreement']:.2f}",
        )
        for row in result["rows"]
    ]
    return Table(header, rows, (False, False, False, True, True, True))
