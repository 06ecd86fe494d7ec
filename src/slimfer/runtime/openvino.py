"""OpenVINO behind the same door; an extra, `slimfer[openvino]`, and on Intel processors the faster runtime.

It fuses a convolution with the addition that follows and then leaves out the rounding between the two. With activations
of 8 bits that changes answers by less than quantization did (and towards those of the float network; measured on
ResNet-18: 33 dB to onnxruntime, 1 label in 100); a network that has learnt to live with coarser rounding needs it.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from slimfer.artifact import INPUT, OUTPUT
from slimfer.errors import InputError
from slimfer.runtime.session import Pixels, Probabilities, Session

ANY = -1  # OpenVINO's sign for a size that is free
CLIPS = ("Minimum", "Maximum", "Clamp")  # what it makes of Clip, which only activations of fewer than 8 bits have
DEQUANTIZE = ("Multiply", "Subtract", "Convert")


class OpenVinoSession(Session):
    """A model, ready to run on the CPU in OpenVINO; everything else as in `Session`.

    With `optimize` off, and for activations of fewer than 8 bits always, additions get their inputs rounded as
    everywhere else, which costs up to half of the speed.

    One picture at a time is what it is compiled for, which is a quarter faster than free numbers of pictures; the first
    call with another number compiles it once more (about half a second).
    """

    runtime = "openvino"

    def _open(self, threads: int, optimize: bool) -> tuple[Callable[[Pixels], Probabilities], list[int], list[int]]:
        core = load().Core()
        model = core.read_model(self.artifact.data)
        takes, gives = _sizes(model.input(INPUT)), _sizes(model.output(OUTPUT))
        summands = _summands(model)
        if not optimize or any(value.get_node().get_type_name() in CLIPS for value in summands):
            model.add_outputs(summands)  # what somebody looks at is computed as written
        # Its own choice on new processors is bfloat16, whose answers are others.
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}

        def compiled(pictures: int) -> Any:
            model.reshape({INPUT: [pictures, *takes]})
            return core.compile_model(model, "CPU", settings).create_infer_request()

        requests, lock = {1: compiled(1)}, threading.Lock()  # a request serves one thread at a time

        def answer(images: Pixels) -> Probabilities:
            key = 1 if len(images) == 1 else ANY
            with lock:
                if key not in requests:
                    requests[key] = compiled(key)
                request = requests[key]
                tensor = request.get_tensor(INPUT)
                tensor.shape = images.shape
                tensor.data[:] = images
                request.infer()
                return request.get_tensor(OUTPUT).data.copy()

        return answer, takes, gives


RUNTIMES: Mapping[str, type[Session]] = {kind.runtime: kind for kind in (Session, OpenVinoSession)}


def load() -> Any:
    """Return the module openvino.

    Its import reports itself to the vendor over the network unless the package that does so cannot be imported;
    slimfer reports nothing to anybody, so for this moment it cannot.

    Raises:
        InputError: if openvino is not installed.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's way of saying: not to be imported
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise InputError(f"the openvino runtime is not there ({error}); pip install 'slimfer[openvino]'") from None
    finally:
        if hidden:
            del sys.modules[name]


def _sizes(port: Any) -> list[int]:
    """Return the sizes after the first, ANY for those that are free."""
    return [size.get_length() if size.is_static else ANY for size in list(port.partial_shape)[1:]]


def _summands(model: Any) -> list[Any]:
    """Return the integers that additions of activations read, as outputs of OpenVINO's operators."""
    found = {}
    for node in model.get_ops():
        if node.get_type_name() == "Add":
            for value in node.input_values():
                while value.get_node().get_type_name() in DEQUANTIZE and value.get_element_type().size > 1:
                    value = value.get_node().input_value(0)
                if value.get_element_type().size == 1 and value.get_node().get_type_name() != "Parameter":
                    found[value.get_any_name()] = value
    return list(found.values())
