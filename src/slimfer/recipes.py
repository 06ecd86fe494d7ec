"""Recipes: TOML files, one table per config dataclass, in which an unknown key is an error that names the nearest one.

A recipe may hold any subset of the tables and of their keys; what it leaves out has the default. What a run resolved
(flags over recipe over defaults) is written to `RUN/recipe.toml` in the same form and re-runs the run.
"""

import difflib
import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from slimfer.compress.config import AnalyzeConfig, CompressConfig
from slimfer.compress.goal import SearchConfig
from slimfer.compress.plan import KINDS, PlannedStep, usual_steps
from slimfer.errors import InputError


@dataclass(frozen=True)
class DataRecipe:
    """What a run reads.

    Attributes:
        source: a dataset that `slimfer.data.loader.load` opens; empty if the command line names it.
        votes: FER+ votes beside fer2013.csv; empty for none.
    """

    source: str = ""
    votes: str = ""


@dataclass(frozen=True)
class ModelRecipe:
    """What a run starts from.

    Attributes:
        builder: a network of the zoo, or `package.module:function`; empty when `checkpoint` is given.
        checkpoint: a trained network or run folder to start from; empty for fresh weights.
        channels: 1 (gray) or 3 (RGB).
        image: height and width in pixels.
        args: keyword arguments of the builder, e.g. `{ width = 0.5 }`.
    """

    builder: str = ""
    checkpoint: str = ""
    channels: int = 1
    image: int = 48
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe(CompressConfig):
    """All tables of a recipe: those of `CompressConfig`, and what is read, what it starts from, and the chain of steps.

    Attributes:
        data: what is read.
        model: what a run starts from.
        search: the budget that `slimfer compress` searches the best network for, and how.
        steps: the chain, one table per step: `do`, a key of `slimfer.compress.plan.KINDS`, and any keys that go over
            this step's table ([slim] for `slim`, ...) or, as tables, over other tables; empty = the usual chain.
        analyze: what `slimfer analyze` tries.
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    search: SearchConfig = field(default_factory=SearchConfig)
    steps: tuple[Mapping[str, Any], ...] = ()
    analyze: AnalyzeConfig = field(default_factory=AnalyzeConfig)

    def chain(self) -> CompressConfig:
        """Return the settings of all steps."""
        return CompressConfig(**{f.name: getattr(self, f.name) for f in fields(CompressConfig)})

    def plan(self, *, trained: bool) -> tuple[PlannedStep, ...]:
        """Return the chain: that of `steps`, or the usual one; `trained` leaves out the first training of the latter.

        Raises:
            InputError: if a step is unknown or one of its keys does not fit.
        """
        if not self.steps:
            return usual_steps(self.chain(), trained=trained)
        return tuple(self._planned(number, dict(step)) for number, step in enumerate(self.steps, 1))

    def _planned(self, number: int, given: dict[str, Any]) -> PlannedStep:
        kind = given.pop("do", None)
        if not isinstance(kind, str):
            raise InputError(f"step {number} does not say what to do: do = one of {', '.join(KINDS)}")
        planned = PlannedStep(kind, self.chain())  # refuses an unknown kind
        tables = [f.name for f in fields(CompressConfig)]
        table = KINDS[kind][0]
        known = vars(getattr(self, table))
        own = {key: value for key, value in given.items() if key in known or key not in tables}
        others = {key: value for key, value in given.items() if key not in own}
        try:
            merged = parse_recipe({**others, table: {**others.get(table, {}), **own}}, self)
        except InputError as error:
            raise InputError(f"step {number} ({kind}): {error}") from None
        return replace(planned, config=merged.chain())

    def tables(self, *names: str) -> dict[str, Any]:
        """Return the named tables as plain values, for `recipe.toml`."""
        values = asdict(self)
        return {name: values[name] for name in names}


def read_recipe(path: Path | str, defaults: Recipe | None = None) -> Recipe:
    """Read a recipe; what it leaves out comes from `defaults`.

    Raises:
        InputError: if the file is missing or no TOML, or a key is unknown, or a value has the wrong type or range;
            the sentence names the file and the key.
    """
    try:
        with open(path, "rb") as stream:
            given = tomllib.load(stream)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from None
    try:
        return parse_recipe(given, defaults)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_recipe(given: Mapping[str, Any], defaults: Recipe | None = None) -> Recipe:
    """Turn the tables of a recipe into configs; see `read_recipe`.

    Raises:
        InputError: as `read_recipe`, without the file's name.
    """
    values = _merged(defaults or Recipe(), given, "")
    dacite: Any = importlib.import_module("dacite")  # comes with the training side; --help has to do without
    settings = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _as_float})
    try:
        return dacite.from_dict(Recipe, values, settings)
    except dacite.WrongTypeError as error:
        where, _, key = (error.field_path or "").rpartition(".")
        raise InputError(_must_be(key, where, error.field_type, error.value)) from None


def _merged(defaults: Any, given: Any, where: str) -> dict[str, Any]:
    """Return the values of the dataclass `defaults` with those of the table `given` over them."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where} must be a table, not {given!r}")
    names = [f.name for f in fields(defaults)]
    if unknown := [key for key in given if key not in names]:
        raise InputError(_unknown_key(unknown[0], names, where))
    merged = {}
    for name in names:
        default = getattr(defaults, name)
        value = given.get(name, default)
        if is_dataclass(default):
            merged[name] = _merged(default, given.get(name, {}), f"{where}.{name}".lstrip("."))
            continue
        if isinstance(value, bool) and not isinstance(default, bool):  # to Python, true is the number 1
            raise InputError(_must_be(name, where, type(default), value))
        merged[name] = value
    return merged


def _unknown_key(key: str, names: list[str], where: str) -> str:
    kind = f"key {key!r} in [{where}]" if where else f"table [{key}]"
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"unknown {kind}; " + (f"did you mean {near[0]!r}?" if near else f"it may hold {', '.join(names)}")


def _as_float(value: Any) -> Any:
    """TOML tells 1 from 1.0, people do not."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _must_be(key: str, where: str, kind: Any, value: Any) -> str:
    return f"{key} in [{where}] must be {_in_words(kind)}, not {value!r}"


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        return "a list of numbers"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, "a table")
