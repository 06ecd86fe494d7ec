"""`slimfer predict`."""

import os
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from slimfer.cli.classifier import Runtime
from slimfer.cli.common import Answer, Common, note
from slimfer.cli.opening import open_recognizer
from slimfer.cli.progress import Pace, showing
from slimfer.cli.sinks import FormName, Sink, Target, printable
from slimfer.errors import InputError

if TYPE_CHECKING:
    from slimfer.runtime.answer import Prediction
    from slimfer.runtime.folder import Tally
    from slimfer.runtime.listing import Listing
    from slimfer.runtime.marked import MarkedFolder
    from slimfer.runtime.predict import Recognizer

# A lone hyphen is a picture on stdin, so hyphens must reach `Listing`.
Picture = Annotated[str, Parameter(allow_leading_hyphen=True)]


def predict(
    image: Picture,
    /,
    *images: Picture,
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    recursive: Annotated[bool, Parameter(alias="-r")] = False,
    no_detect: bool = False,
    detector: Path | None = None,
    threshold: Annotated[float | None, Parameter(validator=Number(gte=0, lte=1))] = None,
    max_pixels: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    format: FormName | None = None,
    out: Annotated[str | None, Parameter(alias="-o", allow_leading_hyphen=True)] = None,
    resume: bool = False,
    force: bool = False,
    annotate: Path | None = None,
    strict: bool = False,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1, lte=1024))] = None,
    runtime: Runtime = "onnxruntime",
    common: Common = Common(),
) -> Answer | None:
    """Find the faces in pictures and read their expressions; a bad picture is a status in the answer, not an error.

    Args:
        image: a picture, a folder of them, a glob ('**/*.png', quoted or not), or - for a picture on stdin.
        images: more of them.
        model: a model that ships (slimfer models), an .onnx artifact, a run folder or a checkpoint; without it, the
            first that ships.
        recursive: look into the folders of folders, too.
        no_detect: every picture is one face, cropped and upright.
        detector: the face detector's file; without it SLIMFER_DETECTOR, then the cache.
        threshold: faces whose confidence is below it are marked uncertain; without it, the model's own.
        max_pixels: larger pictures are not decoded but unreadable.
        format: jsonl and csv give each answer as soon as it is there; without it a table, or what the ending of --out
            says. --json is one array.
        out: write the answers to this file (.jsonl, .csv, .json), without the times that they took.
        resume: go on with the file --out (jsonl, csv), however it was left, and answer only what is missing in it.
        force: replace the file --out, and marked pictures of the same name.
        annotate: write the pictures with boxes, labels and scores into this folder, in the same layout.
        strict: exit with code 1 if a picture could not be read.
        workers: pictures that are read at the same time; without it as many as there are --threads, or CPU cores.
        runtime: see flags.
        common: see `Common`.
    """
    from slimfer.runtime.listing import STDIN, Listing

    target = Target.of(format, out, as_json=common.json, resume=resume, force=force)
    listing = Listing((image, *images), recursive=recursive, leave_out=annotate)
    if STDIN in (image, *images) and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("- is a picture on stdin, and there is none; pipe one in: slimfer predict - < face.jpg")
    total = listing.count()
    at_once = min(total, workers or common.thread_count(default=_cores()))
    recognizer = open_recognizer(
        model,
        runtime,
        threads=max(1, common.thread_count(default=at_once) // at_once),
        threshold=threshold,
        detect=not no_detect,
        detector=detector,
        **({} if max_pixels is None else {"max_pixels": max_pixels}),
    )
    job = _Job(recognizer, listing, _marked(annotate, listing, again=resume or force))
    about = recognizer.session.artifact
    quiet = replace(common, quiet=common.quiet or total == 1 or target.is_on_screen)
    with target.open(recognizer.labels, (about.name, about.metadata["version"])) as sink, showing(quiet) as show:
        pace = Pace(show, total, "pictures", done=sink.tally.pictures)
        _answer_all(job, sink, target, pace, at_once)
    _report(sink.tally, listing, pace, common)
    code = 1 if strict and sink.tally.failed else 0
    return Answer(_summary(target.out, sink.tally) if target.out else sink.document, sink.view(), exit_code=code)


@dataclass(frozen=True)
class _Job:
    """What is done with each picture; several threads do it at once."""

    recognizer: "Recognizer"
    listing: "Listing"
    marked: "MarkedFolder | None"

    def __call__(self, path: str) -> "Prediction":
        prediction, picture = self.recognizer.see(sys.stdin.buffer if path == "-" else path)
        if self.marked is not None and picture is not None:
            name = Path("stdin.png") if path == "-" else self.listing.relative(path)
            self.marked.save(name, picture, prediction)
        return prediction


def _marked(folder: Path | None, listing: "Listing", *, again: bool) -> "MarkedFolder | None":
    if folder is None:
        return None
    from slimfer.runtime.marked import MarkedFolder

    return MarkedFolder(folder, listing.roots, again=again)


def _answer_all(job: _Job, sink: Sink, target: Target, pace: Pace, at_once: int) -> None:
    """Answer every picture that the sink does not have, in order."""
    from slimfer.runtime.parallel import in_order

    missing = (path for path in job.listing if path not in sink)
    try:
        with closing(in_order(job, missing, at_once)) as answers:
            for one in answers:
                sink.write(one)
                pace.step()
    except KeyboardInterrupt:
        if target.out and target.form != "json":
            note(f"{target.out} holds {sink.tally.pictures:,} answers; the same command with --resume goes on")
        raise


def _report(tally: "Tally", listing: "Listing", pace: Pace, common: Common) -> None:
    """Say on stderr what could not be read, and in one line how it all ended."""
    failed = tally.statuses["unreadable"]
    if failed:
        note(f"could not be read: {failed:,} of {tally.pictures:,}")
        for path, reason in tally.problems:
            note(f"  {printable(path)}: {printable(reason)}")
        if failed > len(tally.problems):
            note(f"  and {failed - len(tally.problems):,} more, which have the status unreadable in the answers")
    for folder, reason in listing.closed.items():
        note(f"could not be opened: {printable(folder)}: {reason}")
    if tally.no_detector:
        note(f"no face detector: {tally.no_detector}")
    if tally.pictures > 1 and not common.quiet:
        parts = ", ".join(f"{number:,} {status}" for status, number in sorted(tally.statuses.items()))
        speed = f"; {pace.rate:.3g} pictures/s" if pace.seconds > 1 else ""
        note(f"{tally.pictures:,} pictures: {parts}{speed}")


def _summary(out: Path, tally: "Tally") -> dict[str, Any]:
    """Return what `--json` says when the answers go to a file."""
    listed = [{"path": path, "error": reason} for path, reason in tally.problems]
    return {"out": str(out), "pictures": tally.pictures, "statuses": dict(tally.statuses), "unreadable": listed}


def _cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
