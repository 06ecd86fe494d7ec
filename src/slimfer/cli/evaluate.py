"""`slimfer evaluate`."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from slimfer.cli.classifier import Runtime, open_classifier, require_split
from slimfer.cli.common import Answer, Common, table
from slimfer.cli.flags import Votes
from slimfer.report.numbers import percent, whole


def evaluate(
    model: str,
    /,
    *,
    data: Annotated[str, Parameter(help="Dataset: a folder, .zip, .csv or packed file, or `synthetic`.")],
    split: str = "validation",
    votes: Votes = None,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1))] = 256,
    runtime: Runtime = "onnxruntime",
    common: Common = Common(),
) -> Answer:
    """Judge a checkpoint or an .onnx artifact on a split: accuracy, macro-F1, calibration, each class.

    Args:
        model: a run folder, a checkpoint or an .onnx artifact.
        data: see flags.
        split: which part of the data.
        votes: see flags.
        batch_size: pictures at a time.
        runtime: see flags.
        common: see `Common`.
    """
    from slimfer.data.loader import load
    from slimfer.metrics import score

    classifier = open_classifier(model, common, runtime=runtime)
    dataset = load(data, image=classifier.image, channels=classifier.channels, votes=votes)
    frames = require_split(dataset, split, classifier)
    scores = score(classifier.probabilities(frames, batch_size), frames.labels, frames.classes)
    low, high = scores["ci95"]
    sentence = (
        f"{model}: accuracy {percent(scores['accuracy'])} % (95 % interval {percent(low)}–{percent(high)}),"
        f" macro-F1 {percent(scores['macro_f1'])} %, calibration error {percent(scores['ece'])} %,"
        f" on {whole(scores['n'])} {split} pictures ({classifier.runtime})"
    )
    rows = [
        (name, percent(one["precision"]), percent(one["recall"]), percent(one["f1"]), whole(one["support"]))
        for name, one in scores["per_class"].items()
    ]
    columns = ("class", "precision %", "recall %", "F1 %", "pictures")
    return Answer(scores, (sentence, "", table(columns, rows)), f"slimfer bench {model}")
