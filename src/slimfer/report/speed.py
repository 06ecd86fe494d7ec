"""How fast each stage answers on the machine of the run, against the float network, also in the same runtime."""

from slimfer.report.numbers import MISSING, compared, milliseconds, times, whole
from slimfer.report.results import Results, Stage, speed_ratio
from slimfer.report.tables import Table, describe_machine


def runtime_control(results: Results, stage: Stage) -> Stage | None:
    """Return the float network that was timed in the stage's own runtime; None if it was not.

    A runtime is faster than another by itself. Against this control only what compression brought is counted.
    """
    first = results.first
    same = ("params", "macs", "bytes")  # all rows of one network have the same file
    for control in results.stages:
        alike = all(getattr(control, name) == getattr(first, name) for name in same)
        if alike and control.runtime == stage.runtime and control.median_ms:
            return control
    return None


def runtime_ratio(results: Results, stage: Stage) -> float | None:
    """Return how many times faster the stage is than the float network in the same runtime."""
    control = runtime_control(results, stage)
    if control is None or not control.median_ms or not stage.median_ms:
        return None
    return control.median_ms / stage.median_ms


def speed_told(results: Results) -> str:
    """Return what the last stage needs for one picture, against the float network, in sentences."""
    last, first = results.last, results.first
    told = f"{last.title} answers one picture in {milliseconds(last.median_ms)} ms"
    against = []
    inside, outside = runtime_ratio(results, last), speed_ratio(results, last)
    if inside is not None and runtime_control(results, last) is not first:
        against.append(
            f"{compared(inside, 'faster', 'slower')} than the float network in the same runtime ({last.runtime})"
        )
    if outside is not None:
        against.append(f"{compared(outside, 'faster', 'slower')} than {first.title}")
    machine = describe_machine(results.data.get("machine", {}))
    where = f" on {machine}" if machine else ""
    return (
        f"{': '.join([told, ', '.join(against)]) if against else told}. Medians of one interleaved run of all stages on"
        f" one thread{where}; another machine has other times and other ratios."
    )


def speed_table(results: Results) -> Table | None:
    """Return the times of every stage; None unless at least two were timed."""
    timed = [stage for stage in results.stages if stage.median_ms]
    if len(timed) < 2:
        return None
    header = ("stage", "runtime", "median ms", "p95 ms", "best ms", "pictures/s", "faster", "in its runtime")
    rows = []
    for stage in timed:
        latency = stage.latency_ms or {}
        rows.append(
            (
                stage.title,
                stage.runtime or MISSING,
                *(milliseconds(latency[name]) for name in ("median", "p95", "best")),
                whole(stage.throughput),
                times(speed_ratio(results, stage)),
                times(runtime_ratio(results, stage)),
            )
        )
    return Table(header, tuple(rows), (False, False, *(True,) * 6))
