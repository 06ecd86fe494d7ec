import importlib.util
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.videos import SIZE, Stub, gray, number_in, write_gif, write_video
from slimfer.calibration import Calibration
from slimfer.errors import InputError
from slimfer.runtime.capture import VideoFile
from slimfer.runtime.reader import Frame
from slimfer.runtime.video import Watcher, open_video, watch
from slimfer.web.live import Live
from slimfer.web.page import page_routes
from slimfer.web.server import Server

# Not by importing it: slimfer sets how much it says before it does.
if importlib.util.find_spec("cv2") is None:
    pytest.skip("the extra video is not installed", allow_module_level=True)


def numbers(path: Path | str, **settings: object) -> list[int]:
    with open_video(path, **settings) as video:
        return [number_in(frame.picture) for frame in video]


def test_a_video_file_gives_what_was_written(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 40)
    with open_video(path) as video:
        frames = list(video)
        assert (video.live, video.fps, video.total, video.read, video.note) == (False, 25, 40, 40, None)
    assert [frame.number for frame in frames] == [number_in(frame.picture) for frame in frames] == list(range(40))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 25 for n in range(40)])
    assert {(frame.picture.size, frame.picture.mode) for frame in frames} == {(SIZE, "RGB")}


def test_colours_are_not_swapped(tmp_path):
    file = VideoFile(tmp_path / "red.mp4", 25)
    for number in range(3):
        file.write(Image.new("RGB", SIZE, (200, 30, 10)), number / 25)
    file.close()
    with open_video(file.path) as video:
        red, green, blue = np.asarray(next(video).picture).mean((0, 1))
    assert red > 180
    assert green < 50
    assert blue < 40


@pytest.mark.parametrize("form", ["gif", "webp", "apng"])
def test_animated_pictures_are_videos_without_opencv(tmp_path, form):
    path = tmp_path / f"clip.{form}"
    first, *others = (gray(number) for number in range(8))
    options = {"lossless": True} if form == "webp" else {}
    first.save(path, "PNG" if form == "apng" else None, save_all=True, append_images=others, duration=50, **options)
    code = f"""
import sys
sys.modules["cv2"] = None
from runtime.videos import number_in
from slimfer.runtime.video import open_video
with open_video({str(path)!r}) as video:
    print(*[(frame.number, round(frame.seconds, 6), number_in(frame.picture)) for frame in video], video.total)
"""
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=where)
    assert done.stdout.split() == " ".join([*(f"({n}, {n * 0.05:g}, {n})" for n in range(8)), "8"]).replace(
        "(0, 0,", "(0, 0.0,"
    ).split()  # fmt: skip


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_numbers(tmp_path):
    for number in range(12):
        gray(number).save(tmp_path / f"frame_{number}.png")
    with open_video(tmp_path, fps=10) as video:
        frames = list(video)
    assert [number_in(frame.picture) for frame in frames] == list(range(12))
    assert frames[11].seconds == pytest.approx(1.1)


def test_a_damaged_frame_in_a_folder_is_left_out_and_said(tmp_path):
    for number in range(4):
        gray(number).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"nothing")
    (tmp_path / "2.png").write_bytes(b"")
    with open_video(tmp_path) as video:
        assert [number_in(frame.picture) for frame in video] == [0, 3]
        assert video.note is not None
        assert video.note.startswith("2 of the pictures cannot be read; 1.png: not a picture")


@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_truncated_video_gives_what_there_is_and_says_so(tmp_path, suffix):
    path = write_video(tmp_path / f"clip{suffix}", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with open_video(path) as video:
        got = [number_in(frame.picture) for frame in video]
        assert 0 < len(got) < 55
        assert got[:-1] == list(range(len(got) - 1))  # FFmpeg makes up what is missing of the one that is cut
        assert video.note == f"{path} ends after {len(got)} of 60 frames; it is damaged or cut off"


def test_a_truncated_gif_gives_what_there_is(tmp_path):
    path = write_gif(tmp_path / "clip.gif", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_video(path) as video:
        got = [number_in(frame.picture) for frame in video]
    assert got == list(range(len(got)))
    assert 5 < len(got) < 25


def hostile(folder: Path) -> dict[str, tuple[object, str]]:
    whole = write_video(folder / "whole.mp4", 30).read_bytes()
    files = {
        "cut.mp4": whole[: len(whole) // 2], "empty.mp4": b"", "text.mp4": b"not a video" * 100, "text.gif": b"no gif",
        "nothing.webp": b"", "noise.avi": np.random.default_rng(0).bytes(4000),
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "none").mkdir()
    return {
        **{name: (folder / name, f"{name} is no video that OpenCV can read") for name in files},
        "text.gif": (folder / "text.gif", "is no GIF, WebP or APNG that can be read"),
        "nothing.webp": (folder / "nothing.webp", "is no GIF, WebP or APNG that can be read"),
        "folder": (folder / "none", "a folder without pictures"),
        "missing": (folder / "missing.mp4", "no such camera, file, folder or stream"),
        "camera": (77, "camera 77 does not open: no such camera"),
        "camera's name": ("77", "camera 77 does not open: no such camera"),
        "device": ("/dev/video77", "no such camera"),
        "stream": ("http://127.0.0.1:9/none.mp4", r"http://127\.0\.0\.1:9/none\.mp4 does not open"),
        "password": ("rtsp://me:secret@127.0.0.1:9/x", r"^rtsp://127\.0\.0\.1:9/x does not open"),
    }  # fmt: skip


@pytest.mark.parametrize("case", [
    "cut.mp4", "empty.mp4", "text.mp4", "text.gif", "nothing.webp", "noise.avi", "folder", "missing", "camera",
    "camera's name", "device", "stream", "password",
])  # fmt: skip
def test_what_cannot_be_opened_is_one_sentence(tmp_path, case, capfd):
    source, says = hostile(tmp_path)[case]
    with pytest.raises(InputError, match=says) as caught:
        open_video(source, timeout=5)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # OpenCV and FFmpeg keep quiet


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "stalls"])
def test_a_camera_in_the_network(ends):
    """Motion JPEG over HTTP, from our own page: newest frames are read, others counted, and the end is noticed."""
    live, watcher = Live(), Watcher(Stub(faces=0))

    def film() -> None:
        live.wait_for_viewer(10)
        for number in range(60):
            picture = gray(number, (320, 240))
            live.show(picture, watcher.read(Frame(number, number / 50, picture)))
            time.sleep(0.02)
        if ends:
            live.end()

    with Server(page_routes(live, "camera")) as server:
        camera = threading.Thread(target=film)
        camera.start()
        with open_video(f"{server.url}stream.mjpg", timeout=2) as video:
            assert (video.live, video.total) == (True, None)
            got = []
            with nullcontext() if ends else pytest.raises(InputError, match="has sent no frame for 2 s"):
                for frame in video:
                    got.append((frame.number, frame.seconds))
                    time.sleep(0.1)
        camera.join()
        assert video.read >= 50
        assert video.skipped == video.read - len(got) > 20
        assert got == sorted(got)
        assert video.note == (f"{server.url}stream.mjpg sends no more frames" if ends else None)


def test_frames_that_are_too_large_are_refused(tmp_path):
    video, animation = write_video(tmp_path / "a.mp4", 3), write_gif(tmp_path / "a.gif", 3)
    for path in (video, animation):
        with pytest.raises(InputError, match="frames have 96 x 64 pixels, and 1000 are the most"):
            open_video(path, max_pixels=1000)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"stride": 0}, "stride must be 1 or more, not 0"),
        ({"timeout": 0}, "timeout must be more than 0 seconds, not 0"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"fps": 0}, "fps must be above 0"),
        ({"fps": 30}, "fps is for a folder of frames; 0.gif has a rate of its own"),
    ],
)
def test_settings_have_ranges(settings, says):
    with pytest.raises(InputError, match=says):
        open_video("0.gif", **settings)


def test_what_is_written_is_as_long_as_what_was_read(tmp_path):
    """Frames go where their time says: 1 is shown twice, 3 and 4 are one frame apart, 9 is shown once after a leap."""
    file = VideoFile(tmp_path / "out.mp4", 25)
    for number, seconds in ((0, 7.0), (1, 7.04), (2, 7.12), (3, 7.16), (4, 7.161), (5, 7.2), (9, 90.0)):
        file.write(gray(number), seconds)
    file.close()
    assert numbers(file.path) == [0, 1, 2, 2, 3, 5, 9]


def test_a_change_of_size_does_not_end_what_is_written(tmp_path):
    file = VideoFile(tmp_path / "out.mkv", 25)
    for number, size in enumerate([SIZE, (48, 32), (97, 65), SIZE]):
        file.write(gray(number, size), number / 25)
    file.close()
    assert numbers(file.path) == [0, 1, 2, 3]


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InputError, match="ends in"):
        VideoFile(tmp_path / "out.txt", 25)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        VideoFile(tmp_path / "folder.mp4", 25).write(gray(0), 0)


def test_every_frame_is_answered_raw_and_smoothed(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 20)

    def flicker(call: int) -> list[float]:
        return [0.8, 0.2, 0, 0, 0, 0, 0] if call % 3 else [0.1, 0.9, 0, 0, 0, 0, 0]

    moments = list(watch(path, Stub(flicker), smoothing=0.5))
    assert [moment.frame for moment in moments] == list(range(20))
    assert [moment.prediction.label for moment in moments] == ["disgust" if n % 3 == 0 else "angry" for n in range(20)]
    assert {moment.smoothed.label for moment in moments[10:]} == {"angry"}
    for moment in moments:
        assert moment.smoothing == 0.5
        assert [face.track for face in moment.prediction.faces] == [face.track for face in moment.smoothed.faces] == [1]
        assert sum(moment.smoothed.scores.values()) == pytest.approx(1)
        assert moment.smoothed.box == moment.prediction.box
        assert moment.smoothed.score == max(moment.smoothed.scores.values())
    with pytest.raises(FrozenInstanceError):
        moments[0].frame = 3  # type: ignore[misc]


def test_without_smoothing_both_answers_are_the_same(tmp_path):
    for moment in watch(write_gif(tmp_path / "clip.gif", 5), Stub(faces=3), smoothing=0):
        assert moment.prediction == moment.smoothed
        assert len({face.track for face in moment.smoothed.faces}) == 3


def test_the_confidence_of_what_is_smoothed_is_calibrated_and_judged():
    stub = Stub(lambda call: [0.9, 0.1, 0, 0, 0, 0, 0] if call == 0 else [0.5, 0.5, 0, 0, 0, 0, 0])
    stub.calibration, stub.threshold = Calibration(temperature=2.0), 0.5
    watcher = Watcher(stub, smoothing=1.0)
    watcher.read(Frame(0, 0.0, gray(0)))
    moment = watcher.read(Frame(1, 1.0, gray(1)))
    face = moment.smoothed.faces[0]
    angry = (0.9 / 2 + 0.5) / 1.5
    assert face.scores["angry"] == pytest.approx(angry)
    root = np.sqrt([angry, 1 - angry])
    assert face.confidence == pytest.approx(root[0] / root.sum(), abs=1e-2)
    assert not face.uncertain
    stub.threshold = 0.99
    assert watcher.read(Frame(2, 1.1, gray(2))).smoothed.status == "low_confidence"


def test_a_frame_without_a_face_keeps_its_status(tmp_path):
    moments = list(watch(write_gif(tmp_path / "clip.gif", 3), Stub(faces=0)))
    assert [(m.prediction.status, m.smoothed.status, m.smoothed.faces) for m in moments] == [
        ("no_face", "no_face", ())
    ] * 3


def test_leaving_the_loop_closes_the_video(tmp_path):
    moments = watch(write_video(tmp_path / "clip.mp4", 100), Stub())
    assert next(moments).frame == 0
    moments.close()  # type: ignore[attr-defined]
    assert list(moments) == []


def test_neither_slimfer_nor_its_recognizer_nor_this_module_imports_opencv():
    code = "import sys, slimfer, slimfer.runtime.predict, slimfer.runtime.video; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_program_in_the_guide_runs(tmp_path, shared):
    guide = Path(__file__).parents[2] / "docs/watch.md"
    program = guide.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    write_video(tmp_path / "clip.mp4", 10)
    env = {**os.environ, "SLIMFER_DETECTOR": str(shared / "face_detection_yunet_2023mar.onnx"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0.0 []\n0.2 []\n10 frames, 0 skipped\n"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".gif", ".webp", ".png"])
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path, suffix, capfd):
    """Bits, bytes and pieces changed at random: frames or one sentence, soon, and silence on stderr."""
    path, rng = tmp_path / f"clip{suffix}", random.Random(suffix)
    if suffix in (".mp4", ".mkv", ".avi"):
        whole = write_video(path, 12).read_bytes()
    else:
        first, *others = (gray(number) for number in range(12))
        first.save(path, save_all=True, append_images=others)
        whole = path.read_bytes()
    frames, sentences = 0, []
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10, 60))):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            with open_video(path) as video:
                frames += sum(1 for _ in video)
        except InputError as error:
            sentences.append(str(error))
    assert sentences
    assert "\n" not in "".join(sentences)
    assert frames or suffix == ".webp"  # whose decoder forgives nothing
    assert capfd.readouterr().err == ""
