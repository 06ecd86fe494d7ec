"""The newest frame and its answers, for any number of viewers: each takes what is newest whenever it can take more.

Pictures are marked and encoded when the first viewer asks for them, once for all; without viewers nothing is done. A
slow viewer waits in its own thread and misses frames; nobody waits for it.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from slimfer.runtime.annotate import annotate
from slimfer.runtime.video import Moment

WIDEST = 960  # pixels; larger pictures are shrunk for the page
QUALITY = 80
BOUNDARY = "slimfer-frame"
_SECOND = 2.0  # over which frames per second are counted
_PULSE = 5.0  # seconds after which a silent stream says something, which finds viewers that left


@dataclass
class _Shown:
    """One frame, and its forms for viewers as soon as somebody has asked for them."""

    number: int
    picture: Image.Image
    moment: Moment
    about: dict[str, Any]
    jpeg: bytes | None = None
    event: bytes | None = None


class Live:
    """What the page shows."""

    def __init__(self) -> None:
        self.viewers = 0  # streams that are open; a page has two
        self._change = threading.Condition()
        self._encoding = threading.Lock()
        self._shown: _Shown | None = None
        self._over: dict[str, Any] | None = None
        self._times: deque[float] = deque()

    @property
    def fps(self) -> float:
        """Return the frames per second of the last two seconds."""
        if len(self._times) < 2 or self._times[-1] <= self._times[0]:
            return 0.0
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

    def show(self, picture: Image.Image, moment: Moment, **about: Any) -> None:
        """Make this the newest frame; `about` are JSON values that the page is told."""
        now = time.monotonic()
        self._times.append(now)
        while now - self._times[0] > _SECOND:
            self._times.popleft()
        with self._change:
            number = self._shown.number + 1 if self._shown else 1
            self._shown = _Shown(number, picture, moment, {"fps": round(self.fps, 1), **about})
            self._change.notify_all()

    def end(self, **about: Any) -> None:
        """Tell all viewers that this was the last frame, and wait for a moment until they know."""
        with self._change:
            self._over = about
            self._change.notify_all()
            self._change.wait_for(lambda: not self.viewers, timeout=1.0)

    def wait_for_viewer(self, seconds: float) -> bool:
        """Wait until somebody looks; return whether somebody does."""
        with self._change:
            return self._change.wait_for(lambda: self.viewers > 0, timeout=seconds)

    def frames(self) -> Generator[bytes, None, None]:
        """Give the newest frames as parts of `multipart/x-mixed-replace` (motion JPEG)."""
        boundary = f"--{BOUNDARY}\r\n".encode()
        yield boundary
        for shown in self._newest():
            if shown:
                jpeg = self._jpeg(shown)
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                # The next boundary goes with it: browsers show a part when they see its end.
                yield head.encode() + jpeg + b"\r\n" + boundary

    def events(self) -> Generator[bytes, None, None]:
        """Give the newest answers as server-sent events: `moment` for each frame, `over` in the end."""
        yield b": hello\n\n"
        for shown in self._newest():
            yield self._event(shown) if shown else b": still here\n\n"
        if self._over is not None:
            yield _sent("over", self._over)

    def _newest(self) -> Generator[_Shown | None, None, None]:
        """Give each newest frame once, as fast as they are taken, and None after a silence; count as a viewer."""
        with self._change:
            self.viewers += 1
            self._change.notify_all()
        try:
            seen = 0
            while (shown := self._after(seen)) or self._over is None:
                seen = shown.number if shown else seen
                yield shown
        finally:
            with self._change:
                self.viewers -= 1
                self._change.notify_all()

    def _after(self, seen: int) -> _Shown | None:
        """Return the newest frame as soon as it is not the one seen; None after a silence or at the end."""

        def newer() -> bool:
            return self._shown is not None and self._shown.number > seen

        with self._change:
            self._change.wait_for(lambda: newer() or self._over is not None, timeout=_PULSE)
            return self._shown if newer() else None

    def _jpeg(self, shown: _Shown) -> bytes:
        with self._encoding:
            if shown.jpeg is None:
                picture = shown.picture
                if picture.width > WIDEST:
                    picture = picture.resize((WIDEST, max(1, picture.height * WIDEST // picture.width)), reducing_gap=2)
                stream = BytesIO()
                annotate(picture, shown.moment.smoothed, enlarge=False).save(stream, "JPEG", quality=QUALITY)
                shown.jpeg = stream.getvalue()
            return shown.jpeg

    def _event(self, shown: _Shown) -> bytes:
        with self._encoding:
            if shown.event is None:
                moment = shown.moment
                shown.event = _sent(
                    "moment",
                    {
                        "frame": moment.frame,
                        "seconds": round(moment.seconds, 3),
                        "status": moment.smoothed.status,
                        "error": moment.smoothed.error,
                        "faces": [face.to_dict() for face in moment.smoothed.faces],
                        **shown.about,
                    },
                )
            return shown.event


def _sent(name: str, value: dict[str, Any]) -> bytes:
    """Return a server-sent event; JSON has no line ends, so it is one line."""
    return f"event: {name}\ndata: {json.dumps(value, allow_nan=False)}\n\n".encode()
