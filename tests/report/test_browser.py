"""The page in a real browser: widths, contrast, keyboard, paper, and what may leave it. Skipped where there is none."""

import json
import time
from pathlib import Path

import pytest

from report.browser import Browser, program
from report.conftest import examined
from slimfer.report.compare import write_comparison
from slimfer.report.page import write_report

pytestmark = pytest.mark.long

CHECKS = Path(__file__).with_name("checks.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = program()
    if path is None:
        pytest.skip("no chromium in the path (SLIMFER_CHROMIUM may name one)")
    browser = Browser(path, tmp_path_factory.mktemp("profile"))
    browser.ask("Page.addScriptToEvaluateOnNewDocument", source=CHECKS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A run with everything that a search adds and a long title, and its comparison with another one."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [folder / "a-run-with-a-rather-long-name", folder / "b"]
    for run, skill in zip(runs, (0.6, 0.4), strict=True):
        results = examined(run, skills=(0.7, skill))
        results["stages"][-1]["title"] = "Slimmed, fine-tuned, quantized, 4-bit weights, 8-bit activations, onnxruntime"
        results["lineage"] = [{"step": "train", "config": {"epochs": 4, "optimizer": "sgd", "lr": 0.1}}]
        results["trials"] = [
            {"name": name, "kind": kind, "step": "keep 50 % of the channels, 4.0 bits", "why": "within the budget",
             "parameter": {"cut_loss": 0.25}, "bytes": 99_000, "macs": 10**7, "ms": 0.2, "accuracy": 0.5, "drop": 1.0}
            for name, kind in (("final", "final"), ("control-uniform-bits", "control"))
        ]  # fmt: skip
        results["trade_offs"] = [
            {"series": way, "label": "keep 50 %", "bytes": size, "accuracies": [0.5], "ms": 1e-6 * size}
            for way, size in (("searched", 90_000), ("searched", 190_000), ("uniform", 91_000))
        ]
        (run / "results.json").write_text(json.dumps(results))
    return [write_report(runs[0]), write_comparison(runs, folder / "both.html")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window_and_no_text_is_faint(browser, pages, scheme):
    browser.media(prefers_color_scheme=scheme)
    for page in pages:
        for width in (1280, 800, 400, 320):
            browser.open(page, width)
            browser.run("openAll()")
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run("outside()") == [], width
        browser.open(page, 1280)
        browser.run("openAll()")
        browser.size(1280, browser.run("document.documentElement.scrollHeight"))
        told = browser.run("faint()")
        assert told["count"] > 300
        assert told["found"] == []
    browser.media()


def test_forced_colours_leave_everything_readable(browser, pages):
    browser.media(forced_colors="active", prefers_color_scheme="dark")
    browser.open(pages[0])
    browser.size(1280, browser.run("document.documentElement.scrollHeight"))
    assert browser.run("faint()")["found"] == []
    browser.media()


def test_paper_holds_the_whole_width(browser, pages):
    browser.media("print")
    for page in pages:
        browser.open(page, 718)  # A4 less the margins of a browser
        assert browser.run("document.documentElement.scrollWidth") <= 718
    browser.media()


def test_tab_goes_through_everything_in_order_with_a_ring(browser, pages):
    for page in pages:
        browser.open(page)
        wanted, stops = browser.run("focusable().length"), []
        browser.press("Tab")
        while (stop := browser.run("focused()")) is not None:
            stops.append(stop)
            assert len(stops) <= wanted, "trapped"
            browser.press("Tab")
        assert len(stops) == wanted > 15
        assert stops[0]["name"] == "Skip to the results"
        assert [stop["order"] for stop in stops] == sorted(stop["order"] for stop in stops)
        assert all(stop["ring"] and stop["seen"] and stop["name"] for stop in stops)


def test_keys_open_details_sort_and_scroll(browser, pages):
    browser.open(pages[0], 400)
    browser.run("document.querySelector('summary').focus()")
    for key, opened in (("Enter", True), (" ", False)):
        browser.press(key)
        assert browser.run("document.querySelector('details').open") is opened
    browser.run("document.querySelector('.sortable thead button').focus()")
    for key, order in (("Enter", "ascending"), (" ", "descending")):
        browser.press(key)
        assert browser.run("document.querySelector('.sortable th').getAttribute('aria-sort')") == order
    count = browser.run("wide().length")
    assert count > 3
    for index in range(count):
        browser.run(f"wide()[{index}].focus()")
        browser.press("ArrowRight")
        assert browser.run(f"moved(wide()[{index}])")


def test_nothing_leaves_the_page_even_where_something_was_put_in(browser, pages, tmp_path):
    for page in pages:
        browser.open(page)
        assert {url for url in asked(browser) if not url.startswith("data:")} == {page.as_uri()}
    foreign = (
        '<img src="http://127.0.0.1:9/a.png"><script src="http://127.0.0.1:9/b.js"></script>'
        '<iframe src="http://127.0.0.1:9/c"></iframe><link rel="stylesheet" href="http://127.0.0.1:9/d.css">'
        '<base href="http://127.0.0.1:9/"><form action="http://127.0.0.1:9/e" id="form"><button>send</button></form>'
        '<script>fetch("http://127.0.0.1:9/f").catch(() => { document.title = "caught"; })</script>'
    )
    bad = tmp_path / "bad.html"
    bad.write_text(pages[0].read_text().replace('<main id="main">', f'<main id="main">{foreign}'))
    browser.open(bad)
    browser.run("document.getElementById('form').submit()")
    time.sleep(0.5)
    assert browser.run("document.title") == "caught"
    blocked = {e["params"]["requestId"] for e in browser.events if e["method"] == "Network.loadingFailed"
               and e["params"].get("blockedReason") == "csp"}  # fmt: skip
    sent = {
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent" and event["params"]["requestId"] not in blocked
    }
    assert {url for url in sent if url.startswith("http")} == set()
    assert browser.run("document.baseURI") == bad.as_uri()


def asked(browser):
    """Return the addresses that the page asked for."""
    requests = [event for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    return [event["params"]["request"]["url"] for event in requests]
