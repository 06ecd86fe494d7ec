import json
import os
from pathlib import Path

import numpy as np
import pytest
from bench.ceilings import macs, rates
from bench.fer_package import FerPackage
from PIL import Image

import networks
from bench import rivals, run
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.runtime.yunet import YuNet
from slimfer.shipped import SHIPPED

NO_PACKAGES = Path(__file__).parent / "no such folder"


@pytest.fixture
def fer() -> FerPackage:
    """The rival, for whoever has installed it."""
    folder = os.environ.get("SLIMFER_RIVALS")
    if not folder:
        pytest.skip("no rival packages (set SLIMFER_RIVALS to their folder)")
    return FerPackage(Path(folder), 1)


@pytest.fixture
def detector(shared) -> Path:
    return shared / "face_detection_yunet_2023mar.onnx"


@pytest.mark.parametrize("name", ["mobile", "microexpnet", "resnet18"])
def test_multiply_adds_of_a_file_are_those_of_its_network(name):
    spec = NetSpec(name, args={"width": 0.25})
    assert macs(to_onnx(networks.untrained(spec))) == complexity(build(spec), 1, 48).macs


def test_integers_and_packed_weights_multiply_as_often():
    for path in SHIPPED.values():
        lineage = json.loads(
            (Path(__file__).parents[2] / f"docs/results/fer2013_{RESULTS[path.stem]}.json").read_text()
        )
        assert macs(path.read_bytes()) == lineage["stages"][-1]["macs"]


RESULTS = {"base": "resnet18", "small": "packed", "tiny": "100kb"}


def test_integers_are_multiplied_at_a_rate_of_their_own():
    found = rates(64, 1)
    assert set(found) == {"float32", "int8"}
    assert min(found.values()) > 1e6


def test_without_the_packages_the_table_says_so(tmp_path, capsys):
    out = tmp_path / "rivals.json"
    run.main(["rivals", "--smoke", "--packages", str(NO_PACKAGES), "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["fer"] is None
    assert "frames" not in result
    rows = {row["contestant"]: row for row in result["networks"]}
    assert list(rows) == [
        *(f"MicroExpNet, {side} px{kind}" for side in (84, 48) for kind in ("", ", int8")),
        *(f"slimfer {name}" for name in SHIPPED),
    ]
    assert {row["faster_than_fer"] for row in rows.values()} == {None}
    assert rows["MicroExpNet, 84 px"]["faster_than_microexpnet"] == 1
    assert rows["slimfer small"]["bytes"] == SHIPPED["small"].stat().st_size
    told = capsys.readouterr().out
    assert "fer is left out: the package fer is not installed" in told
    assert "| fer | not installed, not measured |" in told


def test_the_rebuilt_rival_has_the_published_size():
    data = rivals.rebuilt(84)["MicroExpNet, 84 px"]
    assert abs(len(data) - 4 * 65_000) < 10_000
    # 8x8 to 16 channels of 42x42, 4x4 to 32 of 11x11, 32 times 6x6 to 48, 48 to 8.
    assert macs(data) == 42**2 * 64 * 16 + 11**2 * 16 * 16 * 32 + 32 * 6**2 * 48 + 48 * 8


def test_frames_are_made_alike_and_hold_one_face(shared, detector):
    frames = rivals.compose(shared / "photos", 4)
    again = rivals.compose(shared / "photos", 4)
    assert all((one == other).all() for one, other in zip(frames, again, strict=True))
    finder = YuNet(detector)
    for frame in frames:
        assert frame.shape == (480, 640, 3)
        assert len(finder.find(Image.fromarray(frame))) == 1


def test_a_folder_without_large_photos_is_refused(tmp_path):
    Image.new("L", (100, 100)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="no photo of at least 240 x 240"):
        rivals.compose(tmp_path, 1)


def test_a_missing_rival_is_named():
    with pytest.raises(InputError, match="the package fer is not installed"):
        FerPackage(NO_PACKAGES, 1)


@pytest.mark.alone
def test_the_whole_way_has_its_parts_and_its_floor(detector, shared):
    result = rivals.run(
        rivals.SMOKE, [SHIPPED["small"]], photos=shared / "photos", detector=detector, packages=NO_PACKAGES
    )
    (row,) = result["frames"]["rows"]
    assert row["faces_per_frame"] == 1
    assert set(row["parts_ms"]) == set(rivals.PARTS)
    assert 0.2 * row["latency_ms"]["median"] < sum(row["parts_ms"].values()) < 3 * row["latency_ms"]["median"]
    assert 0 < result["frames"]["crop_ms"]["median"] < row["latency_ms"]["median"]
    floor = result["frames"]["floor_ms"]
    # Its file multiplies and adds 344 million times for 640 x 640 pixels.
    assert 64e6 < floor["detect"] / 1e3 * result["macs_per_s"]["float32"] < 65e6
    assert [(row["cores"], row["pictures"]) for row in result["folders"]] == [(1, 4), (1, 4)]
    assert [len(table.rows) for table in rivals.tables(result)] == [6, 4, 2]


@pytest.mark.long  # only for who has its package
def test_the_rival_reads_smiles(fer, shared):
    """It must run as its users run it, or beating it would mean nothing: 6 photos of happy people."""
    happy = 0
    for index in range(1, 7):
        with Image.open(shared / "photos" / f"happiness_{index}.jpg") as photo:
            frame = Image.new("RGB", rivals.FRAME, (110, 110, 110))
            frame.paste(photo.convert("RGB").resize((240, 240)), (200, 120))
        answer = fer.frame(np.ascontiguousarray(np.asarray(frame)[..., ::-1]))
        assert set(answer.ms) == set(rivals.PARTS)
        happy += sum(int(scores.argmax() == 3) for scores in answer.scores)
    assert happy >= 5
