"""`slimfer models`."""

from slimfer.cli.common import Answer, Common, table
from slimfer.cli.resolve import zoo
from slimfer.report.numbers import count, size


def models(*, common: Common = Common()) -> Answer:
    """List the networks to train, with what they cost for one gray picture of 48 pixels.

    Args:
        common: see `Common`.
    """
    networks = [{"name": name, **cost} for name, cost in zoo().items()]
    rows = [
        (one["name"], count(one["params"]), count(one["macs"]), count(one["activations"]), size(one["bytes"]))
        for one in networks
    ]
    columns = ("network", "parameters", "MACs", "activations", "fp32 size")
    hint = f"slimfer train --model {networks[0]['name']} --data synthetic --out runs/first"
    return Answer({"image": 48, "channels": 1, "classes": 7, "networks": networks}, (table(columns, rows),), hint)
