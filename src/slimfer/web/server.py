"""A small HTTP server on the standard library: GET only, few routes, for this machine unless told otherwise.

A page of any other site can send requests to 127.0.0.1, and by a name of its own that leads there (DNS rebinding) it
could read the answers. So the Host of every request must be this machine or an address in digits, requests that other
sites' pages make are refused, and nothing may be put into other pages.
"""

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any

from slimfer.errors import InputError

LOOPBACK = "127.0.0.1"
MOST = 64  # connections at once
_ANY = ("0.0.0.0", "::")
_PATIENCE = 10.0  # seconds for which a client may neither send nor take anything
_UNSENT = 1 << 18  # bytes that the system keeps for a slow client: more would only be older frames

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Response:
    """What a route answers.

    Attributes:
        kind: media type.
        body: all of it; or parts that are sent as they come, until they end or the client leaves.
        headers: in addition to `HEADERS`, or in their place.
    """

    kind: str
    body: bytes | Generator[bytes, None, None]
    headers: Mapping[str, str] = field(default_factory=dict)


Routes = Mapping[str, Callable[[], Response]]


class Server:
    """Answers in threads of its own until it is closed; a context manager."""

    def __init__(self, routes: Routes, *, host: str = LOOPBACK, port: int = 0) -> None:
        """Begin.

        Args:
            routes: what answers for which path.
            host: address or name to listen at.
            port: 0 for any that is free.

        Raises:
            InputError: if there is no such address, or the port is taken or forbidden.
        """
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._http = _Http(family, address, host, routes)
        except (OSError, UnicodeError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot listen at {host}, port {port}: {why}; --port 0 takes any port") from None
        self.port: int = self._http.server_address[1]
        name = socket.gethostname() if host in _ANY else f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True, name="slimfer-http")
        self._thread.start()

    def close(self) -> None:
        """Take no more requests; answers that are under way are left to themselves."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def may_ask(named: str | None, host: str) -> bool:
    """Return whether a request is meant for this server, and not led here by somebody else's name.

    Args:
        named: the request's Host, as in HTTP: a name or address and perhaps a port.
        host: what the server listens at.
    """
    if not named:
        return False
    name = named.rpartition(":")[0] if named.rpartition(":")[2].isdecimal() else named
    name = name.removeprefix("[").removesuffix("]").lower()
    if is_loopback(host):
        return is_loopback(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", host.lower(), socket.gethostname().lower())
    return True


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: Any, host: str, routes: Routes) -> None:
        self.address_family, self.host, self.routes = family, host, routes
        self._free = threading.BoundedSemaphore(MOST)
        super().__init__(address[:2], _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # not HTTPServer's, which asks the network for this machine's name
        self.server_name, self.server_port = self.host, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong in one line; clients that leave are nothing wrong."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            sys.stderr.write(f"web page: {type(error).__name__}: {error}\n")


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = _PATIENCE
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "slimfer", ""
    disable_nagle_algorithm = True
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT)
        super().setup()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if not may_ask(self.headers.get("Host"), self.server.host):
            return self.send_error(403, "this server has another name")
        if self.headers.get("Sec-Fetch-Site") == "cross-site" and self.headers.get("Sec-Fetch-Mode") != "navigate":
            return self.send_error(403, "not for pages of other sites")
        route = self.server.routes.get(self.path.partition("?")[0])
        if route is None:
            return self.send_error(404, "there is nothing here")
        response = route()
        self.send_response(200)
        self._head(response)
        if not body:
            return None
        if isinstance(response.body, bytes | bytearray):
            self.wfile.write(response.body)
            return None
        with closing(response.body) as parts:
            for part in parts:
                self.wfile.write(part)
        return None

    def _head(self, response: Response) -> None:
        self._set = response.headers
        self.send_header("Content-Type", response.kind)
        if isinstance(response.body, bytes):
            self.send_header("Content-Length", str(len(response.body)))
        else:
            self.send_header("Connection", "close")  # the only end that a stream of unknown length has
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in {**HEADERS, **getattr(self, "_set", {})}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
