"""The model card: the README.md beside an artifact, with the front matter that model hubs read."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimfer.preprocess import SCALE, ZERO_POINT
from slimfer.report.errors import calibration_table, change_table, change_told
from slimfer.report.numbers import count, milliseconds, percent, size, whole
from slimfer.report.results import Results, points_lost
from slimfer.report.tables import Table, describe_machine, pictures, stage_table, summary
from slimfer.toml import to_toml

FRONT = "library_name: slimfer"  # what tells a card of ours from other files of that name

# The methods that a table of the recipe stands for.
METHODS: Mapping[str, str] = {
    "slim": "Liu et al.: Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017,"
    " arXiv 1708.06519.",
    "cut": "Molchanov et al.: Importance Estimation for Neural Network Pruning. CVPR 2019, arXiv 1906.10771.",
    "prune": "Li et al.: Pruning Filters for Efficient ConvNets. ICLR 2017, arXiv 1608.08710.",
    "dsd": "Han et al.: DSD: Dense-Sparse-Dense Training for Deep Neural Networks. ICLR 2017, arXiv 1607.04381.",
    "distill": "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. 2015, arXiv 1503.02531.",
    "quantize": "Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only"
    " Inference. CVPR 2018, arXiv 1712.05877.",
    "qat": "Esser et al.: Learned Step Size Quantization. ICLR 2020, arXiv 1902.08153.",
    "calibration": "Guo et al.: On Calibration of Modern Neural Networks. ICML 2017, arXiv 1706.04599.",
}


def model_card(results: Results, *, licence: str = "other", channels: int = 1, image: int = 48) -> str:
    """Return the Markdown of the card.

    Args:
        results: of the run that made the artifact; its last stage is what ships.
        licence: SPDX name under which the weights may be used; `other` stands for the terms of the training data.
        channels: input channels of the artifact, 1 or 3.
        image: height and width of its input in pixels.
    """
    sections = (
        _front_matter(results, licence),
        f"# {_name(results)}\n\n{summary(results)}",
        _details(results, licence, channels, image),
        _uses(),
        _limits(results),
        _how_to(results, channels, image),
        _training(results),
        _evaluation(results),
        _technical(results),
        _citation(results),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def is_card(path: Path) -> bool:
    """Return whether a file is a card that `model_card` made."""
    return path.is_file() and FRONT in path.read_text(encoding="utf-8", errors="replace")


def _name(results: Results) -> str:
    return str(results.data.get("model", results.last.title))


def _front_matter(results: Results, licence: str) -> str:
    """Return the YAML block; every text in it is a JSON string, which YAML reads alike."""
    source = results.data.get("data", {})
    dataset, split = str(source.get("source", "unknown")), str(source.get("split", "validation"))
    lines = [
        "---",
        f"license: {json.dumps(licence.lower())}",
        FRONT,
        "pipeline_tag: image-classification",
        "tags: [facial-expression-recognition, onnx, onnxruntime]",
        f"datasets: [{json.dumps(dataset)}]",
        "metrics: [accuracy, f1]",
    ]
    scores = results.last.scores
    if scores is not None:
        lines += [
            "model-index:",
            f"- name: {json.dumps(_name(results))}",
            "  results:",
            "  - task: {type: image-classification, name: Facial-expression recognition}",
            f"    dataset: {{type: {json.dumps(dataset)}, name: {json.dumps(dataset)}, split: {json.dumps(split)}}}",
            "    metrics:",
            f"    - {{type: accuracy, value: {scores['accuracy']:.6f}, name: Accuracy}}",
            f"    - {{type: f1, value: {scores['macro_f1']:.6f}, name: Macro F1}}",
        ]
    return "\n".join([*lines, "---"])


def _details(results: Results, licence: str, channels: int, image: int) -> str:
    last, artifact = results.last, results.data.get("artifact", {})
    weight = artifact.get("bytes") or last.bytes
    colour = "gray" if channels == 1 else "RGB"
    rows = [
        ("Input", f"`pixels`, uint8, (N, {channels}, {image}, {image}): {colour} face crops, 0-255, not normalized"),
        ("Output", f"`probabilities`, float32, (N, {len(results.labels)})"),
        ("Classes, in this order", ", ".join(results.labels)),
        ("Normalization", f"inside the file: (pixel - {ZERO_POINT}) / {1 / SCALE:g}"),
        ("Size of the file", f"{size(weight)} ({weight:,} bytes)" if weight else ""),
        ("Parameters", count(last.params) if last.params else ""),
        ("Multiply-adds per face", count(last.macs) if last.macs else ""),
        ("Confidence", _confidence(results)),
        ("SHA-256 of the content, which slimfer checks", f"`{artifact['sha256']}`" if "sha256" in artifact else ""),
        ("Licence of the weights", "that of the training data" if licence == "other" else licence),
    ]
    return "## Model details\n\n" + _two_columns(rows)


def _confidence(results: Results) -> str:
    """Return how the runtime comes from probabilities to a confidence."""
    calibration = results.calibration
    if calibration is None:
        return ""
    threshold = calibration["threshold"]
    doubt = f"below {percent(threshold)} % an answer is marked uncertain" if threshold else "no threshold is set"
    return f"logits divided by {calibration['temperature']:g} (temperature scaling); {doubt}"


def _uses() -> str:
    return """## Uses

**Direct use**: sorting and searching one's own pictures, research on expressions and on small networks, art and games
that react to a face with the person's knowledge and consent.

**Downstream use**: as a part of a program that shows what it read as a guess, with its confidence, to the person whose
face it is; as a start for further training on one's own pictures.

**Uses to avoid**: inferring the inner feelings of people, above all at work or in school; judging what a person feels,
intends or is fit for. The network names the expression that most annotators would see in a picture; an expression is
not a feeling. Do not use it for decisions about people: hiring, schooling, credit, insurance, policing, border control,
health. Reading emotions at the workplace and in schools is prohibited in the European Union (Regulation 2024/1689,
article 5, with narrow exceptions); other places have rules of their own."""


def _limits(results: Results) -> str:
    scores = results.last.scores
    told = [
        "- It answers for every crop, also for one without a face: the input must be a face, found by a detector.",
        "- Faces that are turned away, covered, very dark or smaller than the input may be read worse; not measured.",
        "- Fairness across age, gender and skin colour was not measured, and pictures from the web are not balanced.",
    ]
    if scores is not None:
        present = {name: row for name, row in scores["per_class"].items() if row["support"]}
        worst, best = (choose(present, key=lambda name: present[name]["recall"]) for choose in (min, max))
        told.append(
            f"- Classes differ: of the {worst} faces {percent(present[worst]['recall'])} % are recognized"
            f" ({present[worst]['support']} pictures), of the {best} ones {percent(present[best]['recall'])} %."
        )
        if "ece" in scores:
            told.append(
                f"- The probabilities are not exact: their expected calibration error is {percent(scores['ece'])} %."
            )
    if results.calibration is not None:
        before, after = (percent(results.calibration[key]) for key in ("ece_before", "ece_after"))
        told.append(
            f"- The confidence that the runtime gives is not exact either: with the temperature the error is {after} %"
            f" instead of {before} % (on {whole(results.calibration['n'])} pictures, each half calibrated by the"
            " other), and worse on pictures of another kind."
        )
    told += [
        f"- A check failed: {check['name']} is {check['value']:.4g} (limit {check['limit']:g}, {check['note']})."
        for check in results.data.get("checks", ())
        if not check["passed"]
    ]
    issues = results.data.get("label_issues")
    if issues and issues["count"]:
        told.append(
            f"- Labels are opinions: {whole(issues['count'])} of the pictures that it was judged on look mislabelled"
            " (confident learning), so a part of its mistakes may be none, and a part of its hits."
        )
    return "## Bias, risks and limits\n\n" + "\n".join(told)


def _how_to(results: Results, channels: int, image: int) -> str:
    path = str(results.data.get("artifact", {}).get("path", "model.onnx"))
    mode, view = ("L", "[None, None]") if channels == 1 else ("RGB", ".transpose(2, 0, 1)[None]")
    return f"""## How to get started

`slimfer predict` finds the faces in a photo first, reads each, and checks the file's SHA-256 before it opens it:

```
slimfer predict photo.jpg --model {shlex.quote(path)}
slimfer predict face.png --no-detect --model {shlex.quote(path)}
```

With `--no-detect` the whole picture is the crop of a face. In Python:
`slimfer.Recognizer({json.dumps(path)})("photo.jpg")`.

Six lines of onnxruntime read the crop of a face without slimfer:

```python
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession({json.dumps(path)}, providers=["CPUExecutionProvider"])
pixels = np.asarray(Image.open("face.png").convert("{mode}").resize(({image}, {image}), Image.BILINEAR), np.uint8){view}
probabilities = session.run(["probabilities"], {{"pixels": pixels}})[0][0]
print(dict(zip({json.dumps(list(results.labels))}, probabilities.tolist())))
```

They give the probabilities as the network has them; the confidence of slimfer is these with the temperature."""


def _training(results: Results) -> str:
    data = results.data
    source = data.get("data", {})
    told = []
    if source:
        splits = [f"{source[split]:,} for {split}" for split in ("train", "validation", "test") if source.get(split)]
        told.append(f"Data: {source.get('source', 'unknown')}{', ' + ', '.join(splits) if splits else ''} (pictures).")
    epochs = [
        f"{curve['stage']} {len(curve['rows'])} {'epoch' if len(curve['rows']) == 1 else 'epochs'}"
        for curve in results.curves
        if curve["rows"]
    ]
    if epochs:
        told.append(f"Training: {', then '.join(epochs)}; the epoch was chosen on the validation split.")
    if "seed" in data:
        told.append(f"Seed: {data['seed']}.")
    if data.get("command"):
        told.append(f"Command:\n\n```\n{data['command']}\n```")
    if data.get("recipe"):
        told.append(
            "The recipe, with all settings as they were:\n\n<details><summary>Recipe</summary>\n\n"
            f"```toml\n{to_toml(data['recipe']).strip()}\n```\n\n</details>"
        )
    return "## Training\n\n" + "\n\n".join(told) if told else ""


def _evaluation(results: Results) -> str:
    scores = results.last.scores
    if scores is None:
        return ""
    source = results.data.get("data", {})
    told = [f"On {pictures(results)} of {source.get('source', 'the data')}, single pass, with 95 % intervals."]
    lost = points_lost(results, results.last)
    if len(results.stages) > 1 and lost is not None:
        told[0] += f" Against the first row it loses {lost:.2f} points." if lost > 0 else " It loses no accuracy."
    parts = ["## Evaluation", *told, stage_table(results).markdown(), _per_class(scores).markdown()]
    if (change := results.change) is not None:
        parts += [
            "### What changed in each class",
            change_told(change),
            "Lost are pictures that only the first network reads correctly, gained those that only this one does; the"
            " change is that of the recall, in points.",
            change_table(change).markdown(),
        ]
    if results.calibration is not None:
        parts += ["### Calibration", calibration_table(results.calibration).markdown()]
    return "\n\n".join(parts)


def _per_class(scores: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, f"{row['support']:,}", *(percent(row[key]) for key in ("precision", "recall", "f1")))
        for name, row in scores["per_class"].items()
    )
    return Table(("class", "pictures", "precision %", "recall %", "F1 %"), rows, (False, *(True,) * 4))


def _technical(results: Results) -> str:
    data, last = results.data, results.last
    rows = [
        ("Machine of the measurements", describe_machine(data.get("machine", {}))),
        ("Versions", ", ".join(f"{name} {value}" for name, value in data.get("versions", {}).items())),
        ("Latency, batch 1, one thread", f"{milliseconds(last.median_ms)} ms (median)" if last.median_ms else ""),
    ]
    return "## Technical specifications\n\n" + _two_columns(rows) if any(value for _, value in rows) else ""


def _citation(results: Results) -> str:
    """Return the papers behind the recipe's tables."""
    used = [*(results.data.get("recipe") or {}), *(["calibration"] if results.calibration is not None else [])]
    told = [f"- {METHODS[name]}" for name in METHODS if name in used]
    return "## Citation\n\nMade with slimfer, by these methods:\n\n" + "\n".join(told) if told else ""


def _two_columns(rows: list[tuple[str, str]]) -> str:
    """Return the rows that have a value as a Markdown table without headings of its own."""
    return Table(("", ""), tuple((name, value) for name, value in rows if value), (False, False)).markdown()
