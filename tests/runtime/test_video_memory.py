"""Memory stays flat however long a video is: a generated one through all but a real detector, and a real hour."""

import http.client
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.videos import Stub, gray
from slimfer.runtime.capture import VideoFile
from slimfer.runtime.moments import MomentFile
from slimfer.runtime.reader import Frame, Reader
from slimfer.runtime.video import Moment, Watcher
from slimfer.web.live import Live
from slimfer.web.page import page_routes
from slimfer.web.server import Server

FPS = 25
SIZE = (160, 120)
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


def resident(process: int | str = "self") -> float:
    """Megabytes that a process has in memory now."""
    line = next(x for x in Path(f"/proc/{process}/status").read_text().splitlines() if x.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


class Generated:
    """As many frames as asked for, each with pixels of its own, so that keeping them costs memory."""

    live, fps, note = False, FPS, None

    def __init__(self, frames: int) -> None:
        self.total = frames
        self.given = 0

    def read(self, wanted: bool):
        if self.given == self.total:
            return None
        self.given += 1
        number = self.given
        return number / FPS, lambda: gray(number, SIZE)

    def close(self) -> None:
        pass


def drain(server: Server, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", path)
    stream = connection.getresponse()
    while stream.read1(1 << 16):
        pass
    connection.close()


def growth(frames: int, folder: Path, also: Callable[[Frame, Moment], object] = lambda frame, moment: None) -> float:
    """Return by how many megabytes memory grows between the first minute and the end."""
    live, watcher, after_a_minute = Live(), Watcher(Stub(faces=2)), 0.0
    with (
        Server(page_routes(live, "hour")) as server,
        MomentFile(folder / "a.jsonl", Stub.labels) as rows,
        Reader(lambda: Generated(frames), name="hour", timeout=10) as video,
    ):
        for path in ("/stream.mjpg", "/events"):
            threading.Thread(target=drain, args=(server, path), daemon=True).start()
        assert live.wait_for_viewer(10)
        for frame in video:
            moment = watcher.read(frame)
            rows.write(moment)
            live.show(frame.picture, moment)
            also(frame, moment)
            if frame.number == 60 * FPS:
                after_a_minute = resident()
        live.end()
    with open(folder / "a.jsonl") as lines:
        assert sum(1 for _ in lines) == 2 * frames
    return resident() - after_a_minute


@pytest.mark.parametrize("frames", [4_000, pytest.param(90_000, marks=pytest.mark.long)], ids=["minutes", "hour"])
def test_memory_is_flat(frames, tmp_path):
    assert growth(frames, tmp_path) < 50


def test_keeping_the_frames_would_be_seen(tmp_path):
    """The control: what the test above must be able to notice."""
    kept: list[Frame] = []
    assert growth(4_000, tmp_path, lambda frame, moment: kept.append(frame)) > 50


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="the extra video is not installed")
def test_memory_is_flat_over_an_hour_of_real_video(tmp_path, shared):
    """One face that moves through 320 x 240 pixels for an hour, YuNet, rows and marked video: the whole command."""
    from PIL import Image

    photo = Image.open(sorted((shared / "photos").glob("*.jpg"))[0]).convert("RGB")
    photo.thumbnail((160, 200))
    rng, clip = np.random.default_rng(0), VideoFile(tmp_path / "hour.mp4", FPS)
    grounds = [Image.fromarray(rng.integers(90, 110, (240, 320, 3), np.uint8)) for _ in range(5)]
    frames = 3600 * FPS
    for number in range(frames):
        picture = grounds[number % 5].copy()
        picture.paste(photo, (80 + round(70 * np.sin(number / 100)), 20))
        clip.write(picture, number / FPS)
    clip.close()
    out, marked = tmp_path / "a.csv", tmp_path / "marked.mp4"
    command = [sys.executable, "-m", "slimfer", "watch", str(clip.path), "--no-page", "--json", "--out", str(out)]
    command += ["--annotate", str(marked), "--detector", str(shared / "face_detection_yunet_2023mar.onnx")]
    measured: list[float] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as run:
        while run.poll() is None:
            if out.exists() and out.stat().st_size > 60 * FPS * 200:  # rows have more than 200 bytes
                try:
                    measured.append(resident(run.pid))
                except (StopIteration, OSError):
                    break  # it has just ended
            time.sleep(0.25)
        told = json.loads(run.stdout.read())
    assert run.returncode == 0
    assert (told["frames"], told["skipped"]) == (frames, 0)
    assert told["faces"] > 0.9 * frames
    assert measured[-1] - measured[0] < 50
    assert max(measured) < 250
