import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimfer.errors import InputError
from slimfer.model.spec import NetSpec

names = st.text("abc.019", min_size=1, max_size=8)
specs = st.builds(
    NetSpec,
    st.sampled_from(["resnet18", "mine:net"]),
    classes=st.integers(2, 1000),
    channels=st.sampled_from([1, 3]),
    image=st.integers(8, 1024),
    args=st.dictionaries(names, st.floats(0, 2) | st.integers(0, 9) | st.booleans(), max_size=3),
    widths=st.dictionaries(names, st.integers(1, 512), max_size=3),
)


@given(specs)
def test_json_round_trip_is_identity(spec):
    assert NetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@given(specs, st.dictionaries(names, st.integers(1, 512), max_size=3))
def test_with_widths_replaces_only_what_is_named(spec, widths):
    changed = spec.with_widths(widths)
    assert changed.widths == {**spec.widths, **widths}
    assert {**changed.to_dict(), "widths": 0} == {**spec.to_dict(), "widths": 0}


def test_any_mapping_will_do():
    spec = NetSpec("resnet18", args=MappingProxyType({"width": 0.5}))
    assert json.loads(json.dumps(spec.to_dict()))["args"] == {"width": 0.5}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"classes": 1}, "classes must be at least 2, not 1"),
        ({"channels": 2}, "channels must be 1 or 3, not 2"),
        ({"image": 7}, "image must be between 8 and 1024 pixels, not 7"),
        ({"widths": {"conv1": 0}}, "width of layer conv1 must be a whole number of at least 1, not 0"),
        ({"widths": {"conv1": 2.5}}, "width of layer conv1"),
    ],
)
def test_impossible_sizes_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        NetSpec("resnet18", **values)


@pytest.mark.parametrize("value", [{"builder": "vgg11", "depth": 3}, {}, {"builder": "vgg11", "classes": "7"}])
def test_unknown_missing_and_wrong_keys_are_refused(value):
    with pytest.raises(InputError, match="network spec"):
        NetSpec.from_dict(value)
