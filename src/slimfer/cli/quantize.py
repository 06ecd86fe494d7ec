"""`slimfer quantize`."""

from dataclasses import replace
from typing import Annotated

from slimfer.cli.common import Answer, Common
from slimfer.cli.flags import Data, Force, Out, RecipeFile, Votes, base_recipe, default_of, over_data, override
from slimfer.cli.start import name_start
from slimfer.cli.steps import finish_step, open_step
from slimfer.compress.config import QuantizeConfig


def quantize(
    model: str | None = None,
    /,
    *,
    out: Out,
    data: Data = None,
    recipe: RecipeFile = None,
    votes: Votes = None,
    force: Force = False,
    bits: Annotated[int | None, default_of(QuantizeConfig(), "bits")] = None,
    images: Annotated[int | None, default_of(QuantizeConfig(), "images")] = None,
    common: Common = Common(),
) -> Answer:
    """Turn a trained network into integers: calibrate on training pictures, freeze scales (static quantization).

    Args:
        model: a run folder or a checkpoint.
        out: see flags.
        data: see flags.
        recipe: see flags.
        votes: see flags.
        force: see flags.
        bits: of the weights, 2-8; activations have 8.
        images: training pictures to calibrate on.
        common: see `Common`.
    """
    from slimfer.compress.quantize import quantize as quantized

    base = base_recipe(recipe, out, resume=False)
    resolved = replace(
        base,
        data=over_data(base.data, data, votes),
        model=name_start(base.model, model),
        quantize=override(base.quantize, bits=bits, images=images),
    )
    config, seed = resolved.quantize, base.train.seed if common.seed is None else common.seed
    with open_step(resolved, ("quantize",), out, common, seed=seed, resume=False, force=force) as step:
        result = quantized(step.checkpoint, step.dataset["train"], config, seed=seed)
        stages = [("start", step.checkpoint, None), ("quantize", result, None)]
        return finish_step(step, stages, f"slimfer export {out} --out model.onnx")
