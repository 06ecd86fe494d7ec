"""Run a benchmark, print its table, keep its numbers under bench/results.

python -m bench.run train_speed
python -m bench.run inference --control runs/first/dense.safetensors --models runs/first/model.onnx
python -m bench.run slimming_controls --control runs/first/dense.safetensors --data fer2013.zip
python -m bench.run quantization --control runs/first/tuned.safetensors --data fer2013.zip
python -m bench.run dsd --control runs/first/dense.safetensors --data fer2013.zip
python -m bench.run trade_offs --control runs/first/dense.safetensors --data fer2013.zip
python -m bench.run masks --control runs/first/dense.safetensors --data fer2013.zip --card docs/methods/pruning.md
python -m bench.run leaks --models runs/first/model.onnx --data fer2013.zip
python -m bench.run rivals --photos photos --detector yunet.onnx --packages rivals --card docs/speed.md
python -m bench.run crops --data fer2013.zip --photos photos --detector yunet.onnx --card docs/faces.md
python -m bench.run finding --photos photos --detector yunet.onnx
python -m bench.run microexpnet --models runs/first/model.onnx --data fer2013.zip --chart docs/methods/microexpnet.svg
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import (
    crops,
    dsd,
    finding,
    inference,
    leaks,
    masks,
    microexpnet,
    quantization,
    rivals,
    slimming_controls,
    trade_offs,
    train_speed,
)
from slimfer.data.frames import Dataset as Faces
from slimfer.data.loader import load
from slimfer.errors import InputError
from slimfer.files import write_json, write_text
from slimfer.report.readme import with_results
from slimfer.report.tables import Table, describe_machine
from slimfer.runs import machine, versions
from slimfer.shipped import SHIPPED
from slimfer.train.checkpoint import Checkpoint

RESULTS = Path(__file__).parent / "results"


def _train_speed(options: argparse.Namespace) -> dict[str, Any]:
    settings = train_speed.SMOKE if options.smoke else train_speed.Settings()
    nets = train_speed.SMOKE_NETS if options.smoke else train_speed.NETS
    return train_speed.run(replace(settings, threads=options.threads or settings.threads), nets)


def _inference(options: argparse.Namespace) -> dict[str, Any]:
    if options.control is None or not options.models:
        raise InputError("inference needs --control CHECKPOINT and --models ARTIFACT...")
    settings = inference.SMOKE if options.smoke else inference.Settings()
    settings = replace(settings, threads=options.threads or settings.threads)
    return inference.run(settings, Checkpoint.load(options.control), options.models)


def _slimming_controls(options: argparse.Namespace) -> dict[str, Any]:
    settings = slimming_controls.Settings()
    if options.smoke:
        settings = replace(settings, finetune=replace(settings.finetune, epochs=1, batch_size=32))
    return slimming_controls.run(settings, *_network_and_faces(options))


def _quantization(options: argparse.Namespace) -> dict[str, Any]:
    settings = quantization.Settings()
    if options.smoke:
        settings = replace(settings, images=64, train=replace(settings.train, batch_size=32))
    return quantization.run(settings, *_network_and_faces(options), options.work / "quantization")


def _dsd(options: argparse.Namespace) -> dict[str, Any]:
    settings = dsd.Settings()
    if options.smoke:
        short = replace(settings.dsd.sparse, epochs=1, batch_size=32)
        settings = replace(settings, seeds=(0,), dsd=replace(settings.dsd, sparse=short, dense=short))
    return dsd.run(settings, *_network_and_faces(options), options.work / "dsd")


def _trade_offs(options: argparse.Namespace) -> dict[str, Any]:
    settings = trade_offs.SMOKE if options.smoke else trade_offs.Settings()
    start, faces = _network_and_faces(options)
    teachers = [str(model) for model in options.models] or [str(options.control)]
    command = f"python -m bench.run trade_offs --control {options.control} --data {options.data}"
    if options.models:
        command += f" --models {' '.join(teachers)}"
    return trade_offs.run(settings, start, teachers, faces, options.work / "trade_offs", command)


def _masks(options: argparse.Namespace) -> dict[str, Any]:
    settings = masks.SMOKE if options.smoke else masks.Settings()
    settings = replace(settings, threads=options.threads or settings.threads)
    return masks.run(settings, *_network_and_faces(options))


def _leaks(options: argparse.Namespace) -> dict[str, Any]:
    if not options.models or options.data is None:
        raise InputError("leaks needs --models ARTIFACT... and --data SRC")
    return leaks.run(options.models, load(options.data))


def _microexpnet(options: argparse.Namespace) -> dict[str, Any]:
    if not options.models or options.data is None:
        raise InputError("microexpnet needs --models TEACHER... and --data SRC")
    torch.set_num_threads(options.threads or 1)
    settings = microexpnet.SMOKE if options.smoke else microexpnet.Settings()
    settings = replace(settings, train=replace(settings.train, epochs=options.epochs or settings.train.epochs))
    seeds = tuple(range(options.seeds)) if options.seeds else settings.seeds
    return microexpnet.run(
        replace(settings, seeds=seeds), options.models, _faces(options), options.work / "microexpnet"
    )


def _rivals(options: argparse.Namespace) -> dict[str, Any]:
    settings = rivals.SMOKE if options.smoke else rivals.Settings()
    return rivals.run(
        replace(settings, threads=options.threads or settings.threads),
        options.models or list(SHIPPED.values()),
        photos=options.photos,
        detector=options.detector,
        packages=options.packages,
    )


def _crops(options: argparse.Namespace) -> dict[str, Any]:
    if options.data is None or options.photos is None or options.detector is None:
        raise InputError("crops needs --data SRC, --photos FOLDER and --detector FILE")
    settings = crops.Settings(step=100) if options.smoke else crops.Settings()
    models = options.models or list(SHIPPED.values())
    return crops.run(settings, options.detector, models, options.photos, load(options.data)["validation"])


def _finding(options: argparse.Namespace) -> dict[str, Any]:
    if options.photos is None or options.detector is None:
        raise InputError("finding needs --photos FOLDER and --detector FILE")
    small = {"pictures": 2, "repeats": 2} if options.smoke else {}
    return finding.run(options.detector, options.models or list(SHIPPED.values()), options.photos, **small)


def _network_and_faces(options: argparse.Namespace) -> tuple[Checkpoint, Faces]:
    if options.control is None or options.data is None:
        raise InputError(f"{options.bench} needs --control CHECKPOINT and --data SRC")
    if options.threads:
        torch.set_num_threads(options.threads)
    return Checkpoint.load(options.control), _faces(options)


def _faces(options: argparse.Namespace) -> Faces:
    faces = load(options.data)
    if options.smoke:
        faces = {name: frames.take(np.arange(min(len(frames), 128))) for name, frames in faces.items()}
    return faces


Tables = Table | Sequence[Table]

# How each benchmark runs, and how its numbers become a table or several.
BENCHES: Mapping[str, tuple[Callable[[argparse.Namespace], dict[str, Any]], Callable[[Mapping[str, Any]], Tables]]] = {
    "train_speed": (_train_speed, train_speed.table),
    "inference": (_inference, inference.table),
    "slimming_controls": (_slimming_controls, slimming_controls.table),
    "quantization": (_quantization, quantization.table),
    "dsd": (_dsd, dsd.table),
    "trade_offs": (_trade_offs, trade_offs.table),
    "masks": (_masks, masks.table),
    "leaks": (_leaks, leaks.table),
    "microexpnet": (_microexpnet, microexpnet.tables),
    "rivals": (_rivals, rivals.tables),
    "crops": (_crops, crops.tables),
    "finding": (_finding, finding.tables),
}
CHARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"microexpnet": microexpnet.chart}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--threads", type=int, help="threads of every contestant")
    parser.add_argument("--control", type=Path, help="checkpoint of the float network")
    parser.add_argument("--data", help="the dataset")
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[], help="inference, leaks: .onnx artifacts; microexpnet: teachers"
    )
    parser.add_argument("--detector", type=Path, help="rivals, crops, finding: YuNet's file")
    parser.add_argument("--photos", type=Path, help="crops, finding: folder of photos with labels.csv")
    parser.add_argument("--packages", type=Path, help="rivals: folder of fer, LiteRT and OpenCV (pip --target)")
    parser.add_argument("--epochs", type=int, help="microexpnet: of every training")
    parser.add_argument("--seeds", type=int, help="microexpnet: number of seeds")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder for trainings, which go on there")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, help="file for the numbers (default: bench/results/NAME.json)")
    parser.add_argument("--chart", type=Path, help="SVG file for the chart, where the benchmark has one")
    parser.add_argument("--card", type=Path, help="Markdown file between whose result marks the table goes")
    options = parser.parse_args(arguments)
    if options.chart and options.bench not in CHARTS:
        parser.error(f"{options.bench} has no chart")
    try:
        result = BENCHES[options.bench][0](options)
    except InputError as error:
        parser.error(str(error))
    out = options.out or RESULTS / f"{options.bench}{'.smoke' if options.smoke else ''}.json"
    result = {"machine": machine(), "versions": versions(), **result}
    write_json(out, result)
    print(f"{card_text(options.bench, result)}\n\n{out}")
    if options.chart:
        write_text(options.chart, CHARTS[options.bench](result))
    if options.card:
        write_text(
            options.card, with_results(options.card.read_text(encoding="utf-8"), card_text(options.bench, result))
        )


def card_text(bench: str, result: Mapping[str, Any]) -> str:
    """Return what stands in a method card: the tables of a benchmark, and where it was measured."""
    tables = BENCHES[bench][1](result)
    told = "\n\n".join(one.markdown() for one in ([tables] if isinstance(tables, Table) else tables))
    machine_, torch_ = describe_machine(result["machine"]), result["versions"].get("torch")
    return f"{told}\n\nMachine: {machine_}; torch {torch_}."


if __name__ == "__main__":
    main()
