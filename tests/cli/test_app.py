"""The contract of the command line: exit codes, one sentence, one JSON document, quick help."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimfer.cli import app as app_module
from slimfer.cli.app import TRAINING_SIDE, VERBS, explain, make_app, run
from slimfer.cli.common import Answer
from slimfer.errors import InputError, SlimferError, VerificationError
from slimfer.version import VERSION

HEAVY = ("torch", "numpy", "onnxruntime", "matplotlib", "onnx", "PIL", "jinja2")
NAMES = [verb.name for verb in VERBS]


@pytest.mark.parametrize("words", ["", *sorted({name.split()[0] for name in NAMES if " " in name}), *NAMES])
def test_help_imports_nothing_heavy_and_ends_with_examples(slimfer, words: str) -> None:
    told = "import atexit, sys; atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))"
    done = slimfer(*words.split(), "--help", code=told)
    assert done.returncode == 0
    loaded = set(modules_of(done.stderr))
    assert not loaded & set(HEAVY)
    assert "Examples:" in done.stdout
    assert done.stdout.rstrip().rpartition("Examples:")[2].count("slimfer ") >= 2


def modules_of(text: str) -> list[str]:
    return json.loads(text.strip().splitlines()[-1].replace("'", '"'))


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_both_help_flags(slimfer, flag: str) -> None:
    assert "Usage: slimfer models" in slimfer("models", flag).stdout


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_both_version_flags(slimfer, flag: str) -> None:
    done = slimfer(flag)
    assert (done.returncode, done.stdout) == (0, VERSION + "\n")


def test_every_verb_says_the_same_in_the_list_and_in_its_docstring() -> None:
    app = make_app(VERBS)
    for verb in VERBS:
        command = app
        for word in verb.name.split():
            command = command[word]
        docstring = command.default_command.__doc__
        assert docstring.splitlines()[0] == verb.help


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tarin"], 'Did you mean "train"?'),
        (["data", "inspct", "x"], 'Did you mean "inspect"?'),
        (["models", "--jsn"], "Did you mean --json?"),
        (["train", "--data", "x", "--out", "y", "--epochs", "many"], 'unable to convert "many" into int'),
        (["train", "--data", "x", "--out", "y", "--device", "gpu"], '"auto", "cpu", "cuda"'),
        (["evaluate", "resnet18"], "--data"),
        (["models", "--threads", "0"], "--threads"),
        (["evaluate", "resnte18", "--data", "synthetic"], "did you mean 'resnet18'?"),
        (["evaluate", "resnet18", "--data", "synthetic"], "untrained network; first: slimfer train"),
        (["evaluate", "missing.onnx", "--data", "synthetic"], "missing.onnx: no such file"),
        (["train", "--out", "new", "--model", "mobile"], "no data given"),
        (["train", "--out", "new", "--data", "synthetic"], "no network given"),
        (["train", "--out", "new", "--model", "mobile", "--data", "missing"], "missing"),
        (
            ["train", "--out", "new", "--model", "mobile", "--data", "synthetic", "--epochs", "0"],
            "epochs must be between",
        ),
        (["train", "--out", "new", "--recipe", "missing.toml"], "missing.toml: no such file"),
        (["train", "--out", "new", "--model", "mobile", "--resume", "--force", "--data", "x"], "give one of them"),
        (["bench", "mobile", "mobile"], "mobile is named twice"),
        (["bench", "mobile", "--min-time", "soon"], "'soon' is not a time"),
        (["export", "mobile", "--out", "x.onnx"], "untrained network"),
        (["export", "mobile", "--out", "x.pb"], "ends in .onnx"),
        (["predict", "missing.jpg", "--model", "mobile"], "missing.jpg: no such file"),
        (["report", "missing"], "results.json: no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(slimfer, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = slimfer(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert list(tmp_path.iterdir()) == [] or not any((tmp_path / "new").iterdir())


def test_with_json_an_error_is_a_document_too(slimfer) -> None:
    done = slimfer("evaluate", "missing.onnx", "--data", "synthetic", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"error": "missing.onnx: no such file", "exit_code": 2}


def test_debug_shows_the_traceback(slimfer) -> None:
    plain = slimfer("evaluate", "missing.onnx", "--data", "synthetic")
    debug = slimfer("evaluate", "missing.onnx", "--data", "synthetic", env={"SLIMFER_DEBUG": "yes"})
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr
    assert debug.returncode == 2


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("two\nlines"), 2, "two lines"),
        (VerificationError("too slow"), 3, "too slow"),
        (SlimferError("unknown"), 1, "unknown"),
        (KeyError("x"), 1, "bug in slimfer: KeyError: 'x'"),
        (ValueError("x"), 1, "bug in slimfer: ValueError"),
        (PermissionError(13, "Permission denied", "/etc/run"), 2, "/etc/run: Permission denied"),
        (ModuleNotFoundError("no", name="torch.nn"), 2, 'train needs the training side: pip install "slimfer[train]"'),
        (ModuleNotFoundError("no", name="slimfer.missing"), 1, "bug in slimfer"),
    ],
)
def test_errors_get_their_code_and_sentence(error: Exception, code: int, words: str) -> None:
    found = explain(error, ["train", "--data", "x"])
    assert found[0] == code
    assert words in found[1]
    assert "\n" not in found[1]


def answering(monkeypatch: pytest.MonkeyPatch, verb: object) -> None:
    app = make_app(())
    app.command(verb, name="probe")
    monkeypatch.setattr(app_module, "app", app)


def test_what_was_not_met_is_shown_after_the_answer(monkeypatch, capsys) -> None:
    def probe() -> Answer:
        return Answer({}, ("the table",), failure=VerificationError("3 dB are too few"))

    answering(monkeypatch, probe)
    assert run(["probe"]) == 3
    assert capsys.readouterr() == ("the table\n", "error: 3 dB are too few\n")


def test_our_own_bugs_are_code_1(monkeypatch, capsys) -> None:
    def probe() -> None:
        raise ZeroDivisionError("division by zero")

    answering(monkeypatch, probe)
    assert run(["probe"]) == 1
    assert capsys.readouterr().err.startswith("error: bug in slimfer: ZeroDivisionError: division by zero")


def test_ctrl_c_is_code_130(faces: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slimfer", "train", "--data", str(faces), "--model", "mobile", "--image", "24"]
    command += ["--width", "0.25", "--epochs", "100000", "--batch-size", "64", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    assert "epoch 1/100000" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    rest = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in rest
    assert rest.endswith("interrupted\n")


def test_a_closed_pipe_is_no_error(slimfer) -> None:
    code = "import os, sys; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)"
    done = slimfer("models", "--json", code=code)
    assert (done.returncode, done.stderr.count("Error")) == (0, 0)


def test_the_base_install_works_without_the_training_side(slimfer, artifact: Path, tmp_path: Path) -> None:
    """Without torch: help, models and predict work; train says what to install."""
    block = f"import sys; sys.modules.update(dict.fromkeys({TRAINING_SIDE}))"
    assert slimfer("--help", code=block).returncode == 0
    networks = json.loads(slimfer("models", "--json", code=block).stdout)["networks"]
    assert {"mobile", "resnet18"} <= {one["name"] for one in networks}
    picture = tmp_path / "face.pgm"
    picture.write_bytes(b"P5 24 24 255\n" + bytes(range(192)) * 3)
    done = slimfer("predict", str(picture), "--no-detect", "--model", str(artifact), "--json", code=block)
    assert json.loads(done.stdout)[0]["status"] == "ok"
    for verb in (
        ["train", "--out", str(tmp_path / "run"), "--model", "mobile", "--data", "synthetic"],
        ["report", "."],
    ):
        done = slimfer(*verb, code=block)
        assert done.returncode == 2
        assert done.stderr == f'error: {verb[0]} needs the training side: pip install "slimfer[train]"\n'


def test_python_m_slimfer_and_the_script_are_the_same(slimfer) -> None:
    script = Path(sys.executable).with_name("slimfer")
    if not script.exists():
        pytest.skip("slimfer is not installed as a script here")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout == slimfer("--help").stdout


@pytest.mark.alone
def test_help_is_quick(slimfer) -> None:
    """At most 25 times a bare Python (measured: 14), best of three."""

    def best(call) -> float:
        times = []
        for _ in range(3):
            begun = time.monotonic()
            call()
            times.append(time.monotonic() - begun)
        return min(times)

    bare = best(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    assert best(lambda: slimfer("--help")) < 25 * bare
