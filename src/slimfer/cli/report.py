"""`slimfer report`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from slimfer.cli.common import Answer, Common
from slimfer.errors import InputError


def report(
    run: Path,
    /,
    *runs: Path,
    out: Annotated[Path | None, Parameter(alias="-o", help="Page to write about several runs.")] = None,
    no_pictures: Annotated[bool, Parameter(help="Leave the pictures of mistakes and labels in doubt out.")] = False,
    common: Common = Common(),
) -> Answer:
    """Write RUN/report.html, one self-contained page, from RUN/results.json; or one page that compares runs.

    Args:
        run: a run folder; when several are compared, the one that the others are compared with.
        runs: further run folders, or results.json files.
        out: see flags; report-A-B.html unless given.
        no_pictures: see flags.
        common: see `Common`.
    """
    if runs:
        from slimfer.report.compare import write_comparison

        page = write_comparison((run, *runs), out)
    else:
        from slimfer.report.page import write_report

        if out is not None:
            raise InputError("--out is for a comparison of several runs; the page of one run lies in its folder")
        page = write_report(run, pictures=not no_pictures)
    return Answer({"report": str(page)}, (f"report: {page}",))
