import json

import pytest

from slimfer.errors import InputError
from slimfer.report.readme import BEGIN, END, main, readme_table, with_results
from slimfer.report.results import parse_results


def test_only_what_is_between_the_marks_changes():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_results(text, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_renewing_twice_is_renewing_once():
    text = with_results(f"{BEGIN}{END}", "| table |")
    assert with_results(text, "| table |") == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_marks_that_are_missing_or_wrong_are_refused(text):
    with pytest.raises(InputError, match="each once"):
        with_results(text, "new")


def test_table_says_where_its_figures_come_from(compressed):
    text = readme_table(parse_results(compressed))
    assert text.startswith("| stage | accuracy % |")
    for part in (
        "140 validation pictures of synthetic",
        "A processor",
        "torch 2.13.0",
        "Seed 3.",
        compressed["command"],
    ):
        assert part in text


def test_nothing_is_said_about_latency_that_was_not_measured(trained):
    assert "atency" not in readme_table(parse_results(trained))


def test_main_renews_the_file(compressed, tmp_path):
    document, source = tmp_path / "README.md", tmp_path / "results.json"
    document.write_text(f"# Title\n{BEGIN}\n{END}\n")
    source.write_text(json.dumps(compressed))
    assert main([str(document), str(source)]) == 0
    assert document.read_text() == f"# Title\n{BEGIN}\n{readme_table(parse_results(compressed))}\n{END}\n"


def test_main_needs_two_arguments():
    with pytest.raises(InputError, match="usage"):
        main(["README.md"])
