"""A network is data: the builder's name, its arguments, and the width of every layer that was cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from slimfer.errors import InputError


@dataclass(frozen=True)
class NetSpec:
    """What is needed to rebuild a network's structure; with weights it is a checkpoint.

    Attributes:
        builder: a key of `slimfer.model.zoo.MODELS`, or `package.module:function` of the user's own.
        classes: number of outputs, at least 2.
        channels: input channels, 1 (gray) or 3 (colour).
        image: height and width of the input in pixels.
        args: keyword arguments for the builder (JSON values), e.g. `{"width": 0.5}`.
        widths: output channels of the layers that were cut, by module name; empty for a full network.
    """

    builder: str
    classes: int = 7
    channels: int = 1
    image: int = 48
    args: Mapping[str, Any] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse sizes that no network can have."""
        if self.classes < 2:
            raise InputError(f"classes must be at least 2, not {self.classes}")
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 or 3, not {self.channels}")
        if not 8 <= self.image <= 1024:
            raise InputError(f"image must be between 8 and 1024 pixels, not {self.image}")
        for name, width in self.widths.items():
            if not isinstance(width, int) or width < 1:
                raise InputError(f"width of layer {name} must be a whole number of at least 1, not {width}")

    def with_widths(self, widths: Mapping[str, int]) -> "NetSpec":
        """Return the same spec with the widths of some layers replaced."""
        return replace(self, widths={**self.widths, **widths})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "args": dict(self.args), "widths": dict(self.widths)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "NetSpec":
        """Rebuild a spec from `to_dict`.

        Raises:
            InputError: if a key is unknown, missing or of the wrong kind.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise InputError(f"network spec: {error}") from None
