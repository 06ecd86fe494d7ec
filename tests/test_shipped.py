from pathlib import Path

import pytest

from slimfer.artifact import open_artifact
from slimfer.cli.resolve import ArtifactFile, resolve
from slimfer.errors import InputError
from slimfer.runtime.predict import Recognizer
from slimfer.shipped import DEFAULT, SHIPPED, model_file


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_opens_and_is_small(name):
    artifact = open_artifact(model_file(name))
    assert artifact.name == name
    assert artifact.labels == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert len(artifact.data) < 1_000_000
    assert SHIPPED[name].with_suffix(".md").is_file()  # its card


def test_a_name_means_the_same_in_every_folder(tmp_path, monkeypatch):
    """A folder that happens to be called like a model must not stand in its way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()
    assert Recognizer(detect=False).session.artifact.name == DEFAULT
    assert resolve(DEFAULT) == ArtifactFile(SHIPPED[DEFAULT])
    for own in (f"./{DEFAULT}/", Path(DEFAULT)):
        with pytest.raises(InputError, match="holds no finished network"):
            model_file(own)


def test_a_run_holds_what_is_asked_for(tmp_path):
    (tmp_path / "weights").mkdir()
    for place in ("model.onnx", "weights/best.safetensors"):
        (tmp_path / place).touch()
    assert model_file(tmp_path).name == "best.safetensors"
    assert model_file(tmp_path, "artifact").name == "model.onnx"
    (tmp_path / "model.onnx").unlink()
    assert model_file(tmp_path, "artifact").name == "best.safetensors"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="neither a checkpoint"):
        model_file(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no such file"):
        model_file("nowhere")
