"""Teachers from files, and their answers on disk."""

import os
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import TINY, patterns
from networks import integers, learnt
from slimfer.artifact import open_artifact
from slimfer.compress.answers import AnswerFile, Answers, batch_key
from slimfer.compress.config import DistillConfig
from slimfer.compress.distill import distillation
from slimfer.compress.teachers import Network, Sealed, open_teacher, to_pixels
from slimfer.errors import InputError
from slimfer.export.onnx import to_onnx
from slimfer.files import atomic_write
from slimfer.runtime.session import Session
from slimfer.train.augment import to_input
from slimfer.train.config import AugmentConfig, TrainConfig
from slimfer.train.loop import fit, initial


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with a checkpoint and an artifact of integers."""
    path = tmp_path_factory.mktemp("runs") / "run"
    learnt().save(path / "weights" / "best.safetensors")
    atomic_write(path / "model.onnx", to_onnx(integers()))
    return path


def pictures(n=8, seed=0):
    return torch.from_numpy(patterns(n, seed=seed).images)


# --- from files ----------------------------------------------------------------------------------------------------
def test_a_run_folder_teaches_by_its_checkpoint_or_else_its_artifact(run_folder, tmp_path):
    by_run, by_file = open_teacher(str(run_folder)), open_teacher(str(run_folder / "weights" / "best.safetensors"))
    assert isinstance(by_run, Network)
    assert by_run.digest == by_file.digest == learnt().digest()
    assert by_run.name == str(run_folder)
    assert isinstance(open_teacher(str(run_folder / "model.onnx")), Sealed)
    atomic_write(tmp_path / "model.onnx", to_onnx(integers()))
    teacher = open_teacher(str(tmp_path))
    assert isinstance(teacher, Sealed)
    assert teacher.digest == open_artifact(tmp_path / "model.onnx").sha256
    assert (teacher.labels, teacher.channels, teacher.image) == (learnt().labels, 1, 16)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "nothing: no such file"),
        ("empty", "holds no finished network"),
        ("net.pt", "neither a checkpoint (.safetensors) nor an artifact (.onnx)"),
        ("broken.onnx", "broken.onnx"),
        ("broken.safetensors", "not a readable safetensors file"),
    ],
)
def test_what_cannot_teach_is_named(tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    for file in ("net.pt", "broken.onnx", "broken.safetensors"):
        (tmp_path / file).write_bytes(b"no network")
    with pytest.raises(InputError) as caught:
        open_teacher(str(tmp_path / name))
    assert sentence in str(caught.value)


def test_pixels_survive_normalization_and_varied_ones_are_rounded():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_pixels(to_input(pixels)), pixels)
    near = to_input(pixels) + (torch.rand(1, 1, 16, 16) - 0.5) * 0.99 / 64
    assert torch.equal(to_pixels(near), pixels)
    assert to_pixels(torch.tensor([-5.0, 5.0, -2.2])).tolist() == [0, 255, 0]


def test_an_artifact_answers_with_its_logits_up_to_a_constant(run_folder):
    pixels = pictures()
    teacher = open_teacher(str(run_folder / "model.onnx"))
    answer = teacher(to_input(pixels).contiguous(memory_format=torch.channels_last))
    assert torch.allclose(answer.exp(), torch.from_numpy(Session(run_folder / "model.onnx").run(pixels.numpy())))
    atomic_write(run_folder / "float.onnx", to_onnx(learnt()))
    answer = open_teacher(str(run_folder / "float.onnx"))(to_input(pixels))
    logits = Network(learnt())(to_input(pixels))
    assert torch.allclose(answer - answer.mean(1, True), logits - logits.mean(1, True), atol=1e-4)


def test_a_probability_of_0_gives_a_finite_answer(tmp_path):
    sure = {name: tensor.clone() for name, tensor in learnt().weights.items()}
    for name in ("10.weight", "10.bias"):
        sure[name] *= 1e4
    atomic_write(tmp_path / "sure.onnx", to_onnx(replace(learnt(), weights=sure)))
    x = to_input(pictures())
    teacher = open_teacher(str(tmp_path / "sure.onnx"))
    assert (Session(tmp_path / "sure.onnx").run(to_pixels(x).numpy()) == 0).any()
    assert torch.isfinite(teacher(x)).all()
    logits = torch.zeros(8, 3, requires_grad=True)
    loss = distillation([teacher], learnt(), DistillConfig(weight=1))(logits, torch.eye(3)[[0] * 8], x)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_an_artifact_shows_no_features(run_folder):
    teacher = open_teacher(str(run_folder / "model.onnx"))
    with pytest.raises(InputError, match=r"model.onnx is an artifact, which shows no features"):
        distillation([teacher], learnt(), DistillConfig(features=1))


# --- answers on disk -----------------------------------------------------------------------------------------------
class Counted(Network):
    """Counts how often it is asked."""

    asked = 0

    def __call__(self, x):
        self.asked += 1
        return super().__call__(x)


VARIED = TrainConfig(epochs=2, batch_size=32, precision="fp32", augment=AugmentConfig(mixup=0.2), seed=4)


def weights_after(teacher, config, training=VARIED):
    start = initial(TINY, learnt().labels, seed=1)
    frames = patterns(96)
    return fit(start, frames, frames, training, objective=distillation([teacher], start, config)).weights


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("mirror", [False, True])
def test_training_is_bit_equal_with_and_without_the_cache(tmp_path, mirror):
    live = DistillConfig(mirror=mirror)
    cached = replace(live, cache=str(tmp_path / "answers"))
    teacher, steps = Counted(learnt()), 6 * (1 + mirror)
    expected = weights_after(teacher, live)
    for asked in (2 * steps, 2 * steps):  # the first fills the cache, the second reads it
        assert equal(weights_after(teacher, cached), expected)
        assert teacher.asked == asked


def test_other_settings_of_the_student_ask_nothing_new(tmp_path):
    config = DistillConfig(cache=str(tmp_path))
    teacher = Counted(learnt())
    weights_after(teacher, config)
    weights_after(teacher, replace(config, temperature=5, weight=0.2, square=False), replace(VARIED, lr=0.01))
    assert teacher.asked == 6
    weights_after(teacher, config, replace(VARIED, seed=5))
    assert teacher.asked == 12
    weights_after(teacher, config, replace(VARIED, augment=AugmentConfig()))
    assert teacher.asked == 18


def test_another_teacher_precision_view_or_batch_is_not_found(tmp_path):
    x = to_input(pictures())
    teacher, other = Counted(learnt()), Counted(replace(learnt(), lineage=()))
    cache = Answers(tmp_path)
    for _ in range(2):
        for one in (teacher, other):
            for mirrored in (False, True):
                asked = cache.ask(one, x, batch_key(x), mirrored=mirrored)
                assert torch.equal(asked, one(x.flip(3) if mirrored else x))
    assert (teacher.asked, other.asked) == (2 + 4, 2 + 4)  # the second number: by this test
    keys = {batch_key(x), batch_key(x + 1e-7), batch_key(x[:4]), batch_key(x.view(4, 2, 16, 16)), batch_key(x.double())}
    with torch.autocast("cpu", torch.bfloat16):
        keys.add(batch_key(x))
    assert len(keys) == 6
    assert batch_key(x.contiguous(memory_format=torch.channels_last)) == batch_key(x)


def key(number):
    return number.to_bytes(33, "little")


def answer(number):
    return np.random.default_rng(number).normal(size=(5, 7)).astype(np.float32)


@given(st.integers(0, 10**9))
def test_whatever_is_cut_off_is_lost_and_the_rest_is_right(tmp_path_factory, where):
    """A kill leaves any part of the last record; a crash of the machine may leave other bytes there."""
    path = tmp_path_factory.mktemp("cache") / "t.answers"
    file = AnswerFile(path)
    for number in range(3):
        file.put(key(number), answer(number))
    whole = path.read_bytes()
    size = len(whole) // 3
    cut = 2 * size + where % size
    for tail in (b"", bytes(len(whole) - cut), os.urandom(50)):
        path.write_bytes(whole[:cut] + tail)
        again = AnswerFile(path)
        assert [again.get(key(n)) is not None for n in range(3)] == [True, True, False]
        again.put(key(3), answer(3))
        last = AnswerFile(path)
        for number in (0, 1, 3):
            assert np.array_equal(last.get(key(number)), answer(number))
        assert path.stat().st_size == 3 * size


def test_a_changed_byte_never_gives_a_wrong_answer(tmp_path):
    path = tmp_path / "t.answers"
    file = AnswerFile(path)
    for number in range(2):
        file.put(key(number), answer(number))
    whole = path.read_bytes()
    for place in range(0, len(whole) // 2, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        for reader in (file, AnswerFile(path)):
            assert reader.get(key(0)) is None


def test_a_size_beyond_the_file_is_no_record(tmp_path):
    path = tmp_path / "t.answers"
    path.write_bytes(struct.pack("<33sII", key(0), 2**31, 2**31) + bytes(100))
    assert AnswerFile(path).get(key(0)) is None


def test_processes_share_a_file(tmp_path):
    """Four processes write and read the same keys at once."""
    path, count = tmp_path / "t.answers", 60
    children = []
    for seed in range(4):
        child = os.fork()
        if not child:
            try:
                file = AnswerFile(path)
                for number in np.random.default_rng(seed).permutation(count):
                    known = file.get(key(int(number)))
                    assert known is None or np.array_equal(known, answer(number))
                    file.put(key(int(number)), answer(number))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    file = AnswerFile(path)
    assert all(np.array_equal(file.get(key(n)), answer(n)) for n in range(count))
    assert path.stat().st_size == 4 * count * (33 + 8 + 5 * 7 * 4 + 16)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the cache of answers .*file cannot be written \(.+\)"):
        AnswerFile(tmp_path / "file" / "t.answers")
