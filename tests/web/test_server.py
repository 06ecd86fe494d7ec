import http.client
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.web import server as module
from slimfer.web.server import HEADERS, Response, Server, is_loopback, may_ask


def counting() -> Iterator[bytes]:
    yield b"one "
    yield b"two"


@pytest.fixture
def server() -> Iterator[Server]:
    routes = {
        "/": lambda: Response("text/plain", b"hello", {"Content-Security-Policy": "default-src 'self'"}),
        "/parts": lambda: Response("text/plain", counting()),
        "/broken": lambda: 1 / 0,
    }
    with Server(routes) as server:
        yield server


def ask(server: Server, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.text = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_it_answers_whole_and_in_parts(server):
    assert server.url == f"http://127.0.0.1:{server.port}/"
    whole, parts, queried = ask(server), ask(server, "/parts"), ask(server, "/?x=1")
    assert (whole.status, whole.text, whole.headers["Content-Length"]) == (200, b"hello", "5")
    assert (parts.status, parts.text, parts.headers["Connection"]) == (200, b"one two", "close")
    assert queried.text == b"hello"
    head = ask(server, method="HEAD")
    assert (head.status, head.text, head.headers["Content-Length"]) == (200, b"", "5")


def test_every_answer_has_the_headers_that_protect(server):
    for answer in (
        ask(server, "/parts"),
        ask(server, "/nowhere"),
        ask(server, method="POST"),
        ask(server, Host="evil.example"),
    ):
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert ask(server).headers["Content-Security-Policy"] == "default-src 'self'"
    assert "Python" not in ask(server).headers["Server"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods_are_refused(server, method):
    assert ask(server, method=method).status == 501


def test_what_is_not_there_is_not_found_and_not_echoed(server):
    answer = ask(server, "/<script>alert(1)</script>")
    assert (answer.status, answer.text) == (404, b"404 there is nothing here\n")
    assert ask(server, "/../../etc/passwd").status == 404


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1", "0"]
)
def test_names_that_lead_here_from_elsewhere_are_refused(server, name):
    assert ask(server, Host=name).status == 403


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:99", "127.0.0.1", "127.0.0.1:1234", "[::1]:80", "127.3.2.1"])
def test_names_of_this_machine_are_answered(server, name):
    assert ask(server, Host=name).status == 200


def test_pages_of_other_sites_are_refused_but_links_are_not(server):
    assert ask(server, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert ask(server, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200
    assert ask(server, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors").status == 200


def test_a_server_for_others_answers_to_addresses_and_its_own_name():
    assert may_ask("192.168.1.5:8650", "0.0.0.0")
    assert may_ask("[fe80::1]:8650", "::")
    assert may_ask(f"{socket.gethostname()}:8650", "0.0.0.0")
    assert may_ask("camera.local", "camera.local")
    assert not may_ask("evil.example", "0.0.0.0")
    assert not may_ask(None, "0.0.0.0")


@given(st.text())
def test_no_host_breaks_the_check(name):
    assert may_ask(name, "127.0.0.1") in (True, False)
    assert may_ask(name, "0.0.0.0") in (True, False)


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))


def test_a_port_that_is_taken_is_one_sentence(server):
    with pytest.raises(InputError, match=f"cannot listen at 127.0.0.1, port {server.port}: .*--port 0"):
        Server({}, port=server.port)


@pytest.mark.parametrize("host", ["no.such.name.invalid", "203.0.113.7", "a" * 300])
def test_an_address_that_is_not_ours_is_one_sentence(host):
    with pytest.raises(InputError, match="cannot listen at"):
        Server({}, host=host)


def test_a_bug_in_a_route_is_one_line_and_the_server_goes_on(server, capfd):
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        ask(server, "/broken")
    assert ask(server).text == b"hello"
    assert capfd.readouterr().err == "web page: ZeroDivisionError: division by zero\n"


def test_garbage_and_clients_that_leave_are_borne_in_silence(server, capfd):
    garbage = (
        b"",
        b"\r\n\r\n",
        b"\x16\x03\x01" * 50,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"A" * 70000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /parts HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    for data in garbage:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.sendall(data)
    assert ask(server).text == b"hello"
    assert capfd.readouterr().err == ""


def test_a_client_that_sends_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(module._Handler, "timeout", 0.1)
    with Server({}) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        assert client.recv(10) == b""


def test_no_more_connections_than_allowed(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    hold = threading.Event()

    def held() -> Iterator[bytes]:
        yield b"begun"
        hold.wait(10)

    with Server({"/": lambda: Response("text/plain", held())}) as server:
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(3)]
        got = []
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                got.append(client.recv(4096)[:12])
            except ConnectionError:
                got.append(b"")
        assert got == [b"HTTP/1.1 200", b"HTTP/1.1 200", b""]
        hold.set()
        for client in clients:
            client.close()
