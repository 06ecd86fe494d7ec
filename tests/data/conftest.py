"""Real faces, read once for all tests of the data room."""

from pathlib import Path

import pytest

from slimfer.data.frames import Dataset
from slimfer.data.loader import load


@pytest.fixture(scope="session")
def real_faces(shared: Path) -> Dataset:
    return load(shared / "fer2013_train_val.zip")
