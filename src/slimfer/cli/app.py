"""The command line: the table of verbs, and the one place that turns outcomes into exit codes.

Exit codes: 0 done; 1 our own bug; 2 bad input, one sentence; 3 a budget or a verification was not met; 130 Ctrl-C.
Verbs are registered by string, so that `slimfer VERB --help` imports none of torch, numpy, onnxruntime, matplotlib.
"""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from cyclopts import App, CycloptsError, Parameter

from slimfer.cli.common import Answer, Common, emit, is_set, note
from slimfer.errors import SlimferError
from slimfer.version import VERSION

# What `slimfer[train]` adds: without it these imports fail, which is the user's set-up and not a bug.
TRAINING_SIDE = ("torch", "safetensors", "onnx", "matplotlib", "jinja2", "dacite", "tomli_w")


@dataclass(frozen=True)
class Verb:
    """One row of the table: where the function is, its line in `slimfer --help`, and examples."""

    name: str
    target: str
    help: str
    examples: tuple[str, ...]


VERBS: tuple[Verb, ...] = (
    Verb(
        "data inspect",
        "slimfer.cli.data:inspect",
        "Show what is in a dataset: splits, classes, sizes, and every problem found.",
        (
            "slimfer data inspect faces.zip",
            "slimfer data inspect fer2013.csv --votes fer2013new.csv --strict",
        ),
    ),
    Verb(
        "data convert",
        "slimfer.cli.data:convert",
        "Write a dataset in another layout; packed, unless told otherwise, which opens at once.",
        (
            "slimfer data convert faces.zip faces",
            "slimfer data convert faces fer2013.csv",
            "slimfer data convert fer2013.csv faces --votes fer2013new.csv --force",
        ),
    ),
    Verb(
        "data synth",
        "slimfer.cli.data:synth",
        "Draw synthetic faces with seven expressions, as a folder of split/class/picture unless told otherwise.",
        (
            "slimfer data synth faces --train 2000 --validation 500 --test 500",
            "slimfer data synth faces --to packed --seed 1",
        ),
    ),
    Verb(
        "train",
        "slimfer.cli.train:train",
        "Train a network; the epoch is chosen on the validation split.",
        (
            "slimfer train --data synthetic --model mobile --out runs/first",
            "slimfer train --data faces/ --model resnet18 --penalty 2e-4 --epochs 40 --out runs/sparse",
            "slimfer train --out runs/sparse --resume",
        ),
    ),
    Verb(
        "slim",
        "slimfer.cli.slim:slim",
        "Cut the channels with the smallest BN scales from a trained network, and fine-tune it (network slimming).",
        (
            "slimfer slim runs/sparse --data faces/ --ratio 0.7 --out runs/slim",
            "slimfer slim runs/sparse --data faces/ --ratio 0.8 --passes 3 --round-to 8 --out runs/slim3",
        ),
    ),
    Verb(
        "dsd",
        "slimfer.cli.dsd:dsd",
        "Train on under a mask of zeros, then without it (dense-sparse-dense training).",
        (
            "slimfer dsd runs/first --data faces/ --sparsity 0.3 --out runs/dsd",
            "slimfer dsd runs/first --data faces/ --control --out runs/control",
            "slimfer dsd runs/vgg --data faces/ --frozen 'features*' --sparsity 0.6 --rounds 2 --out runs/dsdsd",
        ),
    ),
    Verb(
        "prune",
        "slimfer.cli.prune:prune",
        "Cut filters by norm, redundancy or effect on the loss, or set single weights to zero; fine-tune if asked.",
        (
            "slimfer prune runs/first --data faces/ --ratio 0.5 --out runs/l1",
            "slimfer prune runs/first --data faces/ --criterion taylor --passes 3 --finetune-epochs 5 --out runs/small",
            "slimfer prune runs/first --data faces/ --criterion random --params 100000 --seed 1 --out runs/random",
            "slimfer prune runs/first --data faces/ --pattern 2:4 --finetune-epochs 5 --out runs/masked",
        ),
    ),
    Verb(
        "distill",
        "slimfer.cli.distill:distill",
        "Train a student with teachers, beside the same without any if wanted; or sweep temperatures and weights.",
        (
            "slimfer distill mobile --teacher runs/first --data faces/ --control --out runs/taught",
            "slimfer distill runs/slim --teacher a.onnx --teacher runs/b --mirror --data faces/ --out runs/taught",
            "slimfer distill mobile --teacher runs/first --data faces/ --sweep-temperatures 1,2,4,8 "
            "--sweep-weights 0.3,0.5,0.7,0.9 --out runs/sweep",
        ),
    ),
    Verb(
        "quantize",
        "slimfer.cli.quantize:quantize",
        "Turn a trained network into integers: calibrate on training pictures, freeze scales; train on if asked.",
        (
            "slimfer quantize runs/slim --data faces/ --out runs/int8",
            "slimfer quantize runs/slim --bits 4 --activations 4 --qat --data faces/ --out runs/int4",
            "slimfer quantize --recipe runs/int8/recipe.toml --out runs/again",
        ),
    ),
    Verb(
        "compress",
        "slimfer.cli.compress:compress",
        "Do the whole job: train, slim, fine-tune, quantize (or any chain, or whatever fits a budget), verify, report.",
        (
            "slimfer compress resnet18 --data faces/ --ratio 0.7 --bits 8 --out runs/small",
            "slimfer compress runs/first --data faces/ --max-size 250KB --max-drop 0.5 --out runs/fit",
            "slimfer compress --out runs/small --resume",
        ),
    ),
    Verb(
        "evaluate",
        "slimfer.cli.evaluate:evaluate",
        "Judge a checkpoint or an .onnx artifact on a split: accuracy, macro-F1, calibration, each class.",
        (
            "slimfer evaluate runs/first --data synthetic",
            "slimfer evaluate model.onnx --data faces/ --split test --json",
        ),
    ),
    Verb(
        "bench",
        "slimfer.cli.bench:bench",
        "Compare models in one interleaved run: size, parameters, MACs, latency, throughput, memory.",
        (
            "slimfer bench runs/first runs/slim model.onnx",
            "slimfer bench resnet18 mobile --threads 1 --results-file bench.csv",
        ),
    ),
    Verb(
        "analyze",
        "slimfer.cli.analyze:analyze",
        "See what each layer costs, and what is lost when it alone is cut or rounded.",
        (
            "slimfer analyze runs/first --data faces/ --out runs/layers",
            "slimfer analyze --out runs/layers --resume",
            "slimfer analyze runs/first --data faces/ --ratios 0.5,0.9 --bits 4,2 --out runs/few --json",
        ),
    ),
    Verb(
        "export",
        "slimfer.cli.export:export",
        "Write a run or a checkpoint as an artifact: one .onnx file, uint8 pixels in, probabilities out.",
        ("slimfer export runs/first --out model.onnx", "slimfer export runs/first -o model.onnx --force --json"),
    ),
    Verb(
        "predict",
        "slimfer.cli.predict:predict",
        "Find the faces in pictures and read their expressions; a bad picture is a status in the answer, not an error.",
        (
            "slimfer predict photo.jpg",
            "slimfer predict photos/ --recursive --out answers.jsonl --annotate marked",
            "slimfer predict photos/ -r -o answers.jsonl --annotate marked --resume",
            "slimfer predict '**/*.png' --format csv > answers.csv",
            "slimfer predict faces/ --no-detect --model runs/small --threshold 0.6",
            "cat photo.jpg | slimfer predict - --json",
        ),
    ),
    Verb(
        "watch",
        "slimfer.cli.watch:watch",
        "Follow faces and their expressions in a camera, a video or a stream: a page on this machine, or files.",
        (
            "slimfer watch 0",
            "slimfer watch clip.mp4 --no-page --out clip.jsonl --annotate marked.mp4",
            "slimfer watch rtsp://camera.local/stream --port 0 --out answers.csv",
        ),
    ),
    Verb(
        "report",
        "slimfer.cli.report:report",
        "Write RUN/report.html, one self-contained page, from RUN/results.json; or one page that compares runs.",
        (
            "slimfer report runs/first",
            "slimfer report runs/first --no-pictures",
            "slimfer report runs/first runs/second --out both.html",
        ),
    ),
    Verb(
        "models",
        "slimfer.cli.models:models",
        "List the trained models that ship, with size, scores and speed on this machine, and the networks to train.",
        ("slimfer models", "slimfer models --json"),
    ),
)

# Verbs of two words are listed under their first one.
GROUPS = {"data": "Inspect, convert and draw datasets."}

# No --no-x beside every --x. Said to each verb again, because generate_docs does not inherit it.
PLAIN = Parameter(negative=())


def make_app(verbs: Sequence[Verb]) -> App:
    """Return the application with `verbs`; a name of two words (`data inspect`) makes a group of verbs."""
    app = App(
        name="slimfer",
        help="Facial-expression recognition, small and fast enough to run anywhere.",
        help_epilogue=_examples("slimfer compress resnet18 --data synthetic --out runs/first", "slimfer models"),
        version=VERSION,
        default_parameter=PLAIN,
        help_flags=("-h", "--help"),
        version_flags=("-V", "--version"),
        help_format="plaintext",
    )
    for group, line in GROUPS.items():
        examples = [verb.examples[0] for verb in verbs if verb.name.startswith(f"{group} ")]
        app.command(App(name=group, help=line, help_epilogue=_examples(*examples), default_parameter=PLAIN))
    for verb in verbs:
        group, _, name = verb.name.rpartition(" ")
        parent = app[group] if group else app
        epilogue = _examples(*verb.examples)
        parent.command(verb.target, name=name, help=verb.help, help_epilogue=epilogue, default_parameter=PLAIN)
    return app


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n".join(f"  {line}" for line in lines)


app = make_app(VERBS)


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    if not (sys.warnoptions or is_set("SLIMFER_DEBUG")):
        warnings.simplefilter("ignore")  # libraries warn of pictures that the answer speaks of anyway
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing but a signal leaves as an exception."""
    try:
        command, bound, _ = app.parse_args(list(arguments), print_error=False, exit_on_error=False)
        answer = command(*bound.args, **bound.kwargs)
        if isinstance(answer, Answer):
            emit(answer, bound.arguments.get("common", Common()))
            if answer.failure is None:
                return answer.exit_code
            note(f"error: {one_line(str(answer.failure))}")
            return answer.failure.exit_code
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code, sentence = explain(error, arguments)
        if is_set("SLIMFER_DEBUG"):
            traceback.print_exc()
        note(f"error: {sentence}")
        if "--json" in arguments:
            sys.stdout.write(json.dumps({"error": sentence, "exit_code": code}) + "\n")
        return code


def explain(error: Exception, arguments: Sequence[str]) -> tuple[int, str]:
    """Return the exit code and the one sentence for an exception."""
    if isinstance(error, SlimferError):
        return error.exit_code, one_line(str(error))
    if isinstance(error, CycloptsError):
        error.verbose = False
        return 2, one_line(str(error))
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in TRAINING_SIDE:
        verb = next((word for word in arguments if not word.startswith("-")), "this")
        return 2, f'{verb} needs the training side: pip install "slimfer[train]"'
    if isinstance(error, OSError) and error.filename is not None:
        return 2, one_line(f"{error.filename}: {error.strerror}")
    return 1, one_line(f"bug in slimfer: {type(error).__name__}: {error} (SLIMFER_DEBUG=1 shows where)")


def one_line(text: str) -> str:
    """Return the text with every run of white space, line ends too, as one space."""
    return " ".join(text.split())
