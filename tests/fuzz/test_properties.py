"""Laws for whatever Hypothesis thinks of: every input has an answer, and no command line finds a bug of ours."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fuzz.samples import PICTURES
from slimfer.cli.app import run
from slimfer.runtime.answer import Prediction
from slimfer.runtime.predict import Recognizer

STATUSES = {"ok", "low_confidence", "unreadable"}
SAMPLES = [sample for kind in PICTURES for sample in PICTURES[kind]()]
WORDS = (
    "--json", "--quiet", "--no-detect", "--recursive", "--format", "csv", "jsonl", "--threshold", "0.5", "-1", "nan",
    "--max-pixels", "100", "0", "--threads", "--workers", "1", "face.png", "nothing.png", ".", "*.png", "--model",
    "small", "--out", "answers.csv", "--resume", "--force", "--strict", "--detector", "--annotate", "marked", "--seed",
    "-r", "-m", "caf\udce9.png",
)  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> Recognizer:
    return Recognizer("small", detect=False)


def check(answer: Prediction) -> None:
    assert answer.status in STATUSES
    assert (answer.status == "unreadable") == bool(answer.error) == (not answer.faces)
    json.dumps(answer.to_dict(), allow_nan=False)
    for face in answer.faces:
        assert 0 <= face.confidence <= 1
        assert sum(face.scores.values()) == pytest.approx(1, abs=1e-4)


@given(st.data())
def test_any_array_has_an_answer(reader, data):
    kinds = st.one_of(
        arrays.boolean_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(), arrays.floating_dtypes(),
        arrays.complex_number_dtypes(), arrays.byte_string_dtypes(), arrays.datetime64_dtypes(),
    )  # fmt: skip
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)
    check(reader(data.draw(arrays.arrays(kinds, shapes))))


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from((1, 3, 4)))))
def test_any_picture_has_seven_scores(reader, array):
    answer = reader(array)
    assert answer.faces
    assert (answer.height, answer.width) == array.shape[:2]
    check(answer)


@given(st.binary(max_size=300), st.integers(0, len(SAMPLES) - 1), st.integers(0, 2000))
def test_any_bytes_have_an_answer(reader, noise, index, place):
    whole = SAMPLES[index]
    for data in (noise, whole[:place] + noise + whole[place:], whole[:place] + noise + whole[place + len(noise) :]):
        check(reader(data))


@given(st.text(max_size=40))
def test_any_text_as_a_path_has_an_answer(reader, name):
    answer = reader(f"no such folder/{name}")
    assert answer.status == "unreadable"
    check(answer)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_characters="/\0"), max_size=8)), max_size=7
    )
)
def test_no_command_line_is_our_own_bug(tmp_path, monkeypatch, capfd, words):
    """Exit code 1 would say so; --strict may use it, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "face.png").write_bytes(PICTURES["PNG"]()[0])
    code = run(["predict", *(word for word in words if word != "-")])
    told = capfd.readouterr()
    assert code in ((0, 1, 2) if "--strict" in words else (0, 2)), told.err
    assert "bug in slimfer" not in told.err
    assert "Traceback" not in told.err
