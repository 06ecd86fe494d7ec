"""Reads a page as a browser's parser does."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none';"
    " form-action 'none'"
)


class Checker(HTMLParser):
    """Notes every tag, attribute and id, and that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.elements = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.elements.append((tag, dict(attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def sources(self):
        """Return the addresses of all pictures."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]


def read(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def assert_self_contained(page):
    """Nothing on the page asks the network for anything, its policy forbids it, and it is below 2 MB."""
    checker = read(page)
    assert ("meta", "content", POLICY) in checker.attributes
    assert not set(checker.tags) & {"link", "iframe", "object", "embed", "form", "base"}
    for tag, name, value in checker.attributes:
        assert name not in ("srcset", "action", "poster", "background", "ping")
        assert not name.startswith("on")
        if tag == "img" and name == "src":
            assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+=*", value)
        elif name in ("src", "href", "xlink:href"):
            assert value.startswith("#")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(page.encode()) < 2_000_000


def assert_links_lead_somewhere(page):
    """Every id is there once, and every reference has its target."""
    attributes = read(page).attributes
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    names = ("href", "xlink:href", "aria-labelledby", "data-filters")
    wanted = {value.removeprefix("#") for _, name, value in attributes if name in names}
    assert wanted <= set(ids)


def blank_charts(results):
    """Return blank charts under every name that the page asks for: drawing them takes a second."""
    names = ["stage_bytes", "stage_latency", "stage_accuracy", "class_change", "reliability", "layers", "trade_offs"]
    names += [f"{kind}_{curve['stage']}" for curve in results["curves"] for kind in ("accuracy", "loss")]
    names += [f"confusion_{stage['name']}" for stage in results["stages"]]
    return dict.fromkeys(names, "<svg></svg>")
