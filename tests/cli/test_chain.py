import pytest

from slimfer.cli.chain import parse_steps
from slimfer.cli.compress import tables_of
from slimfer.errors import InputError
from slimfer.recipes import parse_recipe


def test_a_line_is_a_chain():
    text = (
        'prune:criterion=taylor,ratio=0.5,limits.round_to=8 finetune:epochs=4 quantize:per_layer={"conv*"=3,"x"=2} qat'
    )
    steps = parse_steps(text)
    assert steps == (
        {"do": "prune", "criterion": "taylor", "ratio": 0.5, "limits": {"round_to": 8}},
        {"do": "finetune", "epochs": 4},
        {"do": "quantize", "per_layer": {"conv*": 3, "x": 2}},
        {"do": "qat"},
    )
    planned = parse_recipe({"steps": list(steps)}).plan(trained=True)
    assert planned[0].config.prune.criterion == "taylor"
    assert planned[2].config.quantize.per_layer == {"conv*": 3, "x": 2}


def test_an_empty_line_is_no_chain():
    assert parse_steps("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slim:ratio", "'ratio' in 'slim:ratio' is not KEY=VALUE"),
        ("slim:ratio=", "'ratio=' in 'slim:ratio=' is not KEY=VALUE"),
        ("slim:ratio=0.5,ratio=0.6", "cannot be read"),
        ("slim:ratio=0..5", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(InputError, match=message):
        parse_steps(text)


def test_what_is_recorded_plans_the_same_chain_and_no_more():
    recipe = parse_recipe({"steps": list(parse_steps("slim:ratio=0.4 quantize:bits=4 qat:train.epochs=2"))})
    tables = tables_of(recipe, recipe.plan(trained=True))
    assert tables.keys() == {"train", "data", "model", "slim", "quantize", "qat", "distill", "steps"}
    assert tables["train"] == {"seed": 0}
    assert parse_recipe(tables).plan(trained=True) == recipe.plan(trained=True)
