"""A process that feeds damaged inputs to one reader, within limits of memory and time.

    python -m fuzz.child TARGET SEED --inputs 1000 [--seconds 60] [--first 0] [--plant FAULT]

It stops with exit code 1 and one line of JSON at the first input that a reader does not answer as it must: with a value
or a SlimferError, within a second of processor time, within 512 MB more than it has after the first whole input. A
crash of the process shows itself. The progress file tells which input it was.
"""

import argparse
import faulthandler
import json
import mmap
import os
import re
import resource
import struct
import sys
import time
import traceback
import warnings
from pathlib import Path

from fuzz.mutate import mutate
from fuzz.targets import FAULTS, TARGETS, Target, plant

MEMORY = 512 << 20
SECONDS = 1.0  # of the processor, for one input
PATIENCE = 30.0  # seconds on the wall after which an input hangs; other work may have the processor


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seed")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--progress", type=Path)
    parser.add_argument("--patience", type=float, default=PATIENCE)
    parser.add_argument("--plant", choices=FAULTS)
    options = parser.parse_args()
    faulthandler.enable()
    warnings.simplefilter("ignore")
    target = TARGETS[options.target]()
    for sample in target.samples:
        target.read(sample)
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if options.plant:
        target = plant(target, options.plant)
    done, failure = _run(target, options)
    sys.stdout.write(json.dumps({"inputs": done, "failure": failure}) + "\n")
    return 1 if failure else 0


def _run(target: Target, options: argparse.Namespace) -> tuple[int, dict[str, object] | None]:
    progress = _counter(options.progress) if options.progress else None
    begun = time.monotonic()
    index = options.first
    while index < options.first + options.inputs and time.monotonic() - begun < options.seconds:
        if progress:
            struct.pack_into("<q", progress, 0, index)
        if trouble := _one(target, mutate(target.samples, options.seed, index), options.patience):
            return index - options.first, {"input": index, **trouble}
        index += 1
    return index - options.first, None


def _one(target: Target, data: bytes, patience: float) -> dict[str, object] | None:
    """Return what is wrong with the answer to one input, or None."""
    faulthandler.dump_traceback_later(patience, exit=True)
    start = time.process_time()
    try:
        target.read(data)
    except target.allowed:
        pass
    except BaseException:
        return {"what": traceback.format_exc()}
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - start
    return {"what": f"{seconds:.2f} s"} if seconds > SECONDS else None


def _address_space() -> int:
    found = re.search(r"VmSize:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def _counter(path: Path) -> mmap.mmap:
    """Return shared memory that outlives a crash."""
    path.write_bytes(bytes(8))
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, 8)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
