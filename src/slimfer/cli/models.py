"""`slimfer models`."""

from typing import Any

from slimfer.cli.common import Answer, Common, table
from slimfer.cli.resolve import zoo
from slimfer.report.numbers import count, milliseconds, percent, size
from slimfer.shipped import DEFAULT, SHIPPED


def models(*, common: Common = Common()) -> Answer:
    """List the trained models that ship, with size, scores and speed on this machine, and the networks to train.

    Args:
        common: see `Common`.
    """
    trained = _shipped(common.thread_count())
    networks = [{"name": name, **cost} for name, cost in zoo().items()]
    rows = [
        (
            one["name"],
            f"{one['image']} px",
            size(one["bytes"]),
            percent(one["accuracy"]),
            percent(one["macro_f1"]),
            milliseconds(one["latency_ms"]),
            percent(one["threshold"]),
        )
        for one in trained
    ]
    columns = ("trained model", "face", "size", "accuracy %", "macro-F1 %", "ms here", "uncertain below %")
    told = (
        f"{DEFAULT} is the default. Scores: of each file's metadata. Time: one face, {common.thread_count()} thread(s)."
    )
    costs = [
        (one["name"], count(one["params"]), count(one["macs"]), count(one["activations"]), size(one["bytes"]))
        for one in networks
    ]
    view = (
        table(columns, rows),
        told,
        "",
        table(("network to train", "parameters", "MACs", "activations", "fp32 size"), costs),
    )
    document = {"models": trained, "image": 48, "channels": 1, "classes": 7, "networks": networks}
    return Answer(document, view, f"slimfer predict photo.jpg --model {DEFAULT}")


def _shipped(threads: int) -> list[dict[str, Any]]:
    """Return what is known about the models that ship, their speed measured in one interleaved run."""
    import numpy as np

    from slimfer.runtime.session import Session
    from slimfer.timing import Job, interleave

    def job(session: Session) -> Job:
        face = np.zeros((1, session.channels, session.image, session.image), np.uint8)
        return lambda: session.run(face)

    sessions = {name: Session(path, threads=threads) for name, path in SHIPPED.items()}
    timings = interleave({name: job(session) for name, session in sessions.items()}, rounds=10, min_time=0.01)
    return [
        {
            "name": name,
            "labels": list(session.labels),
            "image": session.image,
            "channels": session.channels,
            "bytes": len(session.artifact.data),
            **{key: session.artifact.scores[key] for key in ("accuracy", "macro_f1", "n")},
            "threshold": session.artifact.calibration.threshold,
            "latency_ms": timings[name].median_ms,
            "sha256": session.artifact.sha256,
        }
        for name, session in sessions.items()
    ]
