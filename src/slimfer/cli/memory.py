"""How much memory a model needs: opened and run once in a process of its own."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from slimfer.cli.classifier import RuntimeName, open_classifier
from slimfer.cli.common import Common


def peak_megabytes(text: str, common: Common, runtime: RuntimeName) -> float | None:
    """Return the peak resident memory, MB, of a fresh process that opens MODEL and answers one picture.

    None where the system does not tell (it is read from Linux's /proc/self/status).
    """
    if not Path("/proc/self/status").exists():
        return None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, text, common, runtime).result()


def _measure(text: str, common: Common, runtime: RuntimeName) -> float:
    import numpy as np

    classifier = open_classifier(text, common, trained=False, runtime=runtime)
    classifier.run(np.zeros((1, classifier.channels, classifier.image, classifier.image), np.uint8))
    # Not getrusage: a child's ru_maxrss starts at what its parent used.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0
