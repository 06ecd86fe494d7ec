import json
import re

import pytest

from report.pages import assert_links_lead_somewhere, assert_self_contained, blank_charts, read
from slimfer.report.errors import change_told, short
from slimfer.report.page import render, write_report
from slimfer.report.results import parse_results


def section(page, name):
    start = page.index(f'<section id="{name}"')
    return page[start : page.index("</section>", start)]


@pytest.fixture
def page(run):
    return write_report(run[0]).read_text()


def test_pictures_are_on_the_page_and_come_from_nowhere_else(page, run):
    _, results = run
    assert_self_contained(page)
    assert_links_lead_somewhere(page)
    shown = len(results["mistakes"]) + min(48, len(results["label_issues"]["rows"]))
    assert len(read(page).sources) >= shown > 20
    assert "pictures" not in section(page, "mistakes").partition("<ul")[0].replace("Show the pictures", "")


def test_every_picture_says_what_it_is_without_being_seen(page):
    alternatives = [value for tag, name, value in read(page).attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == len(read(page).sources)
    assert all(re.fullmatch(r"picture \d+", text) for text in alternatives)


def test_the_lists_are_tables_too(page, run):
    _, results = run
    for name, rows in (("mistakes", results["mistakes"]), ("label-issues", results["label_issues"]["rows"])):
        found = section(page, name)
        for row in rows:
            assert f'<th scope="row">#{row["index"]}</th><td>{row["label"]}</td>' in found
            assert row["name"] in found


@pytest.mark.parametrize(
    ("lost_file", "wanted", "told"),
    [(False, False, "left out (--no-pictures)"), (True, True, "pictures.npy is not there, or not that of this run")],
)
def test_without_pictures_the_page_says_so_and_keeps_the_tables(run, lost_file, wanted, told):
    folder, results = run
    if lost_file:
        (folder / "pictures.npy").unlink()
    page = write_report(folder, pictures=wanted).read_text()
    assert read(page).sources == []
    assert_self_contained(page)
    for name in ("mistakes", "label-issues"):
        assert told in section(page, name)
        assert "<details>" not in section(page, name)
    assert results["mistakes"][0]["name"] in page


def test_a_run_that_kept_none_says_so(run):
    folder, results = run
    (folder / "results.json").write_text(json.dumps({**results, "pictures": None}))
    assert "The run kept no pictures." in section(write_report(folder).read_text(), "mistakes")


def test_results_of_before_have_none_of_it(compressed):
    page = render(parse_results(compressed))
    for name in ("mistakes", "label-issues"):
        assert f'id="{name}"' not in page
    assert "Which classes paid" not in page


def test_lost_and_gained_of_each_class_and_of_all(page, run):
    _, results = run
    change = results["change"]
    for name, row in (*change["per_class"].items(), ("all", {"support": change["n"], **change})):
        cells = "".join(f'<td class="number">{row[key]}</td>' for key in ("support", "lost", "gained"))
        assert f'<th scope="row">{name}</th>{cells}' in section(page, "classes")


def row_of(low, high, difference=0.0):
    return {"support": 9, "lost": 1, "gained": 2, "difference": difference, "ci95": [low, high]}


def test_only_what_is_beyond_its_interval_is_told():
    change = {"n": 27, **row_of(-0.1, 0.1), "per_class": {"sad": row_of(-0.3, 0.1), "fear": row_of(0.0, 0.2)}}
    assert change_told(change).endswith("No class's 95 % interval leaves out zero.")
    change["per_class"]["sad"] = row_of(-0.3, -0.1)
    assert change_told(change).endswith("With 95 % confidence each, sad paid.")
    change["per_class"]["fear"] = row_of(0.1, 0.2)
    assert change_told(change).endswith("With 95 % confidence each, sad paid and fear gained.")
    change["per_class"]["sad"] = row_of(-0.3, 0.1)
    assert change_told(change).endswith("With 95 % confidence each, no class paid and fear gained.")


def test_calibration_is_told(page):
    found = section(page, "reliability")
    assert re.search(r"temperature of the logits</th><td class=\"number\">1\.500<", found)
    assert "40.00 %" in found


def test_ten_thousand_mistakes_fit_the_page(run):
    _, results = run
    row, issue = results["mistakes"][0], results["label_issues"]["rows"][0]
    long = "x" * 4000
    many = [{**row, "index": i, "name": f"{long}{i}.jpg"} for i in range(10_000)]
    results["mistakes"] = many
    results["label_issues"] = {"count": 10_000, "rows": [{**issue, "name": long}] * 10_000}
    page = render(parse_results(results), blank_charts(results))
    assert_self_contained(page)
    assert page.count("0.jpg") < 200


def test_hostile_names_stay_text(run):
    folder, results = run
    attack = '"><script src="http://x"></script><img src=x onerror=alert(1)>$\\frac$'
    text = json.dumps(results).replace('"angry"', json.dumps(attack)).replace("validation/", attack.replace('"', "'"))
    (folder / "results.json").write_text(text)
    page = write_report(folder).read_text()
    assert_self_contained(page)
    assert read(page).tags.count("script") == 1
    assert "&lt;script" in page


@pytest.mark.parametrize(
    ("name", "told"), [(None, "–"), ("a/b.jpg", "a/b.jpg"), ("y" * 500, "…" + "y" * 80), ("\udcff", "\\udcff")]
)
def test_names_end_in_time(name, told):
    assert short(name) == told
