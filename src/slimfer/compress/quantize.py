"""Static quantization after training: calibrate, freeze, correct.

Calibration runs training pictures through the float network and notes what each quantizer would see; `RANGES` turns
that into a range. Freezing fixes all scales. Then layers are corrected: quantization shifts the mean of each channel's
outputs, and the shift is measured on the calibration pictures and taken off the bias, layer by layer, each with all
earlier ones already quantized and corrected (Nagel et al. 2019, arXiv 1906.04721, section 4.2, in its empirical form).

With few bits it also shrinks signals: rounding with the least squared error is a projection, and no batch normalization
behind it makes up for the loss, which multiplies from layer to layer. So each channel's gain is measured and corrected
like its mean; the papers do not have this. On the slimmed ResNet-18 for FER2013 (67.97 % in float), weights of 2 bits
keep 64.5 % with it and 13.8 % without; with 3 bits 67.6 and 40.0, with 4 bits 24 and 11 dB.

Other departures: ranges are searched on a sample of each tensor's values, not on a histogram. The default is
the full range: on a ResNet-18 for FER2013 it keeps 36.9 dB of the logits, the least-squares range 31.1 and the
percentile 21.3 (898 validation faces, 512 for calibration); on small nets for synthetic faces the three are closer.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from slimfer.compress.config import QuantizeConfig
from slimfer.compress.equalize import equalize
from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.model.placing import place, quant_layers
from slimfer.model.quant import ActivationQuantizer, QuantConv2d, QuantLinear, affine
from slimfer.preprocess import normalize
from slimfer.train.checkpoint import Checkpoint

MIN_IMAGES = 16
SAMPLE = 16_384  # values kept per tensor and batch
CORRECTION_IMAGES = 256
LARGEST_GAIN = 2.0  # a channel that needs more has lost its signal
# Shares of the full range that the searches try.
SHRINK = tuple(1 - 0.02 * step for step in range(40))
WEIGHT_SHARES = tuple(1 - 0.02 * step for step in range(46))
SEARCH_BELOW = 8  # bits


@dataclass
class Observed:
    """What a quantizer has seen: exact extremes and a sample of the values."""

    low: float = 0.0
    high: float = 0.0
    sample: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, generator: torch.Generator) -> None:
        """Note the values of one batch."""
        self.low = min(self.low, float(x.min()))
        self.high = max(self.high, float(x.max()))
        flat = x.flatten()
        chosen = flat if len(flat) <= SAMPLE else flat[torch.randint(len(flat), (SAMPLE,), generator=generator)]
        self.sample.append(chosen.clone())


def min_max(observed: Observed, levels: int = 255) -> tuple[float, float]:
    """Return the extremes."""
    return observed.low, observed.high


def percentile(observed: Observed, levels: int = 255, share: float = 0.9999) -> tuple[float, float]:
    """Return the range without the outermost 0.01 % of values on each side."""
    ordered = torch.cat(observed.sample).sort().values
    last = len(ordered) - 1
    return float(ordered[round((1 - share) * last)]), float(ordered[round(share * last)])


def mse(observed: Observed, levels: int = 255) -> tuple[float, float]:
    """Return the shrunken extremes that round the sample with the least squared error."""
    values = torch.cat(observed.sample)
    best, best_error = (observed.low, observed.high), float("inf")
    for shrink in SHRINK:
        low, high = observed.low * shrink, observed.high * shrink
        scale, zero_point = affine(low, high, levels)
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, levels)
        error = float((rounded - values).square().sum(dtype=torch.float64))
        if error < best_error:
            best, best_error = (low, high), error
    return best


# What was seen and the largest integer -> the range to cover.
Chooser = Callable[[Observed, int], tuple[float, float]]
RANGES: Mapping[str, Chooser] = {
    "minmax": min_max,
    "percentile": percentile,
    "mse": mse,
}


def quantize(
    checkpoint: Checkpoint,
    calibration: Frames,
    config: QuantizeConfig | None = None,
    *,
    seed: int = 0,
    batch_size: int = 128,
) -> Checkpoint:
    """Return the quantized network: folded weights, frozen scales.

    Args:
        checkpoint: a float network.
        calibration: training pictures; a random part of them is used.
        config: bits, ranges and corrections; 8 bits by default.
        seed: of the choice of pictures and of the sample.
        batch_size: pictures at a time.

    Raises:
        InputError: if the network is quantized already, or there are too few pictures.
    """
    config = config or QuantizeConfig()
    if checkpoint.quant:
        raise InputError("the network is quantized already; quantize the float network it came from")
    if min(config.images, len(calibration)) < MIN_IMAGES:
        count = min(config.images, len(calibration))
        raise InputError(f"calibration needs at least {MIN_IMAGES} pictures, not {count}")
    graph = place(checkpoint.build())
    assign_bits(graph, config)
    if config.equalize:
        equalize(graph)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(calibration))[: config.images])
    frames = calibration.take(chosen)
    with torch.no_grad():
        calibrate(graph, frames, RANGES[config.ranges], batch_size=batch_size, seed=seed)
        freeze(graph)
        if config.correct_bias or config.correct_gain:
            some = np.random.default_rng(seed).permutation(len(frames))[:CORRECTION_IMAGES]
            x = to_tensor(frames.take(np.sort(some)))
            correct(graph, x, shifts=config.correct_bias, gains=config.correct_gain)
        for layer in quant_layers(graph):
            layer.module.round_bias(float(layer.source.scale))
    record = asdict(replace(config, images=len(frames)))
    return checkpoint.after("quantize", graph, **record, seed=seed)


def assign_bits(graph: fx.GraphModule, config: QuantizeConfig) -> None:
    """Give every layer and quantizer its bits.

    The first and the last layer, and what the last one reads, have `config.ends` bits; the pixels that the first one
    reads are integers of 8 bits already. `config.per_layer` goes over both.

    Raises:
        InputError: if a pattern of `per_layer` matches no layer.
    """
    layers = list(quant_layers(graph))
    if not layers:
        raise InputError("the network has no convolution or linear layer to quantize")
    names = {layer.target: layer for layer in layers}
    for pattern in config.per_layer:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(list(names)[:5])
            raise InputError(f"per_layer: no layer is called {pattern!r} (there are {some}, ...)")
    pixels, ends = layers[0].source, (layers[0].module, layers[-1].module)
    for module in graph.modules():
        if isinstance(module, ActivationQuantizer) and module is not pixels:
            module.set_bits(config.ends if module is layers[-1].source else config.activations)
    for name, layer in names.items():
        usual = config.ends if layer.module in ends else config.bits
        layer.module.set_bits(
            next((bits for pattern, bits in config.per_layer.items() if fnmatchcase(name, pattern)), usual)
        )


def to_tensor(frames: Frames) -> Tensor:
    """Return the normalized pixels (N, C, H, W)."""
    return torch.from_numpy(normalize(np.ascontiguousarray(frames.images)))


def calibrate(
    graph: fx.GraphModule,
    frames: Frames,
    choose: Chooser,
    *,
    batch_size: int = 128,
    seed: int = 0,
) -> None:
    """Set the range of every quantizer but the input's from what the float network computes on `frames`."""
    observer = _Observer(graph, seed)
    for start in range(0, len(frames), batch_size):
        observer.run(to_tensor(frames.take(np.arange(start, min(start + batch_size, len(frames))))))
    for name, observed in observer.seen.items():
        quantizer = graph.get_submodule(name)
        assert isinstance(quantizer, ActivationQuantizer)
        quantizer.set_range(*choose(observed, quantizer.levels))


def freeze(graph: fx.GraphModule) -> None:
    """Fix the scales of all weights; activations must be calibrated.

    With 8 bits the largest weight of each channel becomes the largest integer; with fewer the scale is searched (see
    `least_squares_scale`).

    Raises:
        RuntimeError: if a quantizer has not been calibrated.
    """
    for layer in quant_layers(graph):
        scale = float(layer.source.scale)
        if not scale > 0:
            raise RuntimeError(f"freeze before calibrate: the input of {layer.name} has no scale")
        freeze_layer(layer.module, scale)


def freeze_layer(layer: QuantConv2d | QuantLinear, input_scale: float) -> None:
    """Fix the scales of one layer; see `freeze`."""
    few = int(layer.weight_bits) < SEARCH_BELOW
    layer.freeze(input_scale, least_squares_scale(layer.weight, layer.weight_max) if few else None)


def least_squares_scale(weight: Tensor, limit: int) -> Tensor:
    """Return the scale (out,) of each channel that rounds `weight` (out, ...) to +-limit with the least squared error.

    Tries shares of the scale that makes the largest weight the largest integer, and then fits the best of them to the
    integers that it gave: `s = <w, q> / <q, q>`.
    """
    rows = weight.detach().flatten(1)
    full = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny) / limit
    best, best_error = full, torch.full_like(full, torch.inf)
    for share in WEIGHT_SHARES:
        integers = torch.round(rows / (full * share)).clamp_(-limit, limit)
        scale = (rows * integers).sum(1, keepdim=True) / integers.square().sum(1, keepdim=True).clamp_min(1)
        error = (integers.mul_(scale) - rows).square().sum(1, keepdim=True)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return best.flatten()


@torch.no_grad()
def correct(graph: fx.GraphModule, x: Tensor, *, shifts: bool = True, gains: bool = True) -> None:
    """Give each channel of each layer the mean and the gain on `x` that it has in the float network.

    Both networks run side by side; a layer is corrected before anything behind it is computed. With f and q, a
    channel's outputs in the float and in the quantized network, the channel is multiplied by `var(f) / cov(f, q)`, so
    that q follows f with slope 1: its scale takes the factor, its integers stay. Then its bias takes the rest of
    `mean(f) - mean(q)`. Layers that are called more than once are left alone.

    Args:
        graph: calibrated and frozen.
        x: (N, C, H, W) normalized pixels.
        shifts: whether to correct means.
        gains: whether to correct gains.
    """
    calls = [str(node.target) for node in graph.graph.nodes]
    network, reference = fx.Interpreter(graph), _Float(graph)
    for run in (network, reference):
        run.env, run.args_iter = {}, iter([x])
    for node in graph.graph.nodes:
        value, expected = network.run_node(node), reference.run_node(node)
        if _is_layer(graph, node) and calls.count(str(node.target)) == 1:
            value = correct_layer(graph.get_submodule(node.target), value, expected, shifts=shifts, gains=gains)
        network.env[node], reference.env[node] = value, expected
        for used in network.user_to_last_uses.get(node, ()):
            del network.env[used], reference.env[used]


def _is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), (QuantConv2d, QuantLinear))


def correct_layer(layer: Any, value: Tensor, expected: Tensor, *, shifts: bool = True, gains: bool = True) -> Tensor:
    """Correct one layer, which computes `value` where the float one computes `expected`; return what it computes then.

    See `correct`.
    """

    def along(x: Tensor, dim: int, dims: int) -> Tensor:
        return x.view(*(-1 if axis == dim else 1 for axis in range(dims)))

    dims = [axis for axis in range(value.dim()) if axis != 1]
    bias = along(layer.bias, 1, value.dim())
    if gains:
        f, q = expected - expected.mean(dims, keepdim=True), value - value.mean(dims, keepdim=True)
        common = (f * q).mean(dims)
        gain = torch.where(common > 0, f.square().mean(dims) / common, 1.0).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
        layer.weight_scale *= gain
        layer.weight *= along(gain, 0, layer.weight.dim())
        value = (value - bias) * along(gain, 1, value.dim()) + bias
    if shifts:
        shift = (expected - value).mean(dims)
        layer.bias += shift
        value = value + along(shift, 1, value.dim())
    return value


class _Float(fx.Interpreter):
    """Runs a quantized graph as the float network it came from."""

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, ActivationQuantizer):
            return args[0]
        if isinstance(module, (QuantConv2d, QuantLinear)):
            return module.float_forward(args[0])
        return super().call_module(target, args, kwargs)


class _Observer(_Float):
    """Notes what the quantizers would see; the input's has its range already."""

    def __init__(self, graph: fx.GraphModule, seed: int) -> None:
        super().__init__(graph)
        self.seen: dict[str, Observed] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, ActivationQuantizer) and not module.scale > 0:
            self.seen.setdefault(target, Observed()).add(args[0], self.generator)
        return super().call_module(target, args, kwargs)
