"""Layers of integers, imitated in float: what quantizers and rounded layers compute, and how they learn.

A quantized value is `scale * (q - zero_point)` with an integer q. Activations: one scale per tensor, q in
0..2^bits - 1 (asymmetric). Weights: one scale per output channel, zero point 0, q in +-(2^(bits-1) - 1). Rounding is to
nearest even, as in ONNX (Jacob et al. 2018, arXiv 1712.05877, section 2; Nagel et al. 2021, arXiv 2106.08295, sections
2 and 3). Where these layers stand in a network: `slimfer.model.placing`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimfer.errors import InputError
from slimfer.model.rounding import (
    ActivationRule,
    WeightRule,
    before_dorefa,
    dorefa_weight,
    round_activation,
    round_weight,
    scale_gradient,
)

BITS = range(2, 9)
TINY = torch.finfo(torch.float32).tiny
# Stored by number.
WEIGHT_RULES: tuple[WeightRule, ...] = ("fixed", "ste", "lsq", "dorefa")
ACTIVATION_RULES: tuple[ActivationRule, ...] = ("fixed", "lsq", "pact")


class ActivationQuantizer(nn.Module):
    """Round a tensor to 2^bits levels; passes gradients inside the range and stops them outside.

    Buffers: `scale` () float32 and `zero_point` () int32, NaN and 0 until `set_range`; `activation_bits` () uint8.
    After `learn`, `scale` is a parameter whose absolute value counts, and `rule` () uint8 says how it learns.
    """

    scale: Tensor
    zero_point: Tensor
    activation_bits: Tensor

    def __init__(self, bits: int = 8) -> None:
        """Make a quantizer without a range; `bits` in 2..8."""
        super().__init__()
        self.register_buffer("scale", torch.tensor(torch.nan))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("activation_bits", torch.tensor(checked_bits(bits), dtype=torch.uint8))
        self._rule: ActivationRule = "fixed"

    @property
    def bits(self) -> int:
        """Return the number of bits of an integer."""
        return int(self.activation_bits)

    @property
    def levels(self) -> int:
        """Return the largest integer; the smallest is 0."""
        return int(2**self.bits - 1)

    def set_range(self, low: float, high: float) -> None:
        """Cover [low, high], extended to contain 0, which must be exact (padding is 0)."""
        scale, zero_point = affine(low, high, self.levels)
        self.set(scale, zero_point)

    def set(self, scale: float, zero_point: int) -> None:
        """Take these numbers."""
        self.scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def set_bits(self, bits: int) -> None:
        """Use `bits` in 2..8; a range has to be set afterwards."""
        self.activation_bits.fill_(checked_bits(bits))

    def learn(self, rule: ActivationRule) -> None:
        """Make the scale a parameter that learns by `rule`; the zero point stays."""
        if rule != "fixed":
            self.register_buffer("rule", torch.tensor(ACTIVATION_RULES.index(rule), dtype=torch.uint8))
            _replace_tensor(self, "scale", nn.Parameter(self.scale))
        self._rule = rule

    def settle(self) -> None:
        """Undo `learn`; the scale stays what it has become."""
        if self._rule != "fixed":
            _replace_tensor(self, "scale", positive(self.scale).detach())
            del self.rule
        self._rule = "fixed"

    def forward(self, x: Tensor) -> Tensor:
        """Return x on the grid, same shape."""
        return round_activation(x, positive(self.scale), int(self.zero_point), self.levels, self._rule)


def affine(low: float, high: float, levels: int = 255) -> tuple[float, int]:
    """Return (scale, zero point) of 0..levels over [min(low, 0), max(high, 0)]; scale 1 for an empty range."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(torch.tensor((high - low) / levels))  # as float32
    if scale < TINY:
        return 1.0, 0
    return scale, min(max(round(-low / scale), 0), levels)


def checked_bits(bits: int) -> int:
    """Return `bits` if it is a number of bits that integers here may have.

    Raises:
        InputError: if it is not.
    """
    if bits not in BITS:
        raise InputError(f"bits must be between {BITS.start} and {BITS.stop - 1}, not {bits}")
    return bits


class QuantizedWeight(nn.Module):
    """What both kinds of layers add to their weight.

    Buffers: `weight_scale` (out,) float32, NaN until `freeze`; `weight_bits` () uint8. After `learn`, also `rule` ()
    uint8: how the weight is rounded while it learns. With `lsq`, `weight_scale` is a parameter whose absolute value
    counts; with `ste`, `weight_share` (out,) is what `weight_scale` was to the scale of the largest weight, and stays.

    Where no gradients are wanted, a layer that knows the quantizer it `reads` computes as an integer runtime does: with
    integers, which float32 holds exactly, and one multiplication behind them, also under autocast. Computing with the
    values that the integers stand for is off by as little as float32 rounds, but some values then round the other way,
    and layer by layer more of them. Measured between this and onnxruntime, slimmed ResNet-18, weights of 4 and 2 bits,
    activations of 4: 36 and 32 dB with values, 137 dB with integers.
    """

    weight: Tensor
    bias: Any  # a parameter; torch declares it differently in its two layers
    weight_scale: Tensor
    weight_bits: Tensor

    weight_share: Tensor

    def take(self, weight: Tensor, bias: Tensor | None, bits: int) -> None:
        """Use these parameters (a missing bias becomes zeros) and `bits` in 2..8."""
        self.weight = nn.Parameter(weight)  # folding leaves biases that do not learn
        self.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias)
        self.register_buffer("weight_scale", weight.new_full((len(weight),), torch.nan))
        self.register_buffer("weight_bits", torch.tensor(checked_bits(bits), dtype=torch.uint8, device=weight.device))
        self._rule: WeightRule = "fixed"
        self._source: tuple[ActivationQuantizer, ...] = ()

    def reads(self, quantizer: ActivationQuantizer) -> None:
        """Take note of the quantizer whose values are the input of every call."""
        self._source = (quantizer,)  # in a tuple, so that it does not become a part of this layer

    def set_bits(self, bits: int) -> None:
        """Use `bits` in 2..8; scales have to be frozen afterwards."""
        self.weight_bits.fill_(checked_bits(bits))

    @property
    def weight_max(self) -> int:
        """Return the largest integer of a weight."""
        return 2 ** (int(self.weight_bits) - 1) - 1

    def freeze(self, input_scale: float, scale: Tensor | None = None) -> None:
        """Fix the scales (out,): by default the largest weight of each channel becomes the largest integer.

        The bias is stored as int32 in units of input scale times weight scale, so a channel of (nearly) zero weights
        gets a scale large enough for its bias to fit.
        """
        with torch.no_grad():
            scale = self._largest() if scale is None else scale
            fits = self.bias.abs() / (input_scale * 2**30)
            scale = torch.maximum(scale, fits)
            self.weight_scale.copy_(torch.where(scale < TINY, 1.0, scale))

    def learn(self, rule: WeightRule) -> None:
        """Let the weight learn by `rule`, from the scales and the integers that are frozen now."""
        self.register_buffer("rule", torch.tensor(WEIGHT_RULES.index(rule), dtype=torch.uint8))
        if rule == "ste":
            # Channels of (nearly) zero weights have scales for their biases' sake.
            share = self.weight_scale / self._largest().clamp_min(TINY)
            self.register_buffer("weight_share", torch.where(share < 2, share, 1.0))
        elif rule == "lsq":
            _replace_tensor(self, "weight_scale", nn.Parameter(self.weight_scale))
        elif rule == "dorefa":
            with torch.no_grad():
                self.weight.copy_(before_dorefa(self.weight, self.weight_scale, self.weight_max))
        self._rule = rule

    def settle(self, input_scale: float) -> None:
        """Undo `learn`; weight and scales stay what they have become, both and the bias on their grids."""
        weight, scale = self.rounded_weight().detach(), self.scales().detach()
        with torch.no_grad():
            self.weight.copy_(weight)
        _replace_tensor(self, "weight_scale", scale)
        for name in ("rule", "weight_share"):
            if hasattr(self, name):
                delattr(self, name)
        self._rule = "fixed"
        self.freeze(input_scale, scale)
        self.round_bias(input_scale)

    def _largest(self) -> Tensor:
        """Return the scales that make each channel's largest weight the largest integer."""
        return self.weight.detach().abs().flatten(1).amax(1) / self.weight_max

    def scales(self) -> Tensor:
        """Return the scales (out,) as they are now."""
        return positive(self._largest() * self.weight_share if self._rule == "ste" else self.weight_scale)

    def rounded_weight(self) -> Tensor:
        """Return the weight on its grid, with the gradients of the rule; straight-through if there is none."""
        limit, scale = self.weight_max, self.scales()
        if self._rule == "dorefa":
            return dorefa_weight(self.weight, scale, limit)
        if self._rule == "lsq":
            count = self.weight[0].numel()
            return round_weight(self.weight, scale_gradient(scale, 1 / (count * limit) ** 0.5), limit)
        # The largest weight lies on the edge and must not get stuck there.
        return round_weight(self.weight, scale, limit, margin=0.4)

    def integer_weight(self) -> Tensor:
        """Return the weight as int8, same shape."""
        scale = self.scales().view(-1, *(1,) * (self.weight.dim() - 1))
        return torch.round(self.rounded_weight().detach() / scale).to(torch.int8)

    def integer_bias(self, input_scale: float | Tensor) -> Tensor:
        """Return the bias as int32 in units of input scale times weight scale."""
        return torch.round(self.bias.detach().double() / (self.scales().detach().double() * input_scale)).to(
            torch.int32
        )

    def round_bias(self, input_scale: float) -> None:
        """Put the bias on the grid of `integer_bias`."""
        with torch.no_grad():
            self.bias.copy_(self.integer_bias(input_scale) * (self.weight_scale.double() * input_scale))

    def _compute(self, x: Tensor, operate: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Return `operate(x, weight, bias)` with the rounded weight."""
        if torch.is_grad_enabled():
            return operate(x, self.rounded_weight(), self.bias)
        with torch.autocast(x.device.type, enabled=False):
            if not self._source:
                return operate(x, self.rounded_weight(), self.bias)
            scale = positive(self._source[0].scale)
            integers = torch.round(x / scale)
            weight, bias = self.integer_weight(), self.integer_bias(scale)
            sums = operate(integers, weight.to(integers.dtype), bias.to(integers.dtype))
            return sums * (self.scales() * scale).view(-1, *(1,) * (x.dim() - 2))


class QuantConv2d(QuantizedWeight, nn.Conv2d):
    """A convolution with a rounded weight."""

    @classmethod
    def of(cls, conv: nn.Conv2d, bits: int = 8) -> "QuantConv2d":
        """Return the quantized form of `conv`; it shares the parameters."""
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,  # type: ignore[arg-type]
            conv.dilation, conv.groups, padding_mode=conv.padding_mode, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        layer.take(conv.weight, conv.bias, bits)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        return self._compute(x, self._conv_forward)

    def float_forward(self, x: Tensor) -> Tensor:
        """Compute with the weight that is not rounded."""
        return self._conv_forward(x, self.weight, self.bias)


class QuantLinear(QuantizedWeight, nn.Linear):
    """A linear layer with a rounded weight."""

    @classmethod
    def of(cls, linear: nn.Linear, bits: int = 8) -> "QuantLinear":
        """Return the quantized form of `linear`; it shares the parameters."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.take(linear.weight, linear.bias, bits)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        return self._compute(x, F.linear)

    def float_forward(self, x: Tensor) -> Tensor:
        """Compute with the weight that is not rounded."""
        return F.linear(x, self.weight, self.bias)


def positive(scale: Tensor) -> Tensor:
    """Return what a learned scale stands for; a step of the optimizer may carry it across 0."""
    return scale.abs().clamp_min(TINY)


def _replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a parameter where a buffer was, or the other way round."""
    delattr(module, name)
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
