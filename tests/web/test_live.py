import http.client
import io
import json
import re
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from runtime.videos import Stub, gray
from slimfer.runtime.reader import Frame
from slimfer.runtime.video import Watcher
from slimfer.web.live import BOUNDARY, WIDEST, Live
from slimfer.web.page import page_of, page_routes
from slimfer.web.server import Server


@pytest.fixture
def live() -> Live:
    return Live()


class Viewers:
    """A server, and clients that are closed with it."""

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self.connections: list[http.client.HTTPConnection] = []

    def open(self, path: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        self.connections.append(connection)
        connection.request("GET", path)
        return connection.getresponse()


@pytest.fixture
def server(live: Live) -> Iterator[Viewers]:
    with Server(page_routes(live, "clip.mp4")) as server:
        viewers = Viewers(server)
        yield viewers
        for connection in viewers.connections:
            connection.close()


def show(live: Live, number: int, size: tuple[int, int] = (96, 64), **about: object) -> None:
    frame = Frame(number, number / 25, gray(number, size))
    live.show(frame.picture, Watcher(Stub()).read(frame), **about)


def part(stream: http.client.HTTPResponse) -> bytes:
    """Read one JPEG of a motion JPEG."""
    length = 0
    while (line := stream.readline()) != b"\r\n":
        assert line, "the stream has ended"
        length = int(line.split()[1]) if line.lower().startswith(b"content-length") else length
    jpeg = stream.read(length)
    assert stream.readline() == b"\r\n"
    return jpeg


def event(stream: http.client.HTTPResponse) -> tuple[str, dict]:
    while not (line := stream.readline()).startswith(b"event: "):
        assert line, "the stream has ended"
    return line[7:].decode().strip(), json.loads(stream.readline()[6:])


def test_the_stream_gives_marked_jpegs_of_the_newest_frame(live, server):
    show(live, 1)
    stream = server.open("/stream.mjpg")
    assert stream.headers["Content-Type"] == f"multipart/x-mixed-replace; boundary={BOUNDARY}"
    assert stream.readline() == f"--{BOUNDARY}\r\n".encode()
    for number in (1, 2, 3):
        if number > 1:
            show(live, number)
        picture = Image.open(io.BytesIO(part(stream)))
        assert (picture.format, picture.size) == ("JPEG", (96, 64))
        assert (
            np.abs(np.asarray(picture, float) - np.asarray(gray(number), float)).mean() > 5
        )  # something is drawn on it
        assert stream.readline() == f"--{BOUNDARY}\r\n".encode()  # at once, or a browser would show one frame too late


def test_events_are_the_answers(live, server):
    show(live, 4, skipped=2, read=9, smoothing=0.5)
    stream = server.open("/events")
    assert stream.headers["Content-Type"] == "text/event-stream"
    kind, moment = event(stream)
    assert kind == "moment"
    assert (moment["frame"], moment["seconds"], moment["skipped"], moment["status"]) == (4, 0.16, 2, "ok")
    face = moment["faces"][0]
    assert (face["track"], face["label"], len(face["scores"])) == (1, "angry", 7)
    live.end(line="the end")
    assert event(stream) == ("over", {"line": "the end"})
    assert stream.read() == b"\n"


def test_a_large_frame_is_shrunk_for_the_page(live):
    show(live, 1, (3000, 1000))
    frames = live.frames()
    next(frames)
    jpeg = next(frames).partition(b"\r\n\r\n")[2]
    assert Image.open(io.BytesIO(jpeg)).size == (WIDEST, 320)
    frames.close()


def test_several_viewers_see_the_same_and_it_is_encoded_once(live, server, monkeypatch):
    from slimfer.web import live as module

    calls = []
    real = module.annotate
    monkeypatch.setattr(module, "annotate", lambda *a, **k: calls.append(1) or real(*a, **k))
    streams = [server.open("/stream.mjpg") for _ in range(4)]
    assert live.wait_for_viewer(5)
    show(live, 5)
    pictures = [stream.readline() and part(stream) for stream in streams]
    assert len(set(pictures)) == 1
    assert calls == [1]


def test_without_viewers_nothing_is_encoded(live, monkeypatch):
    from slimfer.web import live as module

    monkeypatch.setattr(module, "annotate", lambda *a, **k: pytest.fail("for nobody"))
    for number in range(10):
        show(live, number)
    assert live.viewers == 0


def test_a_viewer_that_takes_nothing_holds_nobody_up_and_then_sees_the_newest(live, server):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (600, 800, 3), np.uint8))
    moment = Watcher(Stub()).read(Frame(0, 0.0, noise))
    lazy = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    lazy.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert live.wait_for_viewer(5)
    eager = server.open("/events")
    seen = []
    begun = time.monotonic()
    for number in range(40):  # some 15 MB of JPEG, which no buffer of the system holds
        live.show(noise, moment, number=number)
        seen.append(event(eager)[1]["number"])
    assert seen == list(range(40))
    assert time.monotonic() - begun < 10
    lazy.close()


def test_viewers_are_counted_and_forgotten_when_they_leave(live, server):
    assert not live.wait_for_viewer(0)
    streams = [server.open("/events"), server.open("/stream.mjpg")]
    deadline = time.monotonic() + 5
    while live.viewers < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live.viewers == 2
    for stream in streams:
        stream.close()
    while live.viewers and time.monotonic() < deadline:
        show(live, 1)
        time.sleep(0.01)
    assert live.viewers == 0


def test_frames_per_second_are_those_of_the_last_moments(live):
    assert live.fps == 0
    for number in range(6):
        show(live, number)
        time.sleep(0.02)
    assert 5 < live.fps < 50


def test_the_end_comes_even_if_nothing_was_ever_shown(live, server):
    stream = server.open("/events")
    assert live.wait_for_viewer(5)
    live.end(line="camera 0 sends no more frames")
    assert event(stream)[1] == {"line": "camera 0 sends no more frames"}
    pictures = server.open("/stream.mjpg")
    assert pictures.read() == f"--{BOUNDARY}\r\n".encode()


def test_the_page_needs_nothing_from_elsewhere_and_its_policy_allows_no_more():
    page = page_of("clip.mp4")
    assert isinstance(page.body, bytes)
    text, policy = page.body.decode(), page.headers["Content-Security-Policy"]
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// ", ""))
    assert not re.search(r"<[^>]*\s(?:style|on\w+)=", text)  # the policy would forbid them
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'; style-src 'sha256-[\w+/=]{44}'", policy)
    assert 'name="viewport"' in text


def test_a_title_cannot_become_part_of_the_page():
    page = page_of("<script>alert('x')</script>&\".mp4")
    assert isinstance(page.body, bytes)
    assert page.body.count(b"<script>") == 1
    assert b"&lt;script&gt;alert(&#x27;x&#x27;)" in page.body
    assert page.headers == page_of("clip.mp4").headers
    assert b"clip?.mp4" in page_of("clip\udcff.mp4").body  # a name that is no UTF-8


def test_the_page_is_served(server):
    answer = server.open("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert b"clip.mp4" in answer.read()
