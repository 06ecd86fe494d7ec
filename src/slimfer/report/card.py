"""The model card: the README.md beside an artifact, with the front matter that model hubs read."""

import json
from collections.abc import Mapping
from typing import Any

from slimfer.preprocess import SCALE, ZERO_POINT
from slimfer.report.numbers import count, milliseconds, percent, size
from slimfer.report.results import Results, points_lost
from slimfer.report.tables import Table, describe_machine, pictures, stage_table, summary


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
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _name(results: Results) -> str:
    return str(results.data.get("model", results.last.title))


def _front_matter(results: Results, licence: str) -> str:
    """Return the YAML block; every text in it is a JSON string, which YAML reads alike."""
    source = results.data.get("data", {})
    dataset, split = str(source.get("source", "unknown")), str(source.get("split", "validation"))
    lines = [
        "---",
        f"license: {json.dumps(licence.lower())}",
        "library_name: slimfer",
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
    colour = "gray" if channels == 1 else "RGB"
    rows = [
        ("Input", f"`pixels`, uint8, (N, {channels}, {image}, {image}): {colour} face crops, 0-255, not normalized"),
        ("Output", f"`probabilities`, float32, (N, {len(results.labels)})"),
        ("Classes, in this order", ", ".join(results.labels)),
        ("Normalization", f"inside the file: (pixel - {ZERO_POINT}) / {1 / SCALE:g}"),
        ("Size", size(last.bytes) if last.bytes else ""),
        ("Parameters", count(last.params) if last.params else ""),
        ("Multiply-adds per face", count(last.macs) if last.macs else ""),
        ("SHA-256", f"`{artifact['sha256']}`" if "sha256" in artifact else ""),
        ("Licence of the weights", "that of the training data" if licence == "other" else licence),
    ]
    return "## Model details\n\n" + _two_columns(rows)


def _uses() -> str:
    return """## Uses

**Intended**: sorting and searching one's own pictures, research on expressions and on small networks, art and games
that react to a face with the person's knowledge and consent.

**To avoid**: judging what a person feels, intends or is fit for. The network names the expression that most annotators
would see in a picture; an expression is not a feeling. Do not use it for decisions about people: hiring, schooling,
credit, insurance, policing, border control, health. Reading emotions at the workplace and in schools is prohibited in
the European Union (Regulation 2024/1689, article 5, with narrow exceptions); other places have rules of their own."""


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
    return "## Bias, risks and limits\n\n" + "\n".join(told)


def _how_to(results: Results, channels: int, image: int) -> str:
    path = results.data.get("artifact", {}).get("path", "model.onnx")
    mode, view = ("L", "[None, None]") if channels == 1 else ("RGB", ".transpose(2, 0, 1)[None]")
    return f"""## How to read a face with six lines of onnxruntime

```python
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("{path}", providers=["CPUExecutionProvider"])
pixels = np.asarray(Image.open("face.png").convert("{mode}").resize(({image}, {image}), Image.BILINEAR), np.uint8){view}
probabilities = session.run(["probabilities"], {{"pixels": pixels}})[0][0]
print(dict(zip({json.dumps(list(results.labels))}, probabilities.tolist())))
```

With slimfer installed: `slimfer predict face.png --model {path}`, which also checks the file's SHA-256 first."""


def _training(results: Results) -> str:
    data = results.data
    source = data.get("data", {})
    told = []
    if source:
        splits = [f"{source[split]:,} for {split}" for split in ("train", "validation", "test") if source.get(split)]
        told.append(f"Data: {source.get('source', 'unknown')}{', ' + ', '.join(splits) if splits else ''} (pictures).")
    epochs = [f"{curve['stage']} {len(curve['rows'])} epochs" for curve in results.curves if curve["rows"]]
    if epochs:
        told.append(f"Training: {', then '.join(epochs)}; the epoch was chosen on the validation split.")
    if "seed" in data:
        told.append(f"Seed: {data['seed']}.")
    if data.get("command"):
        told.append(f"Command:\n\n```\n{data['command']}\n```\n\nThe whole recipe is `recipe.toml` of the run.")
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
    return "\n\n".join(("## Evaluation", *told, stage_table(results).markdown(), _per_class(scores).markdown()))


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


def _two_columns(rows: list[tuple[str, str]]) -> str:
    """Return the rows that have a value as a Markdown table without headings of its own."""
    return Table(("", ""), tuple((name, value) for name, value in rows if value), (False, False)).markdown()
