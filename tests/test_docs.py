import functools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bench.run import card_text

from slimfer.cli.app import run
from slimfer.data.convert import write
from slimfer.data.synthetic import synthetic
from slimfer.report.readme import BEGIN, END, readme_table
from slimfer.report.results import load_results

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CARDS = {
    "docs/methods/network_slimming.md": "slimming_controls",
    "docs/methods/chains.md": "trade_offs",
    "docs/methods/dsd.md": "dsd",
    "docs/methods/microexpnet.md": "microexpnet",
    "docs/methods/pruning.md": "masks",
    "docs/methods/quantization.md": "quantization",
    "docs/benchmarks.md": "train_speed",
    "docs/fer2013.md": "leaks",
    "docs/speed.md": "rivals",
    "docs/faces.md": "finding",
    "docs/crops.md": "crops",
}


def between_marks(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_the_result_table_is_what_results_json_gives():
    assert between_marks("README.md") == readme_table(load_results(ROOT / "docs/results/fer2013_resnet18.json"))


@pytest.mark.parametrize("card", CARDS)
def test_a_card_holds_the_numbers_of_its_benchmark(card):
    result = json.loads((ROOT / "bench/results" / f"{CARDS[card]}.json").read_text())
    assert between_marks(card) == card_text(CARDS[card], result)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_every_flag_and_verb_in_the_documents_exists():
    fenced = [
        block for path in DOCUMENTS for block in re.findall(r"^```\n(.*?)^```", path.read_text(), flags=re.M | re.S)
    ]
    lines = {line for block in fenced for line in re.findall(r"^slimfer .*$", block, flags=re.M)}
    assert len(lines) > 8

    @functools.cache
    def help_of(*verb: str) -> str:
        command = [sys.executable, "-m", "slimfer", *verb, "--help"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        shown = help_of(*(words[:2] if words[0] == "data" else words[:1]))
        for flag in (word for word in words if word.startswith("--")):
            assert flag in shown, line


def test_the_quick_start_prints_what_it_says(shared, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SLIMFER_DETECTOR", str(shared / "face_detection_yunet_2023mar.onnx"))
    commands, printed = blocks("")[:2]
    (command,) = re.findall(r"^slimfer .*$", commands, flags=re.M)
    assert run(shlex.split(command)[1:]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        line.split() for line in printed.splitlines()
    ]


def test_the_way_to_a_model_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "faces", synthetic(n_train=256, n_validation=64, n_test=7), "folder")
    os.replace(next((tmp_path / "faces" / "validation" / "happy").glob("*.png")), "face.jpg")
    quick = " --width 0.25 --epochs 1 --finetune-epochs 1 --batch-size 64"
    start = next(block for block in blocks("") if "slimfer compress" in block)
    commands = [line.replace("fer2013.zip", "faces") for line in start.splitlines() if line.startswith("slimfer")]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command + (quick if " compress " in command else ""), comments=True)
        # Exit code 3 is an honest answer of a net that has hardly been trained.
        assert run(words[1:]) in ((0, 3) if words[1] == "compress" else (0,)), command
        capsys.readouterr()
    (program,) = blocks("python")
    exec(compile(program, "README.md", "exec"), {})
    assert "happy" in capsys.readouterr().out


def test_the_python_of_the_guide_prints_what_it_says(shared, monkeypatch, capsys):
    """The block and its output stand one behind the other; boxes and scores are those of the detector of the guide."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SLIMFER_DETECTOR", str(shared / "face_detection_yunet_2023mar.onnx"))
    guide = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    program, printed = re.findall(r"^```python\n(.*?)^```\n\n```\n(.*?)^```", guide, flags=re.M | re.S)[0]
    exec(compile(program, "python.md", "exec"), {})
    assert capsys.readouterr().out == printed
