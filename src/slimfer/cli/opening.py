"""Opening what a verb runs: a model that ships, an artifact, a run folder or a checkpoint, as a recognizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimfer.cli.classifier import RuntimeName
from slimfer.cli.resolve import ArtifactFile, load_checkpoint, resolve

if TYPE_CHECKING:
    from slimfer.runtime.predict import Recognizer


def open_recognizer(text: str | None, runtime: RuntimeName, **settings: Any) -> "Recognizer":
    """Open an artifact, or write the checkpoint as one in memory, so that both give the same answers.

    Args:
        text: MODEL as the user wrote it; None is the first that ships.
        runtime: what runs it.
        settings: further arguments of `Recognizer`.
    """
    from slimfer.runtime.predict import Recognizer

    source: Path | bytes | None = None
    if text is not None:
        model = resolve(text, prefer="artifact")
        if isinstance(model, ArtifactFile):
            source = model.path
        else:
            from slimfer.export.onnx import to_onnx

            source = to_onnx(load_checkpoint(text))
    return Recognizer(source, runtime=runtime, **settings)
