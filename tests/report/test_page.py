import json
import re

import pytest

from report.pages import read
from slimfer.errors import InputError
from slimfer.report.page import render, write_report
from slimfer.report.results import parse_results


@pytest.fixture
def page(compressed, drawn):
    return render(parse_results(compressed), drawn)


def test_the_summary_comes_first(page, compressed):
    text = "".join(read(page).text)
    assert text.index("resnet18 went from 25.2 MB to 504 kB") < text.index("Stage by stage")


def test_failed_checks_are_told(page):
    text = "".join(read(page).text)
    assert "✗ failed" in text
    assert "Not fit to ship: agreement failed." in text
    assert "1 of 2" in text


def test_every_part_of_the_results_is_there(page, compressed):
    text = "".join(read(page).text)
    for part in (
        "slimfer compress resnet18 --data synthetic --out runs/first-again",
        compressed["artifact"]["sha256"],
        "A processor",
        "2.13.0",
        "epochs = 4",
        "1 h 2 min",
        "layer4.1.conv2",
        "finetune, 1 epoch",
        "What changed in each class",
    ):
        assert part in text, part


def test_the_layers_that_lost_most_come_first_with_their_share(page):
    rows = re.findall(
        r'<th scope="row">([^<]+)</th><td class="number">([\d,]+)</td><td class="number">([\d.]+)</td>', page
    )
    lost = {"layer4.1.conv2": 9 * 353, "conv1": 9 * 36, "layer1.0.conv1": 0}
    total = sum(lost.values())
    assert [row for row in rows if row[0] in lost][:3] == [
        (name, f"{value:,}", f"{100 * value / total:.1f}") for name, value in lost.items()
    ]


def test_a_bare_training_has_a_page_too(trained):
    checker = read(render(parse_results(trained)))
    ids = {value for _, name, value in checker.attributes if name == "id"}
    assert {"stages", "training", "again"} <= ids
    assert not ids & {"checks", "layers", "classes", "reliability"}


@pytest.mark.parametrize("kind", ["bench", "evaluate"])
def test_other_verbs_have_a_page_too(compressed, kind):
    wanted = {"bench": ("name", "title", "bytes", "latency_ms"), "evaluate": ("name", "title", "scores")}[kind]
    stages = [{key: stage[key] for key in wanted} for stage in compressed["stages"]]
    page = render(parse_results({"format": 1, "kind": kind, "labels": compressed["labels"], "stages": stages}))
    assert f"slimfer {kind}" in "".join(read(page).text)


def test_text_from_outside_is_escaped(compressed):
    attack = '<img src="http://x" onerror="alert(1)">'
    compressed["model"] = compressed["command"] = compressed["checks"][0]["note"] = attack
    compressed["stages"][0]["title"] = compressed["layers"][0]["name"] = compressed["recipe"]["train"]["x"] = attack
    page = render(parse_results(compressed))
    assert "img" not in read(page).tags
    assert "&lt;img" in page


def test_equal_results_give_an_equal_page(page, compressed):
    assert render(parse_results(compressed)) == page


def test_write_report_writes_page_and_charts(compressed, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(compressed))
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text() == render(parse_results(compressed))
    assert (tmp_path / "plots" / "confusion_dense.svg").read_text().startswith("<svg")


def test_a_stage_called_after_a_path_writes_no_file_elsewhere(compressed, tmp_path):
    compressed["stages"][0]["name"] = compressed["curves"][0]["stage"] = "../../runs/model.onnx"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(compressed))
    write_report(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert all(path.parent.name in ("run", "plots") for path in tmp_path.rglob("*.*"))


def test_write_report_of_a_folder_without_results(tmp_path):
    with pytest.raises(InputError, match=r"results\.json: no such file"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_shows_its_points_as_chart_and_table(studied):
    page = render(parse_results(studied))
    section = page[page.index('<section id="trade-offs"') :]
    section = section[: section.index("</section>")]
    assert "<svg" in section
    # 25.19 MB before; mean of the three seeds 67 %, from 66 to 68
    lost = f"{100 * studied['stages'][0]['scores']['accuracy'] - 67:.2f}"
    for cell in ("both", "70 %, int8", "395 kB", "63.8×", "67.00 ± 1.00", lost):
        assert f">{cell}<" in section, cell


def test_a_sweep_is_on_the_page(distilled):
    page = render(parse_results(distilled))
    assert 'id="sweep"' in page
    assert "partly luck" in page
    assert "<dt>smaller</dt>" not in page
    del distilled["sweep"][1:]
    assert 'id="sweep"' not in render(parse_results(distilled))
