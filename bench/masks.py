"""What zeros in single weights are worth: bytes of the files, zipped or not, latency, and accuracy without training.

Every mask is one cut by magnitude of the same network. onnxruntime multiplies zeros like any other number, so only a
zip file gets smaller.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from slimfer.compress.config import MaskConfig, QuantizeConfig
from slimfer.compress.mask import mask
from slimfer.compress.quantize import quantize
from slimfer.data.frames import Dataset
from slimfer.export.onnx import to_onnx
from slimfer.metrics import score
from slimfer.report.numbers import milliseconds, percent, size
from slimfer.report.tables import Table
from slimfer.runtime.session import Session
from slimfer.timing import interleave
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.evaluate import predict_logits, softmax


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        sparsities: unstructured masks, by share of zeros.
        patterns: masks that keep N of every M.
        images: training pictures to calibrate integers on.
        rounds: turns of each file.
        min_time: seconds per turn.
        threads: of onnxruntime.
    """

    sparsities: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.9)
    patterns: tuple[tuple[int, int], ...] = ((2, 4),)
    images: int = 1024
    rounds: int = 20
    min_time: float = 0.05
    threads: int = 1


SMOKE = Settings(sparsities=(0.0, 0.9), images=32, rounds=1, min_time=0.0)


def run(settings: Settings, network: Checkpoint, dataset: Dataset) -> dict[str, Any]:
    """Mask, export, zip, time and score; the network without a mask is the first row."""
    validation = dataset["validation"]
    masks = {f"{100 * sparsity:.0f} %": MaskConfig(sparsity=sparsity) for sparsity in settings.sparsities}
    masks |= {f"{keep}:{group}": MaskConfig(keep=keep, group=group) for keep, group in settings.patterns}
    rows: list[dict[str, Any]] = []
    jobs = {}
    picture = np.random.default_rng(0).integers(
        0, 256, (1, network.spec.channels, network.spec.image, network.spec.image), np.uint8
    )
    for name, config in masks.items():
        masked = mask(network, config)
        zeros, of = masked.lineage[-1]["zeros"]
        scores = score(softmax(predict_logits(masked.build(), validation)), validation.labels, validation.classes)
        row: dict[str, Any] = {"mask": name, "zeros": zeros / of, "accuracy": scores["accuracy"]}
        integers = quantize(masked, dataset["train"], QuantizeConfig(images=settings.images))
        for form, file in (("float", to_onnx(masked)), ("int8", to_onnx(integers))):
            row[form] = {"bytes": len(file), "zipped": zipped(file)}
            jobs[f"{name} {form}"] = partial(Session(file, threads=settings.threads).run, picture)
        rows.append(row)
    timings = interleave(jobs, rounds=settings.rounds, min_time=settings.min_time)
    for row in rows:
        for form in ("float", "int8"):
            row[form]["latency_ms"] = timings[f"{row['mask']} {form}"].to_dict()
    return {"settings": asdict(settings), "n": len(validation), "network": network.spec.to_dict(), "rows": rows}


def zipped(data: bytes) -> int:
    """Return the size of a zip file (deflate, level 9) that holds `data`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("model.onnx", data)
    return len(stream.getvalue())


def table(result: Mapping[str, Any]) -> Table:
    """Return the comparison as a table."""
    header = (
        "mask",
        "zeros %",
        "accuracy %",
        *(f"{form} {what}" for form in ("float", "int8") for what in ("file", "zip", "ms")),
    )
    rows = tuple(
        (
            "none" if row["mask"] == "0 %" else row["mask"],
            f"{100 * row['zeros']:.1f}",
            percent(row["accuracy"]),
            *(
                cell
                for form in ("float", "int8")
                for cell in (
                    size(row[form]["bytes"]),
                    size(row[form]["zipped"]),
                    milliseconds(row[form]["latency_ms"]["median"]),
                )
            ),
        )
        for row in result["rows"]
    )
    return Table(header, rows, (False, *(True,) * 8))
