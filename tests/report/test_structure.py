"""What every page owes to those who do not see it, do not use a mouse, or print it."""

import json
from itertools import pairwise

import pytest

from report.conftest import COMPRESS, DISTILL, STUDY, TRAIN, examined
from report.pages import assert_links_lead_somewhere, assert_self_contained, read
from slimfer.report.compare import write_comparison
from slimfer.report.page import render, write_report
from slimfer.report.results import parse_results

KINDS = ("run", "without pictures", "comparison", "study", "distill", "train", "evaluate")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """One page of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for name, skill in (("a", 0.6), ("b", 0.4)):
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps(examined(folder / name, skills=(0.7, skill))))
    stages = [{key: COMPRESS["stages"][0][key] for key in ("name", "title", "scores")}]
    evaluated = {"format": 1, "kind": "evaluate", "labels": COMPRESS["labels"], "stages": stages}
    made = {
        "run": write_report(folder / "a").read_text(),
        "without pictures": write_report(folder / "a", pictures=False).read_text(),
        "comparison": write_comparison([folder / "a", folder / "b"], folder / "both.html").read_text(),
    }
    others = {"study": STUDY, "distill": DISTILL, "train": TRAIN, "evaluate": evaluated}
    return made | {name: render(parse_results(results)) for name, results in others.items()}


@pytest.fixture(params=KINDS)
def page(request, pages):
    return pages[request.param]


def elements(page):
    """Return (tag, attributes) of every element in order."""
    return read(page).elements


def test_pages_ask_for_nothing_and_lead_somewhere(page):
    assert_self_contained(page)
    assert_links_lead_somewhere(page)


def test_headings_are_in_order_below_one(page):
    levels = [int(tag[1]) for tag, _ in elements(page) if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_landmarks_are_there_once_and_sections_have_names(page):
    found = elements(page)
    tags = [tag for tag, _ in found]
    assert [tags.count(tag) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
    assert tags.index("header") < tags.index("nav") < tags.index("main") < tags.index("footer")
    assert all("aria-labelledby" in attributes for tag, attributes in found if tag == "section")
    assert ("html", {"lang": "en"}) in found


def test_the_first_stop_skips_to_the_results_and_every_section_is_in_the_list(page):
    found = elements(page)
    links = [attributes["href"] for tag, attributes in found if tag == "a"]
    sections = [f"#{attributes['id']}" for tag, attributes in found if tag == "section"]
    assert links == ["#main", *sections]


def test_charts_and_pictures_are_told_in_words(page):
    found = elements(page)
    for tag, attributes in found:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]
    names = [attributes["aria-label"] for tag, attributes in found if tag == "svg"]
    assert len(names) == len(set(names))


def test_every_section_with_a_chart_has_its_numbers_in_a_table(page):
    for section in page.split("<section ")[1:]:
        if "<svg" in section and 'id="sweep"' not in section:  # its numbers are those of the stages
            assert "<table" in section


def test_heads_of_tables_say_what_they_are_heads_of(page):
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in elements(page) if tag == "th")


def test_boxes_that_scroll_are_reached_by_keys_and_have_names(page):
    boxes = [attributes for _, attributes in elements(page) if attributes.get("class") == "scroll"]
    assert boxes
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-label"] for box in boxes)
    assert all(attributes.get("tabindex", "0") == "0" for _, attributes in elements(page)), "no order of its own"
    names = [attributes["aria-label"] for _, attributes in elements(page) if attributes.get("role") == "region"]
    assert len(names) == len(set(names))


def test_without_pictures_there_are_none(pages):
    assert "data:image" in pages["run"]
    assert "data:image" not in pages["without pictures"]


def test_the_parts_that_people_look_for_are_all_there(pages):
    sections = [attributes["id"] for tag, attributes in elements(pages["run"]) if tag == "section"]
    assert sections == [
        *("stages", "speed", "checks", "layers", "training"),
        *("classes", "mistakes", "label-issues", "reliability", "again"),
    ]
