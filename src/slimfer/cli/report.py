"""`slimfer report`."""

from pathlib import Path

from slimfer.cli.common import Answer, Common


def report(run: Path, /, *, common: Common = Common()) -> Answer:
    """Write RUN/report.html, one self-contained page, from RUN/results.json.

    Args:
        run: a run folder.
        common: see `Common`.
    """
    from slimfer.report.page import write_report

    page = write_report(run)
    return Answer({"report": str(page)}, (f"report: {page}",))
