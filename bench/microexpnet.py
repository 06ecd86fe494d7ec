"""MicroExpNet on FER2013: does pooling help a small network, and does a teacher help more the smaller it is?

Every network without pooling (v) and with both poolings (p12), in every size, is trained from every seed by the same
recipe, once on the labels alone and once with a teacher as well. Networks of one seed see the same pictures in the same
order, so differences are taken seed by seed. Speed is measured in the form that was published: p12, XXS, 84 px, 8
classes, one picture at a time.

Every training has a folder of its own. A study that was killed goes on where it stopped, and a finished training is
only read.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from bench import inference
from slimfer.compress.config import DistillConfig, QuantizeConfig
from slimfer.compress.distill import distillation
from slimfer.compress.quantize import quantize
from slimfer.compress.teachers import open_teacher
from slimfer.data.frames import Dataset, Frames
from slimfer.export.onnx import to_onnx
from slimfer.files import atomic_write
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.report.plots import BLUE, VERMILLION, WIDTH, svg
from slimfer.report.tables import Table
from slimfer.runs import read_curve
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial
from slimfer.train.objective import cross_entropy

# Two-sided 95 % points of Student's t by degrees of freedom; the studies here have a few seeds.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
PUBLISHED = NetSpec("microexpnet", classes=8, image=84, args={"size": "XXS"})


# Chosen on trainings of 4 and 10 epochs from seed 0: rates of 0.001 and 0.006 were worse, and so was the usual, twice
# as strong augmentation; with mirroring alone, size M began to learn the pictures by heart within 10 epochs.
RECIPE = TrainConfig(
    epochs=20,
    optimizer="adamw",
    lr=3e-3,
    augment=AugmentConfig(rotate=6, shift=0.04, scale=0.06, light=0.15, erase=0.0),
)


@dataclass(frozen=True)
class Settings:
    """What is trained, and how.

    Attributes:
        networks: names of the zoo, the one without pooling first.
        sizes: from the largest.
        seeds: of weights, order and augmentation.
        train: the recipe of every training.
        distill: the teacher's part.
        speed: how the published form is timed; pictures one by one, as from a camera.
    """

    networks: tuple[str, str] = ("microexpnet-v", "microexpnet")
    sizes: tuple[str, ...] = ("M", "S", "XS", "XXS")
    seeds: tuple[int, ...] = (0, 1, 2)
    train: TrainConfig = field(default_factory=lambda: RECIPE)
    distill: DistillConfig = field(default_factory=lambda: DistillConfig(weight=0.7, temperature=2.0))
    speed: inference.Settings = field(default_factory=lambda: inference.Settings(batch_size=1))


SMOKE = Settings(
    sizes=("XXS",),
    seeds=(0,),
    train=replace(RECIPE, epochs=1, batch_size=32),
    speed=inference.SMOKE,
)


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    network: str
    size: str
    seed: int
    taught: bool

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"{self.network}-{self.size}-{'taught' if self.taught else 'plain'}-{self.seed}"


def runs(settings: Settings) -> Iterator[Run]:
    """Yield all trainings, seed by seed: what is finished early is a whole study of fewer seeds."""
    for seed in settings.seeds:
        for size in settings.sizes:
            for network in settings.networks:
                for taught in (False, True):
                    yield Run(network, size, seed, taught)


def run(
    settings: Settings, teachers: Sequence[str], dataset: Dataset, folder: Path, note: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train what is not trained yet, and return every cell's accuracies, the two answers and the speed."""
    distill = replace(settings.distill, teachers=tuple(map(str, teachers)), cache=str(folder / "answers"))
    opened = [open_teacher(teacher) for teacher in distill.teachers]
    train, validation = dataset["train"], dataset["validation"]
    cells: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for one in runs(settings):
        spec = NetSpec(one.network, len(train.classes), train.channels, train.side, {"size": one.size})
        start = initial(spec, train.classes, seed=one.seed)
        objective = distillation(opened, start, distill) if one.taught else cross_entropy
        fit(
            start, train, validation, replace(settings.train, seed=one.seed),
            run=folder / one.name, resume=True, objective=objective,
        )  # fmt: skip
        curve = read_curve(folder / one.name)
        best, seconds = max(row["val/accuracy"] for row in curve), curve[-1]["time"]
        note(f"{one.name}: {100 * best:.2f} % ({seconds:.0f} s)")
        cell = cells.setdefault((one.network, one.size, one.taught), _cell(spec, one))
        cell["accuracies"].append(best)
        cell["last"].append(curve[-1]["val/accuracy"])
        cell["seconds"].append(seconds)
    rows = [cell | _spread(cell["accuracies"]) for cell in cells.values()]
    return {
        "settings": asdict(replace(settings, distill=replace(distill, cache=""))),
        "n": len(validation),
        "rows": rows,
        "answers": answers(rows),
        "speed": speed(settings.speed, folder),
    }


def _cell(spec: NetSpec, one: Run) -> dict[str, Any]:
    cost = complexity(build(spec), spec.channels, spec.image)
    return {
        "network": one.network,
        "size": one.size,
        "taught": one.taught,
        "params": cost.params,
        "macs": cost.macs,
        "accuracies": [],
        "last": [],
        "seconds": [],
    }


# --- answers -------------------------------------------------------------------------------------------------------
def answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the differences that the two questions ask for, seed by seed, in fractions.

    `pooling`: accuracy with both poolings less that without, per size, without and with a teacher. `teaching`: accuracy
    with a teacher less that without, per network. `trend`: the slope of the latter over log2 of the parameters, by
    least squares over all networks and seeds; below zero, a teacher gives more to smaller networks.
    """
    of = {(row["network"], row["size"], row["taught"]): row for row in rows}
    networks = list(dict.fromkeys(row["network"] for row in rows))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    pooling = [
        {"size": size, "taught": taught, **_difference(of[networks[1], size, taught], of[networks[0], size, taught])}
        for taught in (False, True)
        for size in sizes
    ]
    teaching = [
        {"network": network, "size": size, "params": of[network, size, True]["params"]}
        | _difference(of[network, size, True], of[network, size, False])
        for network in networks
        for size in sizes
    ]
    points = [(math.log2(row["params"]), gain) for row in teaching for gain in row["differences"]]
    return {"pooling": pooling, "teaching": teaching, "trend": slope(*zip(*points, strict=True))}


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(one["accuracies"], other["accuracies"], strict=True)]
    return {"differences": differences, **_spread(differences)}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, standard deviation and half of the 95 % interval of the mean (Student's t)."""
    if len(values) < 2:
        return {"mean": mean(values), "std": None, "half": None}
    deviation = stdev(values)
    return {"mean": mean(values), "std": deviation, "half": _t95(len(values) - 1) * deviation / math.sqrt(len(values))}


def slope(x: Sequence[float], y: Sequence[float]) -> dict[str, float | None]:
    """Return the slope of y over x by least squares, and half of its 95 % interval."""
    dx, dy = np.array(x) - mean(x), np.array(y) - mean(y)
    if not dx.any():
        return {"slope": None, "half": None}
    value = float(dx @ dy / (dx @ dx))
    if len(x) < 3:
        return {"slope": value, "half": None}
    error = math.sqrt(float(((dy - value * dx) ** 2).sum()) / (len(x) - 2) / float(dx @ dx))
    return {"slope": value, "half": _t95(len(x) - 2) * error}


def _t95(degrees: int) -> float:
    """Return the 95 % point; between the table and infinity, by its expansion (off by less than 0.01)."""
    return T95.get(degrees) or 1.96 + 2.372 / degrees + 2.8 / degrees**2


# --- speed ---------------------------------------------------------------------------------------------------------
def speed(settings: inference.Settings, folder: Path) -> dict[str, Any]:
    """Time the published form with random weights, which speed does not depend on: in torch, and as two artifacts."""
    network = initial(PUBLISHED, tuple(f"class {index}" for index in range(PUBLISHED.classes)), seed=0)
    images = np.random.default_rng(0).integers(0, 256, (64, 1, PUBLISHED.image, PUBLISHED.image), np.uint8)
    integers = quantize(network, Frames(images, np.arange(64) % 8, network.labels), QuantizeConfig())
    paths = [folder / f"{name}.onnx" for name in ("float", "integers")]
    for path, checkpoint in zip(paths, (network, integers), strict=True):
        atomic_write(path, to_onnx(checkpoint))
    return inference.run(settings, network, paths)


# --- for people ----------------------------------------------------------------------------------------------------
def tables(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Return accuracies and differences (points, with the standard deviation over seeds), and the speed."""
    plain = {(row["network"], row["size"]): row for row in result["rows"] if not row["taught"]}
    taught = {(row["network"], row["size"]): row for row in result["rows"] if row["taught"]}
    gains = {(row["network"], row["size"]): row for row in result["answers"]["teaching"]}
    rows = [
        (
            f"{network}, {size}",
            f"{row['params']:,}",
            f"{row['macs'] / 1e6:.2f} M",
            _points(row),
            _points(taught[network, size]),
            _points(gains[network, size], sign="+"),
        )
        for (network, size), row in plain.items()
    ]
    seeds = len(result["settings"]["seeds"])
    header = ("network", "parameters", "MACs", f"accuracy %, {seeds} seeds", "with a teacher %", "gain, points")
    return Table(header, tuple(rows), (False, *(True,) * 5)), inference.table(result["speed"])


def _points(spread: Mapping[str, Any], sign: str = "") -> str:
    told = f"{100 * spread['mean']:{sign}.2f}"
    return told if spread["std"] is None else f"{told} ± {100 * spread['std']:.2f}"


def chart(result: Mapping[str, Any]) -> str:
    """Draw accuracy over parameters: colour and mark tell the pooling, full and broken lines the teacher."""
    networks = list(dict.fromkeys(row["network"] for row in result["rows"]))

    def draw(axes: Axes) -> None:
        for network, colour, mark, pooling in zip(
            networks, (VERMILLION, BLUE), "so", ("no pooling", "max-pooling"), strict=True
        ):
            for taught, dash, by in ((True, "-", "with a teacher"), (False, "--", "labels alone")):
                own = [row for row in result["rows"] if (row["network"], row["taught"]) == (network, taught)]
                axes.errorbar(
                    [row["params"] for row in own],
                    [100 * row["mean"] for row in own],
                    yerr=[100 * (row["std"] or 0.0) for row in own],
                    fmt=mark + dash, color=colour, markerfacecolor=colour if taught else "#ffffff",
                    markersize=6, elinewidth=1.2, capsize=3, label=f"{pooling}, {by}",
                )  # fmt: skip
        axes.set(xscale="log", xlabel="parameters (logarithmic)", ylabel="accuracy, %")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=12))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g} k"))
        axes.minorticks_off()
        axes.grid()
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)

    return svg("MicroExpNet: accuracy over parameters, with and without pooling and teacher", (WIDTH, 3.6), draw)
