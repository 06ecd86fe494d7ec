"""Run a benchmark, print its table, keep its numbers under bench/results.

python -m bench.run train_speed
python -m bench.run inference --control runs/first/dense.safetensors --models runs/first/model.onnx
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import inference, train_speed
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


BENCHES: Mapping[str, Callable[[argparse.Namespace], tuple[dict[str, Any], Table]]] = {
    "train_speed": _train_speed,
    "inference": _inference,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--threads", type=int, help="threads of every contestant")
    parser.add_argument("--control", type=Path, help="inference: checkpoint of the float network")
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
