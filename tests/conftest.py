"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# How long one example takes says something about the machine, not about the law.
settings.register_profile("slimfer", deadline=None)
settings.load_profile("slimfer")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real data, which users do not have."""
    folder = Path(os.environ.get("SLIMFER_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder} (set SLIMFER_SHARED)")
    return folder / "data"
