"""What is trained beside the network that a search found: the front over several sizes, and the controls."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slimfer.compress.cut import cut_groups
from slimfer.compress.goal import CutConfig
from slimfer.compress.search import Plan
from slimfer.export.estimate import SIZE, Values
from slimfer.export.probe import Measured
from slimfer.export.seek import Propose, Seeker
from slimfer.files import atomic_write

POINTS = 6  # of the front, at most: sizes of 1, 1/2, 1/4, ... of the whole network with 8 bits
Point = dict[str, Any]


def sizes(seeker: Seeker) -> list[Values]:
    """Return the limits of the points of a front."""
    whole = seeker.probe(seeker.whole()).bytes
    return [np.array([whole * 2.0**-number, np.inf, np.inf]) for number in range(POINTS)]


def front(seeker: Seeker, cut_loss: float, folder: Path, propose: Propose) -> Iterator[Point]:
    """Train the best networks for several sizes; the file of each becomes `folder/BYTES.onnx`.

    Args:
        seeker: after its `run`.
        cut_loss: how much the losses of cuts count; that of the best trial.
        folder: for the files.
        propose: gives the plan for a size; `seeker.propose`, or a study of `sizes`.

    Yields:
        A point of results.json's `trade_offs` for each.
    """
    for number, limits in enumerate(sizes(seeker)):
        plan = seeker.whole() if number == 0 else propose(cut_loss, limits)
        name = f"front-{number + 1}"
        if plan is None:
            seeker.table.skip(name, f"the front ends: no plan found within {limits[SIZE]:,.0f} bytes")
            return
        measured = seeker.attempt(name, seeker.steps(plan))
        path = folder / f"{measured.bytes}.onnx"
        atomic_write(path, (seeker.tools.folder / name / "model.onnx").read_bytes())
        seeker.table.add("front", name, seeker.describe(plan), measured, share=2.0**-number)
        yield point("searched", seeker.describe(plan), measured) | {"file": f"{folder.name}/{path.name}"}


def controls(seeker: Seeker, plan: Plan, final: Measured) -> Iterator[Point]:
    """Train what a search has to beat, with the same settings, each one as near as possible to the same bytes.

    * uniform: all groups keep the same share of their channels, all weights have 8 bits;
    * uniform with the best bits: the same with those bits that lose least by the sensitivities;
    * from scratch: the widths and bits that were found, from random weights, for as many epochs as the dense network
      and the fine-tuning had together; with the teachers that are named, and if there are some, also without them.

    Args:
        seeker: after its `run`.
        plan: that was found.
        final: its file.

    Yields:
        A point of results.json's `trade_offs` for each.
    """
    uniform = {bits: _uniform(seeker, bits, final.bytes) for bits in sorted(set(seeker.goal.bits), reverse=True)}
    highest = max(uniform)
    best = min(uniform, key=lambda bits: (seeker.loss(uniform[bits]), -bits))
    chosen = {"uniform": highest} | ({"uniform-bits": best} if best != highest else {})
    if best == highest:
        seeker.table.skip("control-uniform-bits", f"the same as control-uniform: {best} bits lose least", bits=best)
    for name, bits in chosen.items():
        measured = seeker.attempt(f"control-{name}", seeker.steps(uniform[bits]))
        seeker.table.add("control", f"control-{name}", seeker.describe(uniform[bits]), measured, bits=bits)
        yield point("uniform", seeker.describe(uniform[bits]), measured)
    widths = {name: width for name, width in plan.keep.items() if width < seeker.sizes[name]}
    narrow = cut_groups(seeker.dense, seeker.tools.dataset["train"], CutConfig(widths, "gamma", recalibrate=0))
    epochs = sum(entry["config"]["epochs"] for entry in seeker.dense.lineage if "epochs" in entry.get("config", {}))
    epochs += seeker.config.finetune.epochs
    rest = [step for step in seeker.steps(plan) if step["do"] not in ("cut", "finetune")]
    steps = ({"do": "train", "epochs": epochs, "slim": {"penalty": 0.0}}, *rest)
    alone = {"distill": {"weight": 0.0}}
    untaught = tuple({**step, **(alone if step["do"] in ("train", "qat") else {})} for step in steps)
    told = f"{seeker.describe(plan)}, from scratch"
    chains = {"control-scratch": (told, steps)}
    if seeker.config.distill.teachers:
        chains["control-untaught"] = (f"{told}, no teacher", untaught)
    for name, (what, chain) in chains.items():
        measured = seeker.attempt(name, chain, start=narrow.spec)
        seeker.table.add("control", name, what, measured, epochs=epochs)
        yield point("from scratch", what, measured)


def point(series: str, label: str, measured: Measured) -> Point:
    """Return a point of results.json's `trade_offs`."""
    accuracies = [measured.accuracy]
    return {"series": series, "label": label, "bytes": measured.bytes, "accuracies": accuracies, "ms": measured.ms}


def _uniform(seeker: Seeker, bits: int, target: int) -> Plan:
    """Return the uniform plan with these bits whose file comes nearest to `target` bytes, widths in steps of 1."""
    plans = [seeker.uniform(share, bits) for share in np.linspace(1, 0, 400, endpoint=False)]
    rest = 0.0
    for _ in range(2):  # the second time with what the model got wrong near the target
        found = min(plans, key=lambda plan: abs(seeker.expected_bytes(plan) + rest - target))
        rest = seeker.probe(found).bytes - seeker.expected_bytes(found)
    return found
