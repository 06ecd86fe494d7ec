"""What exists is in its table, what is public says what it is, and what must never be used is not used."""

import ast
import re
from pathlib import Path

import pytest

import slimfer
from slimfer.cli.app import VERBS
from slimfer.cli.resolve import zoo
from slimfer.model.complexity import complexity
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import MODELS, build
from test_layers import MODULES, SOURCE, name_of

# Modules of cli/ that hold no verb, and of model/ that hold no network.
CLI_PARTS = {
    "app", "budget", "chain", "classifier", "common", "flags", "masks", "memory", "opening", "progress",
    "record", "resolve", "search", "sinks", "start", "steps", "units",
}  # fmt: skip
MODEL_PARTS = {
    "blocks",
    "complexity",
    "fold",
    "groups",
    "mode",
    "narrow",
    "placing",
    "prefix",
    "quant",
    "rounding",
    "spec",
    "zoo",
}

FORBIDDEN = {
    "pickle": r"\b(?:c?[Pp]ickle|dill|joblib|shelve|marshal)\b(?!d|s)",
    "torch.load and torch.save": r"(?<!\.)\btorch\.(?:load|save)\(",
    "eval and exec": r"(?<![\w.])(?:eval|exec)\(",
    "the wall clock for durations": r"\btime\.time\(",
    "a shell": r"shell\s*=\s*True|\bos\.system\(",
    "yaml": r"\bimport yaml\b",
}


def test_every_network_module_is_in_the_table() -> None:
    from_table = {builder.__module__ for builder in MODELS.values()}
    files = {name_of(p) for p in (SOURCE / "model").glob("*.py") if p.stem not in MODEL_PARTS | {"__init__"}}
    assert files == from_table


def test_every_verb_module_is_registered_and_there() -> None:
    registered = {verb.target.partition(":")[0] for verb in VERBS}
    files = {name_of(p) for p in (SOURCE / "cli").glob("*.py") if p.stem not in CLI_PARTS | {"__init__"}}
    assert files == registered


@pytest.mark.parametrize("name", MODELS)
def test_the_table_of_networks_says_what_they_cost(name: str) -> None:
    """`slimfer models` works without torch, so its numbers are a file; here they are counted again."""
    cost = complexity(build(NetSpec(name)), 1, 48)
    assert not cost.uncounted
    assert zoo()[name] == {key: getattr(cost, key) for key in ("params", "macs", "activations", "bytes")}


def test_the_table_of_networks_is_complete() -> None:
    assert list(zoo()) == list(MODELS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "the module has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_forbidden_is_used(path: Path) -> None:
    code = _without_text(path.read_text())
    for what, pattern in FORBIDDEN.items():
        assert not re.search(pattern, code), f"{name_of(path)} uses {what}"


@pytest.mark.parametrize(
    "line",
    ["import pickle", "x = torch.load(path)", "y = eval(text)", "t = time.time()", "run(c, shell=True)", "import yaml"],
)
def test_the_gate_sees_what_it_forbids(line: str) -> None:
    assert any(re.search(pattern, _without_text(line)) for pattern in FORBIDDEN.values())


def test_the_gate_lets_torch_evaluate() -> None:
    assert not any(re.search(pattern, "net.eval()\ntime.monotonic()") for pattern in FORBIDDEN.values())


def _without_text(source: str) -> str:
    """Return the code alone: without comments and strings."""
    return "\n".join(ast.unparse(_Silenced().visit(ast.parse(source))).splitlines())


class _Silenced(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node


def test_the_top_level_names_are_there() -> None:
    for name in slimfer.__all__:
        assert getattr(slimfer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slimfer.nothing
