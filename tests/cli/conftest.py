"""The real command line in processes of its own, and something small for it to work on."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from slimfer.cli.app import main
from slimfer.data.packed import write_packed
from slimfer.data.synthetic import synthetic
from slimfer.export.onnx import to_onnx
from slimfer.files import atomic_write
from slimfer.labels import EMOTIONS
from slimfer.model.spec import NetSpec
from slimfer.train.checkpoint import Checkpoint
from slimfer.train.loop import initial

Slimfer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def slimfer() -> Slimfer:
    """Run `slimfer ARGUMENTS`; `env` adds variables, `code` is run before the command line starts."""

    def run(*arguments: str, env: dict[str, str] | None = None, code: str = "", **settings: object):
        start = ["-c", f"{code}\nfrom slimfer.cli.app import main; main()"] if code else ["-m", "slimfer"]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("SLIMFER_")}
        return subprocess.run(
            [sys.executable, *start, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**variables, "OMP_NUM_THREADS": "1", **(env or {})},
            **settings,
        )

    return run


@pytest.fixture(scope="session")
def inside() -> Slimfer:
    """Run `slimfer ARGUMENTS` in this process, where torch is loaded already: for chains of verbs."""

    def run(*arguments: str):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", ["slimfer", *arguments])
            patch.setenv("OMP_NUM_THREADS", "1")
            with pytest.raises(SystemExit) as caught:
                main()
        return subprocess.CompletedProcess(arguments, caught.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset of a few synthetic faces, 24 pixels."""
    path = tmp_path_factory.mktemp("data") / "faces"
    write_packed(path, synthetic(140, 70, 0, image=24))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained, thin network for those faces."""
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    initial(NetSpec("mobile", image=24, args={"width": 0.25}), EMOTIONS, seed=1).save(path)
    return path


@pytest.fixture(scope="session")
def artifact(checkpoint: Path) -> Path:
    """The same network for onnxruntime."""
    path = checkpoint.with_name("net.onnx")
    atomic_write(path, to_onnx(Checkpoint.load(checkpoint)))
    return path
