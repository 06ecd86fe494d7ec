import subprocess
import sys

import pytest

from slimfer.errors import InputError
from slimfer.train.config import AugmentConfig, TrainConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs must be between 1 and 100000, not 0"),
        ({"batch_size": 1}, "batch_size must be between 2"),
        ({"lr": 0}, "lr must be between"),
        ({"lr": float("nan")}, "lr must be between .* not nan"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"warmup": 1.0}, "warmup must be between 0.0 and 0.9, not 1.0"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"average": 1.0}, "average"),
        ({"early_stop": -1}, "early_stop"),
        ({"save_seconds": -1}, "save_seconds"),
        ({"seed": -1}, "seed"),
        ({"step_at": (0.5, 75)}, "each of step_at must be between 0.0 and 1.0, not 75"),
        ({"step_factor": 10}, "step_factor"),
        ({"optimizer": "adam"}, "optimizer must be one of sgd, adamw, not adam"),
        ({"schedule": "linear"}, "schedule must be one of cosine, step"),
        ({"class_weights": "yes"}, "class_weights must be one of none, balanced"),
        ({"precision": "fp16"}, "precision must be one of auto, bf16, fp32"),
    ],
)
def test_values_outside_their_range_are_refused_by_name(values, words):
    with pytest.raises(InputError, match=words):
        TrainConfig(**values)


@pytest.mark.parametrize("values", [{"rotate": 181}, {"shift": -0.1}, {"scale": 1}, {"light": 2}, {"erase": 1.1}])
@pytest.mark.parametrize("sign", [1, -1])
def test_augmentation_outside_its_range_is_refused_by_name(values, sign):
    ((name, value),) = values.items()
    with pytest.raises(InputError, match=f"{name} must be between 0.0 and"):
        AugmentConfig(**{name: sign * abs(value) if sign < 0 or value > 0 else value})


@pytest.mark.parametrize("alpha", [-1, 1e-4, 5])
def test_mixup_keeps_to_what_it_can_draw(alpha):
    with pytest.raises(InputError, match="mixup"):
        AugmentConfig(mixup=alpha)


def test_help_can_read_the_defaults_without_torch():
    code = "import sys, slimfer.train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
