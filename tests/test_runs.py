import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from slimfer.errors import InputError
from slimfer.recipes import read_recipe
from slimfer.runs import commit, machine, open_run, read_curve, versions


def opened(path: Path, **flags: bool):
    return open_run(path, verb="train", argv=["train", "--out", str(path)], seed=3, **flags)


def test_a_new_folder_gets_the_record(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as run:
        run.log("epoch 1")
    record = json.loads((run.path / "run.json").read_text())
    assert record["verb"] == "train"
    assert record["argv"] == ["train", "--out", str(run.path)]
    assert record["seed"] == 3
    assert record["resumed"] == 0
    assert 0 <= record["wall_seconds"] < 60
    assert (run.path / "log.txt").read_text() == "epoch 1\n"


def test_a_used_folder_is_refused_by_name_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not empty; --resume .* --force"), opened(tmp_path):
        pass
    with pytest.raises(InputError, match=r"no run\.json"), opened(tmp_path, resume=True):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_force_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with opened(tmp_path, force=True) as run:
        (run.path / "weights").mkdir()
        (run.path / "results.json").write_text("{}")
    with opened(tmp_path, force=True):
        assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex", "run.json"}


def test_force_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "best.safetensors").write_text("weights")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").symlink_to(tmp_path / "other")
    with opened(tmp_path / "run", force=True):
        pass
    assert (tmp_path / "other" / "best.safetensors").read_text() == "weights"


def test_resume_keeps_the_record_and_adds_the_time(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        pass
    spent = json.loads((tmp_path / "run.json").read_text())["wall_seconds"]
    with opened(tmp_path, resume=True) as second:
        assert second.wall_seconds >= spent
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["resumed"] == 1
    assert record["started"] == first.record["started"]


def test_resume_in_a_new_folder_just_starts(tmp_path: Path) -> None:
    with opened(tmp_path / "new", resume=True) as run:
        assert run.record["resumed"] == 0


def test_resume_of_another_verb_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    refused = open_run(tmp_path, verb="slim", argv=[], seed=0, resume=True)
    with pytest.raises(InputError, match="a run of 'train', which 'slim' cannot resume"), refused:
        pass


def test_resume_and_force_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of them"), opened(tmp_path, resume=True, force=True):
        pass


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="x is a file"), opened(tmp_path / "x"):
        pass


def test_bad_input_found_before_any_work_leaves_no_trace(tmp_path: Path) -> None:
    def refuse() -> None:
        with opened(tmp_path / "run") as run:
            run.write_recipe({"train": {"epochs": 1}})
            raise InputError("no such data")

    with pytest.raises(InputError, match="no such data"):
        refuse()
    with opened(tmp_path / "run"):
        pass


def test_bad_input_found_after_work_keeps_the_work(tmp_path: Path) -> None:
    def refuse() -> None:
        with opened(tmp_path / "run") as run:
            (run.path / "weights").mkdir()
            raise InputError("too late")

    with pytest.raises(InputError, match="too late"):
        refuse()
    assert (tmp_path / "run" / "weights").is_dir()
    assert (tmp_path / "run" / "run.json").is_file()


def _hold(path: Path, held, release) -> None:
    with opened(path):
        held.set()
        release.wait(30)


def test_settings_that_are_refused_leave_the_run_as_it_was(tmp_path: Path) -> None:
    """Else the next --resume, without them, would be refused as well."""

    def refuse() -> None:
        with opened(tmp_path, resume=True) as run:
            run.write_recipe({"train": {"epochs": 2}})
            raise InputError("trials of other settings")

    with opened(tmp_path) as run:
        run.write_recipe({"train": {"epochs": 1}})
        (run.path / "stages").mkdir()
    before = (tmp_path / "recipe.toml").read_bytes()
    with pytest.raises(InputError, match="other settings"):
        refuse()
    assert (tmp_path / "recipe.toml").read_bytes() == before


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "run", held, release))
    other.start()
    try:
        assert held.wait(30)
        for flags in ({}, {"resume": True}, {"force": True}):
            with (
                pytest.raises(InputError, match="another process is writing this run"),
                opened(tmp_path / "run", **flags),
            ):
                pass
    finally:
        release.set()
        other.join(30)
    with opened(tmp_path / "run", resume=True):
        pass


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from slimfer.runs import open_run\n"
        "with open_run(sys.argv[1], verb='train', argv=[], seed=0): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == -9
    with opened(tmp_path / "run", resume=True) as run:
        assert run.record["resumed"] == 1


def test_temporary_files_of_dead_writers_are_swept(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    stale = tmp_path / "results.json.slimfer-tmp-999999999"
    stale.write_text("{")
    with opened(tmp_path, resume=True):
        assert not stale.exists()


def test_the_recipe_reads_back(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.write_recipe({"train": {"epochs": 7, "step_at": (0.25, 0.5), "lr": 0.5}, "model": {"builder": "mobile"}})
    recipe = read_recipe(tmp_path / "recipe.toml")
    assert (recipe.train.epochs, recipe.train.step_at, recipe.model.builder) == (7, (0.25, 0.5), "mobile")


def test_the_curve_reads_back(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == []
    (tmp_path / "results.csv").write_text("epoch,val/accuracy\n1,0.5\n2,0.75\n")
    assert read_curve(tmp_path) == [{"epoch": 1, "val/accuracy": 0.5}, {"epoch": 2, "val/accuracy": 0.75}]


def test_versions_and_machine_are_told_without_importing_torch() -> None:
    code = "import sys, slimfer.runs as r; print(r.versions(), r.machine()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert versions()["numpy"]
    assert machine()["cores"] >= 1


def test_the_commit_is_that_of_the_source() -> None:
    told = commit()
    assert told is None or len(told.removesuffix("-dirty")) == 40
