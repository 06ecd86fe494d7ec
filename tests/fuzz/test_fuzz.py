"""Damaged inputs for every reader, each in a process of its own: a few here, many in `make test-long`.

What a run finds is made again by the command in the message; it then becomes a small file in a test of its own.
SLIMFER_FUZZ_SECONDS (20) and SLIMFER_FUZZ_SEED change the long runs.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.mutate import DAMAGE, mutate
from fuzz.samples import PICTURES
from fuzz.targets import FAULTS, TARGETS, detector_file
from slimfer.images import FORMATS, read_image

TESTS = Path(__file__).resolve().parents[1]
READERS = [name for name in TARGETS if name != "detector"]


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fuzz.child", *arguments, "--progress", str(folder / "progress")]
    variables = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=variables)


def check(folder: Path, target: str, seed: str, *limits: str) -> int:
    """Run a target and return the number of inputs; fail with the command that repeats the one that it stopped at."""
    done = run(folder, target, seed, *limits)
    again = f"PYTHONPATH=tests python -m fuzz.child {target} {seed} --first {last_input(folder)} --inputs 1"
    assert done.returncode == 0, f"{again}\n{done.stdout}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout)["inputs"]


def last_input(folder: Path) -> int:
    return struct.unpack("<q", (folder / "progress").read_bytes())[0]


@pytest.mark.parametrize("target", READERS)
def test_a_few_damaged_inputs_are_answered(target, tmp_path):
    assert check(tmp_path, target, "few", "--inputs", "300") == 300


@pytest.mark.skipif(detector_file() is None, reason="no file of the detector (set SLIMFER_SHARED)")
def test_a_few_damaged_detectors_are_refused(tmp_path):
    assert check(tmp_path, "detector", "few", "--inputs", "300") == 300


@pytest.mark.long
@pytest.mark.parametrize("target", READERS)
def test_many_damaged_inputs_are_answered(target, tmp_path):
    seconds = os.environ.get("SLIMFER_FUZZ_SECONDS", "20")
    assert check(tmp_path, target, os.environ.get("SLIMFER_FUZZ_SEED", "many"), "--seconds", seconds) > 0


@pytest.mark.long
def test_a_folder_of_damaged_pictures_is_answered_to_the_last_one(tmp_path):
    """The command itself: a line for each, exit code 0, and nothing on the terminal but the list of failures."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for kind, draw in PICTURES.items():
        samples = draw()
        for index in range(100):
            (folder / f"{kind}{index:03}.png").write_bytes(mutate(samples, "folder", index))
    out = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "slimfer", "predict", str(folder), "--no-detect", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    failed = sum(answer["status"] == "unreadable" for answer in answers)
    assert done.returncode == 0
    assert [Path(answer["path"]).name for answer in answers] == sorted(path.name for path in folder.iterdir())
    assert 100 < failed < 600
    assert f"could not be read: {failed} of 600" in done.stderr
    assert not [word for word in ("Traceback", "Warning", "Error") if word in done.stderr]


SYMPTOMS = {
    "error": "ValueError: planted", "slow": ' s"', "memory": "MemoryError", "stuck": "Timeout", "crash": "Aborted",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path):
    """Control: what the tests above are for makes them red, whichever way it shows."""
    patience = ("--patience", "2") if fault == "stuck" else ()
    done = run(tmp_path, "ppm", "control", "--inputs", "400", "--plant", fault, *patience)
    assert done.returncode != 0
    assert SYMPTOMS[fault] in done.stdout + done.stderr
    assert last_input(tmp_path) < 399


def test_there_are_samples_of_every_format():
    assert set(PICTURES) == set(FORMATS)
    for kind, samples in PICTURES.items():
        assert all(read_image(sample).size in ((40, 30), (30, 40), (4, 3)) for sample in samples()), kind


def test_the_same_seed_gives_the_same_damage_and_every_kind_of_it_is_done():
    samples = PICTURES["PNG"]()
    first = [mutate(samples, "seed", index) for index in range(300)]
    assert first == [mutate(samples, "seed", index) for index in range(300)]
    assert first != [mutate(samples, "other", index) for index in range(300)]
    changed = sum(data not in samples for data in first)
    assert 280 < changed < 300
    assert len(set(DAMAGE)) == 8
