import pytest

from slimfer.compress.config import DistillConfig, Limits, SlimConfig
from slimfer.errors import InputError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(min_channels=0), "min_channels must be at least 1, not 0"),
        (lambda: Limits(max_layer_ratio=0), "max_layer_ratio must be above 0 and at most 1, not 0"),
        (lambda: Limits(round_to=0), "round_to must be at least 1, not 0"),
        (lambda: SlimConfig(ratio=1.0), "ratio must be at least 0 and below 1, not 1.0"),
        (lambda: SlimConfig(penalty=-1), "penalty must be at least 0 and below 1, not -1"),
        (lambda: SlimConfig(passes=0), "passes must be between 1 and 20, not 0"),
        (lambda: DistillConfig(weight=1.5), "distill weight must be between 0 and 1, not 1.5"),
        (lambda: DistillConfig(temperature=0), "temperature must be above 0 and at most 100, not 0"),
    ],
)
def test_values_outside_their_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_passes_together_keep_what_one_pass_would():
    single = SlimConfig(ratio=0.875, passes=3).one_pass()
    assert (1 - single.ratio) ** 3 == pytest.approx(1 - 0.875)
    assert single.passes == 1
