"""`slimfer watch` as users run it: processes of their own, files, signals, and the page."""

import csv
import http.client
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.videos import write_gif, write_video

if importlib.util.find_spec("cv2") is None:
    pytest.skip("the extra video is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 50)


@pytest.fixture
def start() -> Iterator:
    """Start `slimfer watch ARGUMENTS` and leave it running; nothing outlives the test."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "slimfer", "watch", *map(str, arguments), "--no-detect"]
        env = {**{k: v for k, v in os.environ.items() if not k.startswith("SLIMFER_")}, "OMP_NUM_THREADS": "1"}
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, bufsize=1)
        )
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


def page_of(process: "subprocess.Popen[str]") -> http.client.HTTPConnection:
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.fullmatch(r"watch at http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends\)\n", line)
    assert found, line
    return http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)


def events(connection: http.client.HTTPConnection) -> Iterator[tuple[str, dict]]:
    connection.request("GET", "/events")
    stream = connection.getresponse()
    while line := stream.readline():
        if line.startswith(b"event: "):
            yield line[7:].decode().strip(), json.loads(stream.readline()[6:])


def test_a_file_becomes_rows_a_marked_video_and_a_summary(slimfer, clip, tmp_path):
    out, marked = tmp_path / "deep" / "answers.jsonl", tmp_path / "marked.mp4"
    done = slimfer(
        "watch", str(clip), "--no-page", "--no-detect", "--out", str(out), "--annotate", str(marked), "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["frame"], row["seconds"], row["track"], row["face"]) for row in rows] == [
        (n, n / 25, 1, 1) for n in range(50)
    ]
    for row in rows:
        for kind in ("raw", "smoothed"):
            assert sum(row[f"{kind}_scores"].values()) == pytest.approx(1, abs=1e-5)
            assert (
                row[f"{kind}_scores"][row[f"{kind}_label"]]
                == row[f"{kind}_score"]
                == max(row[f"{kind}_scores"].values())
            )
        assert row["smoothing"] == 0.5
        assert row["box"] == {"x": 0, "y": 0, "w": 96, "h": 64}
    assert rows[0]["raw_scores"] == rows[0]["smoothed_scores"]
    assert any(row["raw_scores"] != row["smoothed_scores"] for row in rows)
    told = json.loads(done.stdout)
    assert (told["frames"], told["answered"], told["skipped"], told["tracks"], told["faces"]) == (50, 50, 0, 1, 50)
    assert (told["smoothing"], told["interrupted"], told["note"]) == (0.5, False, None)
    assert sum(told["expressions"].values()) == 50
    again = slimfer("watch", str(marked), "--no-page", "--no-detect", "--json")
    assert json.loads(again.stdout)["frames"] == 50


def test_csv_holds_the_same_as_jsonl(inside, clip, tmp_path):
    for name in ("a.csv", "a.jsonl"):
        arguments = ("--no-page", "--no-detect", "--stride", "10", "--smoothing", "0", "--out", str(tmp_path / name))
        assert inside("watch", str(clip), *arguments).returncode == 0
    told = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    with open(tmp_path / "a.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == ["0", "10", "20", "30", "40"]
    for row, one in zip(rows, told, strict=True):
        assert {key: row[key] for key in "xywh"} == {key: str(one["box"][key]) for key in "xywh"}
        for key in (
            "seconds",
            "status",
            "track",
            "raw_label",
            "raw_score",
            "smoothed_label",
            "smoothed_score",
            "smoothing",
        ):
            assert row[key] == str(one[key])
        for kind in ("raw", "smoothed"):
            assert {label: float(row[f"{kind}_{label}"]) for label in one[f"{kind}_scores"]} == one[f"{kind}_scores"]
        assert one["raw_scores"] == one["smoothed_scores"]


def test_rows_on_stdout_are_alone_there(inside, clip):
    done = inside("watch", str(clip), "--no-page", "--no-detect", "--seconds", "0.4", "--out", "-")
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(10))
    assert "10 answered" in done.stderr


def test_frames_without_a_face_have_a_row(inside, clip, tmp_path, shared):
    out = tmp_path / "a.csv"
    detector = str(shared / "face_detection_yunet_2023mar.onnx")
    done = inside("watch", str(clip), "--no-page", "--stride", "25", "--detector", detector, "--out", str(out))
    assert done.returncode == 0, done.stderr
    with open(out, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["frame"], row["seconds"], row["status"], row["raw_label"], row["x"]) for row in rows] == [
        ("0", "0.0", "no_face", "", ""), ("25", "1.0", "no_face", "", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.mp4"], "missing.mp4: no such camera, file, folder or stream"),
        (["77"], "camera 77 does not open"),
        (["{clip}", "--out", "{none}.txt"], "the name of a file for answers ends in .jsonl, .ndjson, .csv"),
        (["{clip}", "--annotate", "{none}.gif"], "the name of a video to write ends in .mp4"),
        (["{clip}", "--annotate", "{clip}"], "is the video that is read"),
        (["{clip}", "--annotate", "{clip}", "--force"], "is the video that is read"),
        (["{clip}", "--out", "{there}"], "there.jsonl exists; --force writes over it"),
        (["{clip}", "--out", "-", "--json"], "both write to stdout"),
        (["{clip}", "--stride", "0"], "--stride"),
        (["{clip}", "--fps", "30"], "fps is for a folder of frames"),
        (["{cut}"], "cut.mp4 is no video that OpenCV can read"),
        (["{clip}", "--host", "203.0.113.7"], "cannot listen at 203.0.113.7"),
    ],
)
def test_bad_input_is_one_sentence(inside, clip, tmp_path, arguments, sentence):
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:1000])
    names = {"clip": clip, "there": tmp_path / "there.jsonl", "cut": tmp_path / "cut.mp4", "none": tmp_path / "none"}
    page = [] if "--host" in arguments else ["--no-page"]
    before = clip.read_bytes()
    done = inside("watch", *(word.format(**names) for word in arguments), "--no-detect", *page)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert clip.read_bytes() == before


def test_without_a_detector_nothing_is_opened(slimfer, clip, tmp_path):
    env = {"SLIMFER_OFFLINE": "1", "SLIMFER_HOME": str(tmp_path)}
    done = slimfer("watch", str(clip), env=env, code="import sys; sys.modules['cv2'] = None")
    assert done.returncode == 2
    assert "or --no-detect, if the frames are faces" in done.stderr
    assert "watch at" not in done.stderr


def test_without_opencv_the_remedy_is_said_and_animated_pictures_go_on(slimfer, clip, tmp_path):
    block = "import sys; sys.modules['cv2'] = None"
    for arguments in (
        (str(clip),),
        ("0",),
        (str(write_gif(tmp_path / "a.gif", 4)), "--annotate", str(tmp_path / "m.mp4")),
    ):
        done = slimfer("watch", *arguments, "--no-page", "--no-detect", code=block)
        assert done.returncode == 2
        assert 'pip install "slimfer[video]"' in done.stderr
    done = slimfer("watch", str(tmp_path / "a.gif"), "--no-page", "--no-detect", "--json", code=block)
    assert json.loads(done.stdout)["frames"] == 4


def test_a_truncated_video_is_read_to_where_it_ends(inside, tmp_path):
    path = write_video(tmp_path / "clip.mkv", 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    out = tmp_path / "a.jsonl"
    done = inside("watch", str(path), "--no-page", "--no-detect", "--out", str(out))
    assert done.returncode == 0
    lines = out.read_text().splitlines()
    assert f"ends after {len(lines)} of 60 frames; it is damaged or cut off" in done.stderr
    assert all(json.loads(line) for line in lines)


def test_a_pipe_that_stalls_is_given_up_with_what_was_read(start, tmp_path):
    """OpenCV hangs in such a read for ever; the process must end all the same."""
    video = write_video(tmp_path / "clip.avi", 200)
    pipe, out = tmp_path / "pipe.avi", tmp_path / "a.jsonl"
    os.mkfifo(pipe)
    process = start(pipe, "--no-page", "--timeout", "2", "--out", out)
    with open(pipe, "wb") as stream:
        stream.write(video.read_bytes()[: video.stat().st_size // 2])
        stream.flush()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 2, said
    assert re.search(r"pipe\.avi (?:has sent no frame for|does not open within) 2 s", said)
    assert "Traceback" not in said
    assert all(json.loads(line) for line in out.read_text().splitlines()) if out.exists() else True


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_whole_files(start, slimfer, tmp_path, kind):
    clip = write_video(tmp_path / "long.mp4", 3000)
    out, marked = tmp_path / "a.jsonl", tmp_path / "m.mp4"
    process = start(clip, "--no-page", "--out", out, "--annotate", marked, "--json")
    deadline = time.monotonic() + 30
    while (not out.exists() or out.stat().st_size < 20_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(kind)
    told, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    summary = json.loads(told)
    assert summary["interrupted"] is True
    assert abs(len(rows) - summary["answered"]) <= 1
    assert 10 < len(rows) < 3000
    again = json.loads(slimfer("watch", str(marked), "--no-page", "--no-detect", "--json").stdout)
    assert abs(again["frames"] - len(rows)) <= 1


def test_the_page_shows_a_file_in_real_time_and_says_the_end(start, clip):
    process = start(clip, "--port", "0", "--json")
    connection = page_of(process)
    begun = time.monotonic()
    seen = list(events(connection))
    assert time.monotonic() - begun > 1.5  # 50 frames at 25 per second
    assert [kind for kind, _ in seen] == ["moment"] * (len(seen) - 1) + ["over"]
    first, last = seen[0][1], seen[-2][1]
    assert first["frame"] < 10
    assert last["frame"] == 49
    assert last["smoothing"] == 0.5
    assert [face["track"] for face in last["faces"]] == [1]
    told, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    summary = json.loads(told)
    assert summary["frames"] == 50
    assert summary["answered"] + summary["skipped"] == 50
    connection.close()


def test_the_page_ends_with_ctrl_c(start, clip):
    process = start(clip, "--port", "0")
    connection = page_of(process)
    for kind, _ in events(connection):
        assert kind == "moment"
        break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    connection.close()


def test_a_page_for_others_is_warned_of(start, clip):
    process = start(clip, "--port", "0", "--host", "0.0.0.0")
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert re.match(r"watch at http://", lines[0])
    assert lines[1].startswith("warning: --host 0.0.0.0 lets everybody who reaches this machine watch")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
