import pytest

from slimfer.labels import ALIASES, EMOTIONS, canonical


def test_the_order_is_that_of_fer2013():
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.mark.parametrize("name", [*EMOTIONS, *ALIASES])
def test_every_spelling_ends_at_a_standard_one(name):
    assert canonical(name) in EMOTIONS
    assert canonical(f" {name.title()} ") == canonical(name) == canonical(canonical(name))


def test_unknown_names_come_back_lower_case():
    assert canonical("Contempt") == "contempt"
