"""`slimfer bench`."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from slimfer.cli.classifier import Classifier, RuntimeName, open_classifier
from slimfer.cli.common import Answer, Common, table
from slimfer.cli.memory import peak_megabytes
from slimfer.cli.resolve import ArtifactFile, resolve
from slimfer.cli.units import Milliseconds
from slimfer.errors import InputError
from slimfer.files import write_text
from slimfer.report.numbers import count, milliseconds, size, times, whole
from slimfer.report.results import FORMAT
from slimfer.runs import machine, versions
from slimfer.timing import Timing, interleave, rate

COLUMNS = (
    "model", "infer_img_size", "infer_batch_size", "infer_samples_per_sec", "infer_step_time", "param_count",
    "infer_gmacs", "infer_macts", "size_bytes", "latency_ms_median", "latency_ms_p95", "ratio_to", "rss_mb", "threads",
    "runtime", "cpu",
)  # fmt: skip

RUNTIMES = "What runs artifacts; named twice, each has its row. openvino is an extra, slimfer[openvino]."


def bench(
    model: str,
    /,
    *models: str,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1, lte=4096))] = 64,
    num_bench_iter: Annotated[int, Parameter(validator=Number(gte=1))] = 20,
    num_warm_iter: Annotated[int, Parameter(validator=Number(gte=0))] = 3,
    min_time: Annotated[Milliseconds, Parameter(show_default="20ms")] = 20.0,
    results_file: Path | None = None,
    runtime: Annotated[
        list[RuntimeName] | None, Parameter(help="What runs artifacts; twice for a row in each.")
    ] = None,
    common: Common = Common(),
) -> Answer:
    """Compare models in one interleaved run: size, parameters, MACs, latency, throughput, memory.

    Ratios are to the first model, the control.

    Args:
        model: the control: a run folder, checkpoint, .onnx artifact or network.
        models: what to compare with it.
        batch_size: pictures per call for the throughput; the latency is that of one picture.
        num_bench_iter: turns of each model.
        num_warm_iter: calls before the clock starts.
        min_time: time of each turn, with its unit.
        results_file: csv with timm's column names.
        runtime: see flags.
        common: see `Common`.
    """
    names = (model, *models)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{repeated[0]} is named twice")
    contestants = [one for name in names for one in _opened(name, runtime or ["onnxruntime"], common)]
    classifiers = [classifier for classifier, _ in contestants]
    latency = _time(classifiers, 1, num_bench_iter, num_warm_iter, min_time / 1000)
    bulk = _time(classifiers, batch_size, num_bench_iter, num_warm_iter, min_time / 1000)
    stages = [
        one.stage(
            latency_ms=latency[one.name].to_dict(),
            throughput=rate(bulk[one.name], batch_size),
            rss_mb=memory,
        )
        for one, memory in contestants
    ]
    settings = {"threads": common.thread_count(), "batch_size": batch_size}
    results = {"format": FORMAT, "kind": "bench", "machine": machine(), "versions": versions(), **settings}
    results["stages"] = stages
    if results_file:
        write_text(results_file, _csv(stages, classifiers, settings))
    return Answer(results, (_view(stages), _told(results)))


def _opened(name: str, runtimes: list[RuntimeName], common: Common) -> Iterator[tuple[Classifier, float | None]]:
    """Open MODEL in each runtime, or in torch once, and measure its memory; yield both."""
    many = isinstance(resolve(name), ArtifactFile) and len(runtimes) > 1
    for runtime in runtimes if many else runtimes[:1]:
        classifier = open_classifier(name, common, trained=False, runtime=runtime)
        if many:
            classifier = replace(classifier, name=f"{name} {runtime}")
        yield classifier, peak_megabytes(name, common, runtime)


def _time(classifiers: Sequence[Classifier], batch: int, rounds: int, warmup: int, seconds: float) -> dict[str, Timing]:
    import numpy as np

    noise = np.random.default_rng(0)
    jobs = {}
    for one in classifiers:
        pictures = noise.integers(0, 256, (batch, one.channels, one.image, one.image), np.uint8)
        jobs[one.name] = partial(one.run, pictures)
    return interleave(jobs, rounds=rounds, min_time=seconds, warmup=warmup)


def _view(stages: Sequence[dict[str, Any]]) -> Table:
    columns = ("model", "runtime", "size", "parameters", "MACs", "ms, batch 1", "p95 ms", "faster", "images/s", "MB")
    control = stages[0]["latency_ms"]["median"]
    rows = [
        (
            stage["name"],
            stage["runtime"],
            size(stage.get("bytes")),
            count(stage.get("params")),
            count(stage.get("macs")),
            milliseconds(stage["latency_ms"]["median"]),
            milliseconds(stage["latency_ms"]["p95"]),
            times(control / stage["latency_ms"]["median"]),
            whole(stage["throughput"]),
            whole(stage["rss_mb"]),
        )
        for stage in stages
    ]
    return table(columns, rows, numeric=[index > 1 for index in range(len(columns))])


def _told(results: dict[str, Any]) -> str:
    threads = "one thread" if results["threads"] == 1 else f"{results['threads']} threads"
    return (
        f"\n{results['machine']['cpu']}, {threads}; all models in turn, faster = ratio to the first;"
        f" images/s at batch {results['batch_size']}; MB = peak memory of a process that runs the model"
    )


def _csv(stages: Sequence[dict[str, Any]], classifiers: Sequence[Classifier], settings: dict[str, int]) -> str:
    """Return the rows with the column names of timm's benchmark files, and ours after them."""
    cpu, control = machine()["cpu"], stages[0]["latency_ms"]["median"]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for stage, one in zip(stages, classifiers, strict=True):
        latency = stage["latency_ms"]
        writer.writerow(
            {
                "model": stage["name"],
                "infer_img_size": one.image,
                "infer_batch_size": settings["batch_size"],
                "infer_samples_per_sec": round(stage["throughput"], 2),
                "infer_step_time": round(1e3 * settings["batch_size"] / stage["throughput"], 4),
                "param_count": _in(1e6, stage.get("params")),
                "infer_gmacs": _in(1e9, stage.get("macs")),
                "infer_macts": _in(1e6, stage.get("activations")),
                "size_bytes": stage.get("bytes", ""),
                "latency_ms_median": round(latency["median"], 4),
                "latency_ms_p95": round(latency["p95"], 4),
                "ratio_to": round(control / latency["median"], 3),
                "rss_mb": "" if stage["rss_mb"] is None else round(stage["rss_mb"], 1),
                "threads": settings["threads"],
                "runtime": stage["runtime"],
                "cpu": cpu,
            }
        )
    return stream.getvalue()


def _in(unit: float, number: int | None) -> float | str:
    return "" if number is None else round(number / unit, 6)
