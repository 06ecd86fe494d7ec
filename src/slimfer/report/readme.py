"""Write the result table of a README from results.json, so that no figure there is typed by hand.

`python -m slimfer.report.readme README.md docs/results/fer2013.json` renews what stands between the two marks.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from slimfer.errors import InputError
from slimfer.files import write_text
from slimfer.report.results import Results, load_results
from slimfer.report.tables import describe_machine, pictures, stage_table

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def readme_table(results: Results) -> str:
    """Return the Markdown that stands between the marks of the README: the table, then where it comes from."""
    data = results.data
    source = data.get("data", {})
    told = [
        f"Accuracy with its 95 % interval (Wilson) on {pictures(results)} of {source.get('source', 'the data')},"
        " single pass; MACs per picture; ratios to the first row."
    ]
    if results.last.latency_ms is not None:
        told.append("Latency and throughput on one thread, all rows in one interleaved run.")
    machine = describe_machine(data.get("machine", {}))
    if machine:
        told.append(f"Machine: {machine}.")
    if data.get("versions"):
        told.append("Versions: " + ", ".join(f"{name} {value}" for name, value in data["versions"].items()) + ".")
    if "seed" in data:
        told.append(f"Seed {data['seed']}.")
    lines = [stage_table(results).markdown(), "", " ".join(told)]
    if data.get("command"):
        lines += ["", f"Command: `{data['command']}`"]
    return "\n".join(lines)


def with_results(text: str, table: str) -> str:
    """Return `text` with what stands between the two marks replaced by `table`.

    Raises:
        InputError: if one of the marks is missing, stands twice, or they are in the wrong order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise InputError(f"the text must hold {BEGIN} and, after it, {END}, each once")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def main(arguments: Sequence[str]) -> int:
    """Renew the results in the Markdown file `arguments[0]` from the results.json `arguments[1]`."""
    if len(arguments) != 2:
        raise InputError("usage: python -m slimfer.report.readme README.md results.json")
    document, source = map(Path, arguments)
    write_text(document, with_results(document.read_text(encoding="utf-8"), readme_table(load_results(source))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
