"""The page of `slimfer watch`: one file without anything from elsewhere, and the routes that feed it."""

import base64
import hashlib
import html
import re
from importlib.resources import files

from slimfer.web.live import BOUNDARY, Live
from slimfer.web.server import Response, Routes


def page_routes(live: Live, title: str) -> Routes:
    """Return the routes of a page that shows `live`.

    Args:
        live: what is shown.
        title: what is watched.
    """
    page = page_of(title)
    return {
        "/": lambda: page,
        "/stream.mjpg": lambda: Response(f"multipart/x-mixed-replace; boundary={BOUNDARY}", live.frames()),
        "/events": lambda: Response("text/event-stream", live.events()),
    }


def page_of(title: str) -> Response:
    """Return the page; its policy allows its own script and style by their hashes, and requests to this server."""
    text = files("slimfer.web").joinpath("watch.html").read_text(encoding="utf-8")
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src '{script}'; style-src '{style}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    body = text.replace("{{title}}", html.escape(title)).encode(errors="replace")  # a file's name may be any bytes
    return Response("text/html; charset=utf-8", body, {"Content-Security-Policy": policy})


def _hash(text: str, tag: str) -> str:
    found = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(found) == 1, f"the page has one <{tag}>"
    return f"sha256-{base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()}"
