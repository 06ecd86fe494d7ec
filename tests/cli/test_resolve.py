from pathlib import Path

import pytest

from slimfer.cli.resolve import ArtifactFile, CheckpointFile, Network, resolve
from slimfer.errors import InputError


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.safetensors").touch()
    (tmp_path / "model.onnx").touch()
    return tmp_path


def test_files_by_their_ending(run_folder: Path) -> None:
    artifact, checkpoint = run_folder / "model.onnx", run_folder / "weights" / "best.safetensors"
    assert resolve(str(artifact)) == ArtifactFile(artifact)
    assert resolve(str(checkpoint)) == CheckpointFile(checkpoint)


def test_in_a_run_folder_the_verb_prefers(run_folder: Path) -> None:
    assert resolve(str(run_folder)) == CheckpointFile(run_folder / "weights" / "best.safetensors")
    assert resolve(str(run_folder), prefer="artifact") == ArtifactFile(run_folder / "model.onnx")
    (run_folder / "model.onnx").unlink()
    assert resolve(str(run_folder), prefer="artifact") == CheckpointFile(run_folder / "weights" / "best.safetensors")


@pytest.mark.parametrize("name", ["resnet18", "package.module:function", "module:Class"])
def test_networks_by_name(name: str) -> None:
    assert resolve(name) == Network(name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("resnet8", "did you mean 'resnet18'?"),
        ("xyzzy", "the networks are microexpnet, microexpnet-p1"),
        ("nothing.onnx", "nothing.onnx: no such file"),
        ("package:not a name", "neither a file nor a run folder nor a network"),
    ],
)
def test_what_is_nothing_of_ours_is_named(text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(text)
    assert sentence in str(caught.value)


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished network"):
        resolve(str(tmp_path))


def test_another_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    with pytest.raises(InputError, match=r"neither a checkpoint \(\.safetensors\) nor an artifact"):
        resolve(str(tmp_path / "net.pt"))
