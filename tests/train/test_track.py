import pytest

from helpers import CLASSES, TINY, patterns
from slimfer.errors import InputError
from slimfer.train import track
from slimfer.train.config import TrainConfig
from slimfer.train.loop import COLUMNS, fit, initial

CONFIG = TrainConfig(epochs=2, batch_size=16, precision="fp32")


def test_without_tensorboardx_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(track, "tensorboardX", None)
    with pytest.raises(InputError, match=r'pip install "slimfer\[track\]"'):
        track.TensorBoard(tmp_path)


def test_every_epoch_is_written_once(monkeypatch, tmp_path):
    class Writer:
        def __init__(self, folder: str) -> None:
            self.folder, self.events, self.closed = folder, [], False

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.events.append((name, value, step))

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(track, "tensorboardX", type("module", (), {"SummaryWriter": Writer}))
    rows = []
    with track.TensorBoard(tmp_path) as board:
        fit(initial(TINY, CLASSES, seed=0), patterns(32), patterns(9), CONFIG,
            watch=lambda progress: (board(progress), rows.append(progress.row)))  # fmt: skip
    rows = [row for row in rows if row]
    names = [name for name in COLUMNS if name != "epoch"]
    assert sorted(board.writer.events) == sorted((n, row[n], row["epoch"]) for row in rows for n in names)
    assert len(rows) == 2
    assert board.writer.closed


def test_events_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra slimfer[track] is not installed")
    from tensorboardX.proto.event_pb2 import Event

    with track.TensorBoard(tmp_path) as board:
        fit(initial(TINY, CLASSES, seed=0), patterns(32), patterns(9), CONFIG, watch=board)
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), []
    while data:  # each record: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step) for value in event.summary.value]
        data = data[16 + length :]
    assert sorted(found) == sorted((name, epoch) for name in COLUMNS if name != "epoch" for epoch in (1, 2))
