"""TensorBoard as an extra: a watcher that writes every epoch's figures as events beside `results.csv`."""

from pathlib import Path
from typing import Any

from slimfer.errors import InputError
from slimfer.train.loop import Progress

try:
    import tensorboardX
except ImportError:
    tensorboardX = None


class TensorBoard:
    """A `Watcher`: one event per epoch and figure, under the names of `results.csv` (`train/loss`, ...).

    Use as a context manager, or call `close`, so that the last events are written.
    """

    def __init__(self, folder: Path | str) -> None:
        """Write events below `folder`.

        Raises:
            InputError: if tensorboardX is not installed.
        """
        if tensorboardX is None:
            raise InputError('TensorBoard events need tensorboardX: pip install "slimfer[track]"')
        self.writer: Any = tensorboardX.SummaryWriter(str(folder))

    def __call__(self, progress: Progress) -> None:
        """Write the row of an epoch that has ended; steps are not written."""
        for name, value in (progress.row or {}).items():
            if name != "epoch":
                self.writer.add_scalar(name, value, progress.epoch + 1)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

    def __enter__(self) -> "TensorBoard":
        """Return the watcher."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()
