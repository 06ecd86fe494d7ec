"""The folder of one run: the same layout for every verb that writes, never overwritten by accident.

- `recipe.toml`: resolved values; re-runs the run.
- `run.json`: verb, command line, seed, commit, versions, machine, wall time, parent run.
- `log.txt`: what happened, line by line.
- `results.json`, `results.csv`, `layers.csv`, `answers.npy`, `pictures.npy`, `weights/`, `stages/`, `plots/`,
  `model.onnx`, `report.html`, `README.md`: the verbs'.
"""

import csv
import fcntl
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimfer.errors import InputError
from slimfer.files import atomic_write, read_json, sweep_stale, write_json, write_text
from slimfer.toml import to_toml
from slimfer.version import VERSION

# What --force may remove. Anything else in the folder is the user's own and stays.
OURS = (
    "recipe.toml",
    "run.json",
    "log.txt",
    "results.json",
    "results.csv",
    "layers.csv",
    "answers.npy",
    "pictures.npy",
    "weights",
    "stages",
    "sweep",
    "search",
    "pareto",
    "found.toml",
    "bits.toml",
    "plots",
    "events",
    "model.onnx",
    "report.html",
    "README.md",
)

# What a run that has done nothing yet consists of.
RECORDS = {"run.json", "recipe.toml", "log.txt"}

PACKAGES = ("torch", "numpy", "onnxruntime", "onnx", "safetensors", "pillow")


@dataclass(frozen=True)
class RunFolder:
    """A run folder that this process holds alone; made by `open_run`.

    Attributes:
        path: the folder.
        record: what run.json says.
        begun: when this process opened it, on the monotonic clock.
    """

    path: Path
    record: Mapping[str, Any]
    begun: float

    @property
    def wall_seconds(self) -> float:
        """Return how long the run took until now, with what it took before it was resumed."""
        return round(float(self.record["wall_seconds"]) + time.monotonic() - self.begun, 3)

    def log(self, line: str) -> None:
        """Append one line to log.txt."""
        with open(self.path / "log.txt", "a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def write_recipe(self, recipe: Mapping[str, Any]) -> None:
        """Write the resolved values as TOML."""
        write_text(self.path / "recipe.toml", to_toml(recipe))

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json."""
        write_json(self.path / "results.json", results)


@contextmanager
def open_run(
    path: Path | str,
    *,
    verb: str,
    argv: Sequence[str],
    seed: int,
    resume: bool = False,
    force: bool = False,
    parent: str | None = None,
) -> Iterator[RunFolder]:
    """Open `path` as the folder of a run, hold it for this process, and record the run in run.json.

    Args:
        path: new or empty, unless `resume` or `force` says otherwise.
        verb: what runs, e.g. `train`.
        argv: the whole command line.
        seed: recorded.
        resume: go on in the folder of an earlier run of the same verb; a new folder is fine too.
        force: remove what an earlier run wrote (only files of ours), then start afresh.
        parent: the run or model that this run starts from.

    Raises:
        InputError: if the folder is not empty, not a run's, or another process is writing to it.
    """
    path = Path(path)
    if resume and force:
        raise InputError("--resume goes on with a run and --force starts it afresh; give one of them")
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder")
    path.mkdir(parents=True, exist_ok=True)
    with _held(path):
        fresh = force or not any(path.iterdir())
        sweep_stale(path)
        if force:
            _clear(path)
        record = _new_record(verb, argv, seed, parent) if fresh else _earlier(path, verb, resume)
        write_json(path / "run.json", record)
        run = RunFolder(path, record, time.monotonic())
        recipe = (path / "recipe.toml").read_bytes() if not fresh and (path / "recipe.toml").exists() else None
        try:
            yield run
        except InputError:
            if recipe is not None:  # other settings were refused, so the run must still be the one that it was
                atomic_write(path / "recipe.toml", recipe)
            if fresh and {entry.name for entry in path.iterdir()} <= RECORDS:
                _clear(path)  # nothing was done yet, so the same command, corrected, must not find the folder taken
            raise
        finally:
            if (path / "run.json").exists():
                write_json(path / "run.json", {**record, "wall_seconds": run.wall_seconds})


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock the folder itself: the kernel lets go when the process dies, so no stale lock file can remain."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: another process is writing this run") from None
    else:
        yield
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    for name in OURS:
        target = path / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _new_record(verb: str, argv: Sequence[str], seed: int, parent: str | None) -> dict[str, Any]:
    return {
        "verb": verb,
        "argv": list(argv),
        "seed": seed,
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "parent": parent,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": 0,
        "wall_seconds": 0.0,
    }


def _earlier(path: Path, verb: str, resume: bool) -> dict[str, Any]:
    """Return the record of the run that is resumed."""
    if not resume:
        raise InputError(f"{path} is not empty; --resume goes on with the run in it, --force starts it afresh")
    if not (path / "run.json").is_file():
        raise InputError(f"{path} is not empty and has no run.json, so there is no run to resume")
    record: dict[str, Any] = read_json(path / "run.json")
    if record["verb"] != verb:
        raise InputError(f"{path} is a run of {record['verb']!r}, which {verb!r} cannot resume")
    return {**record, "resumed": record["resumed"] + 1}


def read_curve(folder: Path | str) -> list[dict[str, float]]:
    """Return the rows of the results.csv of a training, one per epoch; none if there is no such file."""
    path = Path(folder) / "results.csv"
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]


def versions() -> dict[str, str]:
    """Return the versions of slimfer, Python and the packages that decide results, without importing any."""
    found = {"slimfer": VERSION, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what decides speed: processor, cores that this process may use, integer and bf16 instructions, system."""
    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16"}),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's block of Linux's /proc/cpuinfo; empty elsewhere."""
    try:
        block = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def commit() -> str | None:
    """Return the git commit of slimfer's own source, with `-dirty` if it was changed; None outside a checkout."""
    here = Path(__file__).resolve()
    git = ("git", "-C", str(here.parent))
    try:
        # A slimfer installed inside somebody else's repository must not report that repository's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], capture_output=True, check=True, timeout=5)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(described, capture_output=True, check=True, timeout=5, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
