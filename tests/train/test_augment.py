import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import patterns
from slimfer.preprocess import normalize
from slimfer.train.augment import augment, mixup, step_generator, to_input
from slimfer.train.config import AugmentConfig

NOTHING = AugmentConfig(flip=False, rotate=0, shift=0, scale=0, light=0, erase=0)
FACES = torch.from_numpy(patterns(64, side=24, channels=3).images)
configs = st.builds(
    AugmentConfig,
    flip=st.booleans(),
    rotate=st.floats(0, 180),
    shift=st.floats(0, 1),
    scale=st.floats(0, 0.9),
    light=st.floats(0, 1),
    erase=st.floats(0, 1),
)


def test_input_is_what_the_runtime_computes_for_every_pixel_value():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(to_input(torch.from_numpy(pixels)).numpy(), normalize(pixels))


def test_nothing_asked_for_is_nothing_done():
    assert torch.equal(augment(FACES, NOTHING, step_generator(0, 1)), torch.from_numpy(normalize(FACES.numpy())))


@given(configs, st.integers(0, 2**31 - 1))
@settings(max_examples=25, deadline=None)
def test_shape_range_and_repeatability(config, seed):
    one = augment(FACES, config, step_generator(seed, 1, 2))
    assert one.shape == FACES.shape
    assert one.dtype == torch.float32
    assert one.abs().max() <= 2 * (1 + config.light) + config.light + 1e-4
    assert torch.equal(one, augment(FACES, config, step_generator(seed, 1, 2)))


def test_flip_mirrors_about_half_of_the_pictures_and_leaves_the_rest():
    faces = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 1, 24, 24), dtype=np.uint8))
    x, original = augment(faces, AugmentConfig(True, 0, 0, 0, 0, 0), step_generator(3, 1)), to_input(faces)
    same = (x - original).abs().amax((1, 2, 3)) < 1e-3
    mirrored = (x - original.flip(3)).abs().amax((1, 2, 3)) < 1e-3
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_shift_moves_whole_pixels_to_where_they_belong():
    x = torch.zeros(512, 1, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 4] = 255
    moved = augment(x, AugmentConfig(False, 0, 0.25, 0, 0, 0), step_generator(0, 1))
    mass = (moved - to_input(torch.zeros(1, dtype=torch.uint8))).squeeze(1)
    mass = mass / mass.sum((1, 2), keepdim=True)
    at = torch.stack(((mass.sum(1) * torch.arange(9)).sum(1), (mass.sum(2) * torch.arange(9)).sum(1)))
    assert (at - 4).abs().max() <= 0.25 * 9 + 1e-3
    assert (at - 4).abs().max() > 0.2 * 9
    assert (at - 4).mean().abs() < 0.15


def test_light_changes_contrast_and_brightness_only():
    x = augment(FACES, AugmentConfig(False, 0, 0, 0, 0.3, 0), step_generator(0, 1)).flatten(1)
    original = to_input(FACES).flatten(1)
    for changed, was in zip(x.double(), original.double(), strict=True):
        slope, offset = np.polyfit(was.numpy(), changed.numpy(), 1)
        assert 0.7 - 1e-6 <= slope <= 1.3 + 1e-6
        assert abs(offset) <= 0.3 + 1e-6
        assert torch.allclose(was * slope + offset, changed, atol=1e-5)


def test_erasing_blanks_one_rectangle_of_the_stated_area():
    faces = torch.full((400, 1, 48, 48), 255, dtype=torch.uint8)
    gone = augment(faces, AugmentConfig(False, 0, 0, 0, 0, 0.5), step_generator(0, 1))[:, 0] == 0
    hit = gone.flatten(1).any(1)
    assert 150 < hit.sum() < 250
    for mask in gone[hit]:
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
        assert 0.01 < mask.float().mean() < 0.23


@given(st.floats(0.05, 4), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_mixup_blends_pictures_and_targets_alike(alpha, seed):
    x = torch.eye(8).view(8, 1, 1, 8)
    mixed, target = mixup(x, torch.eye(8), alpha, step_generator(seed, 1))
    assert torch.allclose(mixed.view(8, 8), target)
    assert torch.allclose(target.sum(1), torch.ones(8), atol=1e-6)
    assert (target >= 0).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_weights_follow_the_beta_distribution(alpha):
    x = torch.tensor([[1.0], [0.0]])
    weights = []
    for seed in range(1500):
        mixed, _ = mixup(x, x, alpha, step_generator(seed, 1))
        if not torch.equal(mixed, x):
            weights.append(float(mixed[0, 0]))
    mean, variance = np.mean(weights), np.var(weights)
    assert mean == pytest.approx(0.5, abs=0.04)
    assert variance == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.12)


def test_generators_of_different_steps_are_unrelated():
    keys = [(seed, epoch, step) for seed in range(4) for epoch in range(1, 9) for step in range(32)]
    draws = torch.stack([torch.rand(8, generator=step_generator(*key)) for key in keys])
    assert len(torch.unique(draws, dim=0)) == len(keys)
    correlation = torch.corrcoef(draws.T) - torch.eye(8)
    assert correlation.abs().max() < 0.15
    neighbours = torch.corrcoef(torch.stack((draws[:-1].flatten(), draws[1:].flatten())))[0, 1]
    assert abs(neighbours) < 0.05
