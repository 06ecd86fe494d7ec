import json
from dataclasses import replace

import pytest

from helpers import TINY, patterns
from networks import learnt
from slimfer.compress.config import DistillConfig, SweepConfig
from slimfer.compress.sweep import plan_students, train_students
from slimfer.compress.teachers import Network
from slimfer.errors import InputError
from slimfer.train.config import TrainConfig
from slimfer.train.loop import fit, initial

TRAINING = TrainConfig(epochs=1, batch_size=32, precision="fp32")
DATASET = {"train": patterns(64), "validation": patterns(32, seed=1)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    learnt().save(path)
    return str(path)


def start():
    return initial(TINY, learnt().labels, seed=1)


def test_a_sweep_is_the_control_and_every_pair(tmp_path):
    config = DistillConfig(teachers=("t",), mirror=True)
    students = plan_students(config, SweepConfig(temperatures=(1, 4), weights=(0.3, 0.9)), tmp_path)
    assert [student.name for student in students] == ["control", "T1-w0.3", "T1-w0.9", "T4-w0.3", "T4-w0.9"]
    assert [student.folder for student in students] == [tmp_path / student.name for student in students]
    assert students[0].config is None
    assert {student.config.cache for student in students[1:]} == {str(tmp_path / "answers")}
    assert all(student.config.mirror for student in students[1:])
    assert (students[3].config.temperature, students[3].config.weight) == (4, 0.3)


def test_a_single_student_has_a_control_only_on_demand_and_no_cache(tmp_path):
    config = DistillConfig(teachers=("t",), temperature=3)
    assert [one.name for one in plan_students(config, SweepConfig(), tmp_path)] == ["T3-w0.7"]
    students = plan_students(config, SweepConfig(control=True), tmp_path)
    assert [one.name for one in students] == ["control", "T3-w0.7"]
    assert students[1].config == config
    sweep = SweepConfig(weights=(0.2, 0.5))
    assert [one.name for one in plan_students(config, sweep, tmp_path)] == ["control", "T3-w0.2", "T3-w0.5"]
    named = plan_students(replace(config, cache="mine"), sweep, tmp_path)
    assert named[1].config.cache == "mine"
    assert plan_students(replace(config, features=1), sweep, tmp_path)[1].config.cache == ""


@pytest.mark.parametrize(
    ("config", "sweep", "sentence"),
    [
        (DistillConfig(), SweepConfig(), "no teacher given"),
        (DistillConfig(weight=0, teachers=("t",)), SweepConfig(), "weight 0 without features teaches nothing"),
        (DistillConfig(teachers=("t",)), SweepConfig(temperatures=(1, 200)), "at most 100, not 200"),
        (DistillConfig(teachers=("t",)), SweepConfig(weights=(0.5, 1.5)), "between 0 and 1, not 1.5"),
    ],
)
def test_what_cannot_be_swept_is_named(tmp_path, config, sweep, sentence):
    with pytest.raises(InputError) as caught:
        plan_students(config, sweep, tmp_path)
    assert sentence in str(caught.value)


def test_the_control_is_plain_training_and_lineage_tells_how_others_were_taught(tmp_path, teacher):
    students = plan_students(DistillConfig(teachers=(teacher,)), SweepConfig(control=True), tmp_path)
    control, taught = train_students(start(), DATASET, TRAINING, students)
    plain = fit(start(), DATASET["train"], DATASET["validation"], TRAINING)
    assert control.digest() == plain.digest()
    entry = taught.lineage[-1]
    assert (entry["step"], entry["teachers"]) == ("distill", [learnt().digest()])
    assert entry["distill"]["temperature"] == 2.0
    json.dumps(entry)
    assert taught.digest() != control.digest()


def test_a_sweep_asks_its_teacher_once_and_goes_on_where_it_stopped(tmp_path, teacher, monkeypatch):
    asked = []
    answer = Network.__call__
    monkeypatch.setattr(Network, "__call__", lambda self, x: asked.append(1) or answer(self, x))
    students = plan_students(DistillConfig(teachers=(teacher,)), SweepConfig(temperatures=(1, 2, 8)), tmp_path)

    class Killed(Exception):
        pass

    def stop(name):
        if name == "T2-w0.7":
            raise Killed

    with pytest.raises(Killed):
        train_students(start(), DATASET, TRAINING, students, watch=stop)
    assert len(asked) == 2
    trained = train_students(start(), DATASET, TRAINING, students)
    assert len(asked) == 2, "of two steps, by the first of three students"
    alone = plan_students(DistillConfig(teachers=(teacher,), temperature=8), SweepConfig(), tmp_path / "alone")
    (same,) = train_students(start(), DATASET, TRAINING, alone)
    assert all((same.weights[name] == trained[3].weights[name]).all() for name in same.weights)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, teacher):
    students = plan_students(DistillConfig(teachers=(teacher,)), SweepConfig(), tmp_path)
    train_students(start(), DATASET, TRAINING, students)
    with pytest.raises(InputError, match=r"belongs to a run with another config\.lr"):
        train_students(start(), DATASET, replace(TRAINING, lr=0.05), students)
