from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.tables import HEADER, USAGES, dataset, frames, picture, same, write_rows
from slimfer.data.fer2013 import VOTE_COLUMNS, write_csv
from slimfer.data.loader import load
from slimfer.errors import InputError
from slimfer.labels import EMOTIONS, canonical

VOTES_HEADER = (
    *("Usage", "Image name", "neutral", "happiness", "surprise", "sadness"),
    *("anger", "disgust", "fear", "contempt", "unknown", "NF"),
)


def votes_row(usage: str = "Training", **votes: int) -> list[object]:
    return [usage, "fer0000000.png", *(votes.get(name, 0) for name in VOTES_HEADER[2:])]


def test_official_file(tmp_path):
    path = write_rows(tmp_path / "fer2013.csv", [(i % 7, picture(i), USAGES[i % 3]) for i in range(12)])
    read = load(path)
    assert {split: len(f) for split, f in read.items()} == {"train": 4, "validation": 4, "test": 4}
    assert read["validation"].labels.tolist() == [1, 4, 0, 3]
    assert read["test"].images[1, 0].ravel().tolist() == [(5 + i) % 256 for i in range(2304)]
    assert read["test"].names[1] == "fer2013.csv row 7"
    assert read["train"].classes == EMOTIONS


def test_columns_in_any_order_with_spaces_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "fer.csv"
    path.write_text(f"emotion, Usage, pixels\r\n3, PublicTest, {picture(9)}\r\n", encoding="utf-8-sig")
    read = load(path)
    assert read["validation"].labels.tolist() == [3]
    assert read["validation"].images[0, 0, 0, 0] == 9


def test_labels_may_be_names(tmp_path):
    rows = [("Happiness", picture(), "Training"), ("anger", picture(), "Training")]
    assert load(write_rows(tmp_path / "fer.csv", rows))["train"].labels.tolist() == [3, 0]


def test_three_files(tmp_path):
    write_rows(tmp_path / "train.csv", [(0, picture(), "PublicTest"), (1, picture(1), "Training")])
    write_rows(tmp_path / "val.csv", [(2, picture())], HEADER[:2])
    write_rows(tmp_path / "test.csv", [(3, picture())], HEADER[:2])
    read = load(tmp_path)
    assert {split: f.labels.tolist() for split, f in read.items()} == {"train": [0, 1], "validation": [2], "test": [3]}


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ("val", "valid"):
        write_rows(tmp_path / f"{name}.csv", [(2, picture())], HEADER[:2])
    with pytest.raises(InputError, match=r"both val\.csv and valid\.csv are the split validation"):
        load(tmp_path)


GOOD = (0, picture(), "Training")


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ((7, picture(), "Training"), r"row 3: unknown emotion '7'; the codes are 0-6"),
        (("", picture(), "Training"), r"row 3: unknown emotion ''"),
        (("bored", picture(), "Training"), r"row 3: unknown emotion 'bored'"),
        ((0, picture(n=2303), "Training"), r"row 3: 2303 pixels, not 2304 \(48 x 48\)"),
        ((0, picture(n=2305), "Training"), r"row 3: 2305 pixels, not 2304"),
        ((0, "", "Training"), r"row 3: 0 pixels, not 2304"),
        ((0, "256" + picture()[1:], "Training"), r"row 3: pixel 1 is 256, outside 0-255"),
        ((0, picture()[:-3] + "-1", "Training"), r"row 3: pixel 2304 is -1, outside 0-255"),
        ((0, "9" * 30 + picture()[1:], "Training"), r"row 3: pixel 1 is 9{20}\.\.\., outside 0-255"),
        ((0, "x" + picture()[1:], "Training"), r"row 3: pixel 1 is 'x', not a whole number"),
        ((0, "1.5" + picture()[1:], "Training"), r"row 3: pixel 1 is '1\.5', not a whole number"),
        ((0, "١" + picture()[1:], "Training"), r"row 3: pixel 1 is '١', not a whole number"),
        ((0, picture().replace(" ", "\v"), "Training"), r"row 3: pixels are not separated by spaces"),
        ((0, picture(), "Trainin"), r"row 3: unknown Usage 'Trainin'; there are Training, PublicTest, PrivateTest"),
        ((0, picture()), r"row 3: 2 columns, not 3"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, sentence):
    path = write_rows(tmp_path / "fer2013.csv", [GOOD, row, GOOD])
    with pytest.raises(InputError, match=r"fer2013\.csv " + sentence):
        load(path)


@pytest.mark.parametrize("missing", HEADER)
def test_missing_column_is_named(tmp_path, missing):
    path = write_rows(tmp_path / "fer.csv", [], [name for name in HEADER if name != missing])
    with pytest.raises(InputError, match=rf"fer\.csv: no column '{missing.lower()}'"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'"' + b"x" * 200_000, b"\0\0\0"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "fer.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"fer\.csv"):
        load(tmp_path / "fer.csv")


def test_table_without_rows_is_empty(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        load(write_rows(tmp_path / "fer.csv", []))
    write_rows(tmp_path / "train.csv", [GOOD])
    write_rows(tmp_path / "val.csv", [])
    (tmp_path / "fer.csv").unlink()
    with pytest.raises(InputError, match="the split validation is empty"):
        load(tmp_path)


def test_other_sizes_and_colour(tmp_path):
    path = write_rows(tmp_path / "fer.csv", [GOOD])
    assert load(path, image=24, channels=3)["train"].images.shape == (1, 3, 24, 24)
    gray, colour = load(path)["train"].images, load(path, channels=3)["train"].images
    assert (colour == gray).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 4), min_size=3, max_size=3), seed=st.integers(0, 2**16))
def test_round_trip(tmp_path, counts, seed):
    original = {s: frames(n, seed=seed + n) for s, n in zip(("train", "validation", "test"), counts, strict=True)}
    write_csv(tmp_path / "out.csv", original)
    assert same(load(tmp_path / "out.csv"), original)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (frames(2, side=32), "48 x 48 gray, not 32 x 32 x 1"),
        (frames(2, channels=3), "48 x 48 gray, not 48 x 48 x 3"),
        (frames(2, classes=("cat", "dog")), "not 'cat'"),
    ],
)
def test_what_a_csv_cannot_hold_is_refused(tmp_path, bad, sentence):
    with pytest.raises(InputError, match=sentence):
        write_csv(tmp_path / "out.csv", {"train": bad})
    assert list(tmp_path.iterdir()) == []


# --- FER+ -------------------------------------------------------------------------------------------------------------
def with_votes(tmp_path, rows, votes):
    path = write_rows(tmp_path / "fer2013.csv", rows)
    return load(path, votes=write_rows(tmp_path / "fer2013new.csv", votes, VOTES_HEADER))


def test_votes_for_the_seven_are_normalized_and_others_left_out(tmp_path):
    rows = [(6, picture(), "Training"), (0, picture(1), "Training"), (3, picture(2), "PublicTest")]
    votes = [
        votes_row(neutral=6, happiness=2, contempt=1, unknown=1),
        votes_row(anger=1, disgust=2, fear=3, sadness=4),
        votes_row("PublicTest", NF=9, contempt=1),
    ]
    read = with_votes(tmp_path, rows, votes)
    np.testing.assert_allclose(read["train"].votes[0], [0, 0, 0, 0.25, 0, 0, 0.75])
    np.testing.assert_allclose(read["train"].votes[1], [0.1, 0.2, 0.3, 0, 0.4, 0, 0])
    # Nothing usable: the label stands.
    np.testing.assert_allclose(read["validation"].votes[0], np.eye(7)[3])
    assert read["train"].labels.tolist() == [6, 0]
    assert (read["train"].targets() == read["train"].votes).all()


def test_vote_columns_are_the_seven_in_order():
    assert tuple(canonical(name) for name in VOTE_COLUMNS) == EMOTIONS


@given(st.lists(st.lists(st.integers(0, 10), min_size=10, max_size=10), min_size=1, max_size=5))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_votes_always_sum_to_one(tmp_path, counts):
    rows = [(i % 7, picture(i), "Training") for i in range(len(counts))]
    read = with_votes(tmp_path, rows, [["Training", "x", *row] for row in counts])
    np.testing.assert_allclose(read["train"].votes.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("votes", "sentence"),
    [
        ([votes_row()], r"has 1 rows of votes, and there are 2 pictures"),
        ([votes_row(), votes_row("PublicTest")], r"row 3: Usage is PublicTest, but the picture is Training"),
        ([votes_row(), votes_row("Never")], r"row 3: unknown Usage 'Never'"),
        ([votes_row(), votes_row(fear=-1)], r"row 3: fear has '-1' votes, not a whole number"),
    ],
)
def test_votes_that_do_not_go_with_the_pictures_are_refused(tmp_path, votes, sentence):
    with pytest.raises(InputError, match=sentence):
        with_votes(tmp_path, [GOOD, GOOD], votes)


def test_votes_go_with_the_official_csv_only(tmp_path):
    votes = write_rows(tmp_path / "fer2013new.csv", [votes_row()], VOTES_HEADER)
    write_rows(tmp_path / "train.csv", [GOOD])
    for source in (tmp_path, "synthetic"):
        with pytest.raises(InputError, match="official csv"):
            load(source, votes=votes)


def test_votes_cannot_be_written_to_csv(tmp_path):
    original = frames(2)
    with pytest.raises(InputError, match="cannot hold votes"):
        write_csv(tmp_path / "out.csv", {"train": replace(original, votes=original.targets())})


def test_all_splits_are_written(tmp_path):
    original = dataset(train=3, validation=2, test=2)
    write_csv(tmp_path / "out.csv", original)
    assert (tmp_path / "out.csv").read_text().count("PrivateTest") == 2
