"""`slimfer quantize`: after training, and by training."""

import json
from pathlib import Path

import pytest

from slimfer.cli.quantize import parse_per_layer
from slimfer.errors import InputError
from slimfer.train.checkpoint import Checkpoint


def test_training_with_integers(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = inside(
        "quantize", str(checkpoint), "--data", str(faces), "--bits", "4", "--activations", "4", "--ends", "6",
        "--per-layer", "blocks.*=3", "--ranges", "percentile", "--equalize", "--qat", "--qat-epochs", "1", "--qat-lr",
        "0.02", "--qat-activations", "pact", "--batch-size", "32", "--seed", "4", "--out", str(out), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    start, quantized, trained = json.loads(done.stdout)["stages"]
    assert trained["params"] <= start["params"]
    result = Checkpoint.load(out / "weights" / "best.safetensors")
    steps = [entry["step"] for entry in result.lineage]
    assert steps[-3:] == ["quantize", "prepare-qat", "qat"]
    quantize, prepare, qat = result.lineage[-3:]
    assert (quantize["bits"], quantize["activations"], quantize["ends"], quantize["equalize"]) == (4, 4, 6, True)
    assert (quantize["per_layer"], quantize["ranges"]) == ({"blocks.*": 3}, "percentile")
    assert (prepare["weights"], prepare["activations"]) == ("lsq", "pact")
    assert (qat["config"]["epochs"], qat["config"]["lr"], qat["config"]["seed"]) == (1, 0.02, 4)

    again = inside(
        "quantize", "--recipe", str(out / "recipe.toml"), "--seed", "4", "--out", str(tmp_path / "b"), "--json"
    )
    assert json.loads(again.stdout)["stages"] == [start, quantized, trained]


def test_wrong_flags_are_named(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    data = (str(checkpoint), "--data", str(faces), "--out", str(tmp_path / "run"))
    for flags, words in (
        (("--qat-lr", "0.1"), "--qat-lr is for training with integers; add --qat"),
        (("--per-layer", "conv1"), "--per-layer is NAME=BITS, such as 'layer1.*=4', not 'conv1'"),
        (("--per-layer", "nothing=4"), "per_layer: no layer is called 'nothing'"),
        (("--bits", "9"), "bits must be between 2 and 8"),
        (("--activations", "5"), "activations must be 8 or 4, not 5"),
    ):
        done = inside("quantize", *data, *flags, "--force")
        assert done.returncode == 2, flags
        assert words in done.stderr
        assert done.stderr.count("\n") <= 2


@pytest.mark.parametrize("text", ["conv1", "=4", "a=", "a=x", "a=-1"])
def test_a_text_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--per-layer is NAME=BITS"):
        parse_per_layer([text])


def test_a_name_may_hold_anything_but_the_last_sign() -> None:
    assert parse_per_layer(["layer1.*=4", "a=b=2"]) == {"layer1.*": 4, "a=b": 2}
