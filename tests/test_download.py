"""A download that is cut, refused, changed, wrong or done twice: the file is whole under its name, or not there."""

import hashlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from slimfer.download import fetch
from slimfer.errors import InputError
from slimfer.home import home, offline

DATA = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Site:
    """What a server does: `cuts` says after how many bytes each answer breaks off."""

    data: bytes = DATA
    tag: str = '"one"'
    ranges: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)
    wait: float = 0.0
    port: int = 0
    asked: list[str | None] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/file.onnx"


@contextmanager
def served(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            if site.status != 200:
                return self.send_error(site.status)
            start = 0
            if wanted and site.ranges and self.headers.get("If-Range") == site.tag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.data) - 1}/{len(site.data)}")
            if site.tag:
                self.send_header("ETag", site.tag)
            self.send_header("Content-Length", str(len(site.data) - start))
            self.end_headers()
            time.sleep(site.wait)
            body = site.data[start:]
            self.wfile.write(body[: site.cuts.pop(0)] if site.cuts else body)
            return None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def get(*sites: Site, to: Path, say: list[str] | None = None, patience: float = 5.0) -> None:
    told: list[str] = [] if say is None else say
    addresses = [site.address for site in sites]
    fetch(addresses, to, sha256=SHA256, size=len(DATA), say=told.append, patience=patience)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "file.onnx"


def test_one_line_says_what_is_fetched_from_where_and_how_large(target: Path) -> None:
    told: list[str] = []
    with served(Site()) as site:
        get(site, to=target, say=told)
    assert target.read_bytes() == DATA
    assert told == [f"fetching file.onnx (300 kB) from {site.address} to {target.parent}"]
    assert names(target.parent) == ["file.onnx"]


def test_what_is_there_is_not_fetched(target: Path) -> None:
    told: list[str] = []
    with served(Site()) as site:
        get(site, to=target)
        get(site, to=target, say=told)
    assert len(site.asked) == 1
    assert not told


def test_a_cut_connection_goes_on_where_it_was_cut(target: Path) -> None:
    with served(Site(cuts=[100_000, 50_000])) as site:
        get(site, to=target)
    assert target.read_bytes() == DATA
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on(target: Path) -> None:
    with served(Site(cuts=[100_000, 0])) as site:
        with pytest.raises(InputError, match="connection was lost"):
            get(site, to=target)
        assert names(target.parent) == ["file.onnx.part"]
        get(site, to=target)
    assert target.read_bytes() == DATA
    assert site.asked == [None, "bytes=100000-", "bytes=100000-"]
    assert names(target.parent) == ["file.onnx"]


def test_a_file_that_changed_meanwhile_is_not_glued(target: Path) -> None:
    with served(Site(data=bytes(len(DATA)), tag='"old"', cuts=[100_000, 0])) as site:
        with pytest.raises(InputError, match="connection was lost"):
            get(site, to=target)
        site.data, site.tag = DATA, '"new"'
        get(site, to=target)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    ("tag", "ranges", "asked"),
    [('"one"', False, "bytes=100000-"), ("", True, None), ('W/"weak"', True, None)],
)
def test_without_ranges_or_a_strong_tag_it_begins_anew(target: Path, tag: str, ranges: bool, asked: str | None) -> None:
    with served(Site(tag=tag, ranges=ranges, cuts=[100_000])) as site:
        get(site, to=target)
    assert target.read_bytes() == DATA
    assert site.asked == [None, asked]


@pytest.mark.parametrize("data", [DATA[:-1] + b"?", DATA + b"?", bytes(len(DATA))], ids=["flip", "longer", "other"])
def test_another_file_is_refused_and_nothing_is_kept(target: Path, data: bytes) -> None:
    with served(Site(data=data)) as site, pytest.raises(InputError, match="not the file that is expected"):
        get(site, to=target)
    assert not target.parent.exists() or not names(target.parent)


def test_a_shorter_file_is_no_file(target: Path) -> None:
    with served(Site(data=DATA[:-1])) as site, pytest.raises(InputError):
        get(site, to=target)
    assert not target.exists()


@pytest.mark.parametrize("junk", [b"", b"{", b'{"address": 1}\n' + DATA, b"[]\n", b"\xff\xfe"])
def test_a_damaged_part_is_ignored(target: Path, junk: bytes) -> None:
    target.parent.mkdir()
    (target.parent / "file.onnx.part").write_bytes(junk)
    with served(Site()) as site:
        get(site, to=target)
    assert site.asked == [None]
    assert target.read_bytes() == DATA


def test_the_second_address_is_tried(target: Path) -> None:
    told: list[str] = []
    with served(Site(status=404)) as first, served(Site()) as second:
        get(first, second, to=target, say=told)
    assert target.read_bytes() == DATA
    assert len(told) == 2


def test_not_there_is_said(target: Path) -> None:
    with served(Site(status=404)) as site, pytest.raises(InputError, match=f"127.0.0.1:{site.port}: HTTP status 404"):
        get(site, to=target)


def test_no_network_is_said_at_once(target: Path) -> None:
    with served(Site()) as site:
        pass
    start = time.monotonic()
    with pytest.raises(InputError, match="no connection"):
        get(site, to=target)
    assert time.monotonic() - start < 2


def test_a_server_that_says_nothing_is_given_up(target: Path) -> None:
    with served(Site(wait=0.6)) as site, pytest.raises(InputError, match="no connection"):
        get(site, to=target, patience=0.2)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with served(Site()) as site, pytest.raises(InputError, match="cannot be written"):
        get(site, to=tmp_path / "file" / "file.onnx")


def fetched(address: str, to: Path) -> None:
    fetch([address], to, sha256=SHA256, size=len(DATA), say=lambda _: None)


def test_two_processes_and_two_threads_at_once(target: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with served(Site(cuts=[150_000, 100_000, 50_000], wait=0.1)) as site:
        workers: list[multiprocessing.process.BaseProcess | threading.Thread] = [
            *(context.Process(target=fetched, args=(site.address, target)) for _ in range(2)),
            *(threading.Thread(target=fetched, args=(site.address, target)) for _ in range(2)),
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert all(getattr(worker, "exitcode", 0) == 0 for worker in workers)
    assert target.read_bytes() == DATA
    assert "file.onnx" in names(target.parent)
    assert not [name for name in names(target.parent) if "tmp" in name]


def test_where_slimfer_keeps_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLIMFER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert home() == tmp_path / ".cache" / "slimfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert home() == tmp_path / ".cache" / "slimfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert home() == Path("/somewhere/slimfer")
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == tmp_path / "Library/Caches/slimfer"
    monkeypatch.setenv("SLIMFER_HOME", "mine")
    assert home() == Path("mine")


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError

    for name in ("SLIMFER_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(InputError, match="SLIMFER_HOME"):
        home()


@pytest.mark.parametrize(("value", "forbidden"), [("", False), ("0", False), ("no", False), ("1", True), ("yes", True)])
def test_offline(monkeypatch: pytest.MonkeyPatch, value: str, forbidden: bool) -> None:
    monkeypatch.setenv("SLIMFER_OFFLINE", value)
    assert offline() is forbidden
