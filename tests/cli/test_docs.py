"""docs/cli.md is what the help says; `python tests/cli/test_docs.py` renews it."""

import re
import shlex
from pathlib import Path

import pytest

from slimfer.cli.app import VERBS, app
from slimfer.files import write_text

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def generated() -> str:
    return app.generate_docs(usage_name="slimfer").rstrip() + "\n"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == generated(), "renew it with: python tests/cli/test_docs.py"


@pytest.mark.parametrize("line", [line for verb in VERBS for line in verb.examples])
def test_every_example_is_a_command_line_that_parses(line: str) -> None:
    command = re.sub(r"^.*\| *(?=slimfer )|>.*$", "", line)
    words = shlex.split(command)
    assert words[0] == "slimfer"
    function, _, _ = app.parse_args(words[1:], print_error=False, exit_on_error=False)
    assert function.__module__.startswith("slimfer.cli.")


if __name__ == "__main__":
    write_text(DOCUMENT, generated())
