import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from slimfer.compress.config import CompressConfig
from slimfer.errors import InputError
from slimfer.recipes import Recipe, parse_recipe, read_recipe

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("data", "model", "search", "steps", *(field.name for field in fields(CompressConfig)))


def test_an_empty_recipe_is_the_defaults() -> None:
    assert parse_recipe({}) == Recipe()


def test_what_a_table_leaves_out_keeps_its_own_default() -> None:
    recipe = parse_recipe({"finetune": {"epochs": 3}})
    assert recipe.finetune == replace(Recipe().finetune, epochs=3)
    assert recipe.finetune.lr != Recipe().train.lr


def test_nested_tables_and_builder_arguments() -> None:
    recipe = parse_recipe(
        {"train": {"augment": {"mixup": 0.2}}, "slim": {"limits": {"round_to": 4}}, "model": {"args": {"width": 0.5}}}
    )
    assert recipe.train.augment == replace(Recipe().train.augment, mixup=0.2)
    assert recipe.slim.limits.round_to == 4
    assert recipe.model.args == {"width": 0.5}


def test_defaults_can_be_given() -> None:
    defaults = replace(Recipe(), slim=replace(Recipe().slim, penalty=0.0))
    assert parse_recipe({"slim": {"ratio": 0.3}}, defaults).slim.penalty == 0.0


@given(
    epochs=st.integers(1, 500),
    lr=st.floats(1e-6, 10, allow_nan=False),
    penalty=st.floats(0, 0.5, allow_nan=False),
    width=st.one_of(st.floats(0.1, 2), st.integers(1, 4)),
    flip=st.booleans(),
    source=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20),
)
def test_what_is_written_reads_back(
    epochs: int, lr: float, penalty: float, width: float, flip: bool, source: str
) -> None:
    plain = Recipe()
    recipe = replace(
        plain,
        data=replace(plain.data, source=source),
        model=replace(plain.model, builder="mobile", args={"width": width}),
        train=replace(plain.train, epochs=epochs, lr=lr, augment=replace(plain.train.augment, flip=flip)),
        slim=replace(plain.slim, penalty=penalty),
    )
    values = {name: _lists(table) for name, table in recipe.tables(*TABLES).items()}
    assert parse_recipe(tomllib.loads(tomli_w.dumps(values))) == recipe


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"trian": {}}, "unknown table [trian]; did you mean 'train'?"),
        ({"zzz": {}}, "unknown table [zzz]; it may hold train, slim, prune"),
        ({"train": {"epoch": 3}}, "unknown key 'epoch' in [train]; did you mean 'epochs'?"),
        ({"train": {"augment": {"flipp": True}}}, "unknown key 'flipp' in [train.augment]; did you mean 'flip'?"),
        ({"slim": {"limits": {"round": 8}}}, "unknown key 'round' in [slim.limits]; did you mean 'round_to'?"),
        ({"train": {"lr": "fast"}}, "lr in [train] must be a number, not 'fast'"),
        ({"train": {"epochs": 1.5}}, "epochs in [train] must be a whole number, not 1.5"),
        ({"train": {"epochs": True}}, "epochs in [train] must be a whole number, not True"),
        ({"train": {"optimizer": "adam"}}, "optimizer in [train] must be one of 'sgd', 'adamw', not 'adam'"),
        ({"train": {"augment": {"flip": 1}}}, "flip in [train.augment] must be true or false, not 1"),
        ({"train": {"step_at": ["half"]}}, "step_at in [train] must be a list of numbers"),
        ({"model": {"args": 3}}, "args in [model] must be a table, not 3"),
        ({"train": 3}, "train must be a table, not 3"),
        ({"train": {"epochs": 0}}, "epochs must be between 1 and"),
        ({"prune": {"ratio": 1.0}}, "ratio must be at least 0 and below 1, not 1.0"),
        ({"prune": {"params": -1}}, "params must be at least 0, not -1"),
        ({"slim": {"ratio": 1.0}}, "ratio must be at least 0 and below 1, not 1.0"),
    ],
)
def test_mistakes_are_named(given_: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe(given_)
    assert sentence in str(caught.value)


def test_a_whole_number_is_a_number() -> None:
    assert parse_recipe({"train": {"lr": 1}}).train.lr == 1.0


@pytest.mark.parametrize("content", [b"[train\n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.toml: not readable as TOML"):
        read_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nix\.toml: no such file"):
        read_recipe(tmp_path / "nix.toml")


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[train]\nepoch = 3\n")
    with pytest.raises(InputError, match=r"r\.toml: unknown key 'epoch' in \[train\]"):
        read_recipe(path)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_of_ours_reads_and_names_a_network(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.model.builder or recipe.model.checkpoint


def test_a_chain_of_steps_each_over_its_own_table() -> None:
    recipe = parse_recipe(
        {
            "finetune": {"epochs": 7},
            "steps": [
                {"do": "slim", "ratio": 0.4, "limits": {"round_to": 4}},
                {"do": "finetune", "lr": 1, "distill": {"weight": 0.0}},
                {"do": "qat", "train": {"epochs": 2}, "weights": "ste"},
            ],
        }
    )
    slim, finetune, qat = recipe.plan(trained=True)
    assert [step.kind for step in (slim, finetune, qat)] == ["slim", "finetune", "qat"]
    assert (slim.config.slim.ratio, slim.config.slim.limits.round_to) == (0.4, 4)
    assert (finetune.config.finetune.epochs, finetune.config.finetune.lr) == (7, 1.0)
    assert (finetune.config.distill.weight, slim.config.distill.weight) == (0.0, Recipe().distill.weight)
    # `train` is a key of [qat]; the table [train] stays as it was.
    assert (qat.config.qat.train.epochs, qat.config.qat.weights) == (2, "ste")
    assert qat.config.train == Recipe().train


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"ratio": 0.5}, "step 1 does not say what to do: do = one of train, slim"),
        ({"do": "slimm"}, "unknown step 'slimm'; the steps are train, slim"),
        ({"do": "slim", "ratoi": 0.5}, "step 1 (slim): unknown key 'ratoi' in [slim]; did you mean 'ratio'?"),
        ({"do": "slim", "ratio": 2.0}, "step 1 (slim): ratio must be at least 0 and below 1, not 2.0"),
        ({"do": "finetune", "distill": 3}, "step 1 (finetune): distill must be a table, not 3"),
    ],
)
def test_a_step_that_does_not_fit_is_named(step: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe({"steps": [step]}).plan(trained=True)
    assert sentence in str(caught.value)
