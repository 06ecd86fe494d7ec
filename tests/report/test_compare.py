import copy
import json
import re

import numpy as np
import pytest

from report.conftest import examined
from report.pages import assert_links_lead_somewhere, assert_self_contained, read
from slimfer.answers import read_answers
from slimfer.errors import InputError
from slimfer.metrics import paired_difference
from slimfer.report.compare import (
    caveats,
    compare,
    open_runs,
    paired_between,
    settings_that_differ,
    settings_that_some_lack,
    write_comparison,
)


def write(folder, results):
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def two(tmp_path):
    """Two runs on the same pictures: the second is smaller, quantized to fewer bits, and worse."""
    one, other = (examined(tmp_path / name, skills=skills) for name, skills in (("a", (0.7, 0.6)), ("b", (0.7, 0.4))))
    other["stages"][-1]["bytes"] = one["stages"][-1]["bytes"] // 4
    other["recipe"] = {**one["recipe"], "bits": 4, "train": {**one["recipe"]["train"], "epochs": 9}}
    return write(tmp_path / "a", one), write(tmp_path / "b", other)


def test_one_page_without_requests_says_who_is_who(two, tmp_path):
    page = write_comparison(two, tmp_path / "page.html").read_text()
    assert_self_contained(page)
    assert_links_lead_somewhere(page)
    text = "".join(read(page).text)
    assert "Against a, b is 4.00× smaller (504 kB → 126 kB)" in text
    assert text.index("Against a, b") < text.index("Side by side")


def test_the_paired_difference_is_that_of_the_answers(two):
    first, other = open_runs(two)
    change = paired_between(first, other)
    hits = []
    for folder, run in zip(two, (first, other), strict=True):
        answers = read_answers(folder, run.results.data["answers"])
        hits.append(answers["int8"] == answers[""])
    assert (change["difference"], *change["ci95"]) == paired_difference(*hits)
    assert change["lost"] == np.sum(hits[0] & ~hits[1]) > 0
    page = compare((first, other))
    assert re.search(rf">a → b</th><td class=\"number\">140</td><td class=\"number\">{change['lost']}</td>", page)


@pytest.mark.parametrize("reason", ["no file", "another data set", "other labels", "other classes", "old results"])
def test_without_the_same_pictures_nothing_is_paired(two, reason, tmp_path):
    results = json.loads((two[1] / "results.json").read_text())
    if reason == "no file":
        (two[1] / "answers.npy").unlink()
    elif reason == "another data set":
        results["answers"] |= {"sha256_pictures": "0" * 64, "sha256_names": None}
    elif reason == "other classes":
        results = json.loads(json.dumps(results).replace('"angry"', '"cross"'))
    elif reason == "old results":
        del results["answers"], results["change"]
    else:
        results = {**results, **examined(two[1], shift=1)}
    write(two[1], results)
    runs = open_runs(two)
    assert paired_between(*runs) is None
    page = compare(runs)
    assert_self_contained(page)
    assert 'id="paired"' not in page
    assert "not on the same pictures, as far as is known" in page


def test_a_run_against_itself_differs_in_nothing(two, tmp_path):
    twin = write(tmp_path / "twin", json.loads((two[0] / "results.json").read_text()))
    (twin / "answers.npy").write_bytes((two[0] / "answers.npy").read_bytes())
    first, other = open_runs((two[0], twin))
    change = paired_between(first, other)
    assert (change["lost"], change["gained"], change["difference"]) == (0, 0, 0)
    assert settings_that_differ((first, other)) is None
    assert "None: the recipes are the same." in compare((first, other))


def test_only_settings_that_differ_are_listed(two):
    table = settings_that_differ(open_runs(two))
    assert table.header == ("setting", "a", "b")
    assert set(table.rows) == {("bits", "8", "4"), ("train.epochs", "4", "9")}


def test_a_setting_that_one_run_lacks_is_a_dash(two):
    results = json.loads((two[1] / "results.json").read_text())
    del results["recipe"]["ratio"]
    write(two[1], results)
    assert settings_that_some_lack(open_runs(two)).rows == (("ratio", "0.7", "–"),)
    assert "ratio" not in [row[0] for row in settings_that_differ(open_runs(two)).rows]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machine": {"cpu": "Another"}}, "on different machines"),
        ({"seed": 9}, "The seeds differ"),
        ({"versions": {"torch": "3"}}, "Versions of the software differ"),
        ({"data": {"source": "elsewhere", "split": "validation"}}, "The data came from different places"),
        ({"data": {"source": "synthetic", "split": "test"}}, "The scores are of different pictures"),
    ],
)
def test_what_keeps_runs_from_being_compared_is_told(two, change, told):
    assert not any(told in line for line in caveats(open_runs(two)))
    write(two[1], {**json.loads((two[1] / "results.json").read_text()), **change})
    assert any(told in line for line in caveats(open_runs(two)))


def test_speed_is_only_told_against_a_runs_own_control(two):
    page = compare(open_runs(two))
    side = page[page.index("The last stage of each run;") : page.index("Size of the network as a file.")]
    # 6.9 ms and 0.23 ms in both runs
    assert side.count('<td class="number">30.0×</td>') == 2
    assert "at different times" in page


def test_three_runs_are_compared_with_the_first(two, tmp_path):
    third = write(tmp_path / "c", examined(tmp_path / "c", skills=(0.7, 0.65)))
    page = compare(open_runs((*two, third)))
    assert_self_contained(page)
    for text in ("Against a, b is", "Against a, c is", ">a → b<", ">a → c<", '<th scope="col">c</th>'):
        assert text in page
    assert "Which classes paid" not in page


def test_the_page_is_called_after_the_runs_in_this_folder(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(write_comparison(two)) == "report-a-b.html"
    again = write_comparison(two)
    assert again.read_text().count("<!DOCTYPE html>") == 1


def test_runs_of_one_name_are_told_apart_by_their_paths(two, tmp_path):
    (tmp_path / "x").mkdir()
    twin = write(tmp_path / "x" / "a", json.loads((two[0] / "results.json").read_text()))
    assert [run.name for run in open_runs((two[0], twin))] == [str(two[0]), str(twin)]
    with pytest.raises(InputError, match="named twice"):
        open_runs((two[0], two[0]))


def test_a_foreign_file_is_not_written_over(two, tmp_path):
    page = tmp_path / "mine.html"
    page.write_text("<html>my own</html>")
    with pytest.raises(InputError, match=r"mine\.html exists and is not a report"):
        write_comparison(two, page)
    assert page.read_text() == "<html>my own</html>"
    with pytest.raises(InputError, match="exists and is not a report"):
        write_comparison(two, tmp_path)


def test_results_files_do_as_well_as_folders(two):
    files = [path.rename(path.with_name(f"{path.parent.name}.json")) for path in (f / "results.json" for f in two)]
    first, other = open_runs(files)
    assert (first.name, other.name) == ("a", "b")
    assert paired_between(first, other) is not None


def test_a_table_of_networks_is_no_run(two, tmp_path, studied):
    study = write(tmp_path / "study", studied)
    with pytest.raises(InputError, match="kind study"):
        open_runs((two[0], study))
    with pytest.raises(InputError, match="no such file"):
        open_runs((two[0], tmp_path / "nowhere"))


def test_a_bare_training_can_be_compared(two, tmp_path, trained):
    page = compare(open_runs((two[0], write(tmp_path / "t", trained))))
    assert_self_contained(page)
    assert 'id="classes"' not in page


def test_hostile_text_stays_text(two):
    attack = '"><script>alert(1)</script><img src="http://x">'
    results = json.loads((two[1] / "results.json").read_text())
    results["model"] = results["command"] = attack
    results["recipe"][attack] = attack
    results["data"]["source"] = results["machine"]["cpu"] = results["versions"]["x"] = attack
    results = json.loads(json.dumps(results).replace('"sad"', json.dumps(attack)))
    write(two[1], results)
    page = compare(open_runs(two))
    assert_self_contained(page)
    assert read(page).tags.count("script") == 1
    both = copy.deepcopy(results)
    write(two[0], both)
    assert_self_contained(compare(open_runs(two)))
