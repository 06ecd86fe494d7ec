"""Run a benchmark, print its table, keep its numbers under bench/results.

python -m bench.run train_speed
python -m bench.run inference --control runs/first/dense.safetensors --models runs/first/model.onnx
python -m bench.run slimming_controls --control runs/first/dense.safetensors --data fer2013.zip
python -m bench.run quantization --control runs/first/tuned.safetensors --data fer2013.zip
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import inference, quantization, slimming_controls, train_speed
from slimfer.data.frames import Dataset as Faces
from slimfer.data.loader import load
from slimfer.errors import InputError
from slimfer.files import write_json
from slimfer.report.tables import Table, describe_machine
from slimfer.runs import machine, versions
from slimfer.train.checkpoint import Checkpoint

RESULTS = Path(__file__).parent / "results"


def _train_speed(options: argparse.Namespace) -> tuple[dict[str, Any], Table]:
    settings = train_speed.SMOKE if options.smoke else train_speed.Settings()
    nets = train_speed.SMOKE_NETS if options.smoke else train_speed.NETS
    result = train_speed.run(replace(settings, threads=options.threads or settings.threads), nets)
    return result, train_speed.table(result)


def _inference(options: argparse.Namespace) -> tuple[dict[str, Any], Table]:
    if options.control is None or not options.models:
        raise InputError("inference needs --control CHECKPOINT and --models ARTIFACT...")
    settings = inference.SMOKE if options.smoke else inference.Settings()
    settings = replace(settings, threads=options.threads or settings.threads)
    result = inference.run(settings, Checkpoint.load(options.control), options.models)
    return result, inference.table(result)


def _slimming_controls(options: argparse.Namespace) -> tuple[dict[str, Any], Table]:
    settings = slimming_controls.Settings()
    if options.smoke:
        settings = replace(settings, finetune=replace(settings.finetune, epochs=1, batch_size=32))
    result = slimming_controls.run(settings, *_network_and_faces(options))
    return result, slimming_controls.table(result)


def _quantization(options: argparse.Namespace) -> tuple[dict[str, Any], Table]:
    settings = quantization.Settings(images=64) if options.smoke else quantization.Settings()
    result = quantization.run(settings, *_network_and_faces(options))
    return result, quantization.table(result)


def _network_and_faces(options: argparse.Namespace) -> tuple[Checkpoint, Faces]:
    if options.control is None or options.data is None:
        raise InputError(f"{options.bench} needs --control CHECKPOINT and --data SRC")
    faces = load(options.data)
    if options.smoke:
        faces = {name: frames.take(np.arange(min(len(frames), 128))) for name, frames in faces.items()}
    return Checkpoint.load(options.control), faces


BENCHES: Mapping[str, Callable[[argparse.Namespace], tuple[dict[str, Any], Table]]] = {
    "train_speed": _train_speed,
    "inference": _inference,
    "slimming_controls": _slimming_controls,
    "quantization": _quantization,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--threads", type=int, help="threads of every contestant")
    parser.add_argument("--control", type=Path, help="checkpoint of the float network")
    parser.add_argument("--data", help="the dataset")
    parser.add_argument("--models", type=Path, nargs="+", default=[], help="inference: .onnx artifacts")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, help="file for the numbers (default: bench/results/NAME.json)")
    options = parser.parse_args(arguments)
    try:
        result, table = BENCHES[options.bench](options)
    except InputError as error:
        parser.error(str(error))
    out = options.out or RESULTS / f"{options.bench}{'.smoke' if options.smoke else ''}.json"
    described = {"machine": machine(), "versions": versions()}
    write_json(out, {**described, **result})
    print(table.markdown())
    print(f"\n{describe_machine(described['machine'])}\n{out}")


if __name__ == "__main__":
    main()
