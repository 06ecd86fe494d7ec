"""The verbs `dsd` and `prune`, on a few synthetic faces."""

import json
from pathlib import Path

import pytest

from slimfer.train.checkpoint import Checkpoint

PHASES = ("--sparse-epochs", "1", "--dense-epochs", "1", "--batch-size", "64")


def stage(run: Path, name: str) -> Checkpoint:
    return Checkpoint.load(run / "stages" / name / "result.safetensors")


def share_of_zeros(checkpoint: Checkpoint, *, least: int = 2) -> dict[str, float]:
    return {
        name: float((tensor == 0).double().mean())
        for name, tensor in checkpoint.weights.items()
        if name.endswith("weight") and tensor.ndim >= least
    }


@pytest.fixture(scope="module")
def dsd(inside, checkpoint: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dsd") / "run"
    done = inside("dsd", str(checkpoint), "--data", str(faces), "--sparsity", "0.5", *PHASES, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert f"next: slimfer dsd --recipe {out}/recipe.toml --control" in done.stderr
    assert "3-dense" in done.stdout
    return out


def test_dsd_has_a_sparse_and_a_dense_phase(dsd: Path, checkpoint: Path) -> None:
    last = Checkpoint.load(dsd / "weights" / "best.safetensors")
    assert last.spec == Checkpoint.load(checkpoint).spec
    assert [entry["step"] for entry in last.lineage] == ["mask", "sparse", "dense"]
    for share in share_of_zeros(stage(dsd, "2-sparse")).values():
        assert share == pytest.approx(0.5, abs=0.02)
    assert max(share_of_zeros(last).values()) < 0.05, "after two steps a dead unit may have got no gradient yet"
    stages = json.loads((dsd / "results.json").read_text())["stages"]
    assert [one["name"] for one in stages] == ["start", "1-mask", "2-sparse", "3-dense"]


def test_resuming_a_finished_dsd_trains_nothing_and_needs_no_flags(inside, dsd: Path) -> None:
    before = json.loads((dsd / "results.json").read_text())["stages"]
    done = inside("dsd", "--out", str(dsd), "--resume", "--json")
    assert json.loads(done.stdout)["stages"] == before
    assert "epoch" not in done.stderr


def test_resuming_with_another_sparsity_is_refused(inside, dsd: Path) -> None:
    done = inside("dsd", "--out", str(dsd), "--resume", "--sparsity", "0.4")
    assert done.returncode == 2
    assert "holds a chain with other settings" in done.stderr


def test_the_recipe_of_a_dsd_runs_its_control(inside, dsd: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "control")
    done = inside("dsd", "--recipe", str(dsd / "recipe.toml"), "--control", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["stages"]] == ["start", "1-dense", "2-dense"]
    again = inside("dsd", "--out", out, "--resume", "--json")  # the recipe knows that it is the control
    assert json.loads(again.stdout)["stages"] == json.loads(done.stdout)["stages"]


def test_dsd_with_a_frozen_backbone_masks_what_learns(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    start = Checkpoint.load(checkpoint)
    blocks = [name.removesuffix(".weight") for name, tensor in start.weights.items() if tensor.ndim == 4]
    frozen = [word for name in blocks for word in ("--frozen", name)]
    line = ("dsd", str(checkpoint), "--data", str(faces), *frozen, "--biases", *PHASES, "--out", str(tmp_path / "run"))
    assert inside(*line).returncode == 0
    sparse, dense = (stage(tmp_path / "run", name) for name in ("2-sparse", "3-dense"))
    shares = share_of_zeros(sparse)
    masked = [name for name, share in shares.items() if share]
    assert masked == [name for name, tensor in start.weights.items() if tensor.ndim == 2], "the linear layers"
    assert all(bool((dense.weights[f"{name}.weight"] == start.weights[f"{name}.weight"]).all()) for name in blocks)
    # The same line again, as people resume.
    assert inside(*line, "--resume").returncode == 0


def test_prune_in_passes_fine_tunes_between(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    done = inside(
        "prune", str(checkpoint), "--data", str(faces), "--criterion", "taylor", "--images", "64", "--params", "4000",
        "--round-to", "1", "--passes", "2", "--finetune-epochs", "1", "--batch-size", "64",
        "--out", str(tmp_path / "run"), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [one["name"] for one in stages] == ["start", "1-prune", "2-finetune", "3-prune", "4-finetune"]
    sizes = [one["params"] for one in stages]
    assert sizes[4] == pytest.approx(4000, rel=0.06)
    assert sizes[1] == pytest.approx((sizes[0] * 4000) ** 0.5, rel=0.06), "both passes keep the same share"
    again = inside("prune", "--out", str(tmp_path / "run"), "--resume", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["stages"] == stages


def test_prune_to_a_pattern_and_tune_under_the_mask(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = ("prune", str(checkpoint), "--data", str(faces), "--batch-size", "64", "--out", str(run), "--json")
    done = inside(*line, "--pattern", "2:4", "--finetune-epochs", "1")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [one["name"] for one in stages] == ["start", "1-mask", "2-sparse"]
    masked, tuned = stage(run, "1-mask"), Checkpoint.load(run / "weights" / "best.safetensors")
    assert share_of_zeros(masked) == share_of_zeros(tuned)
    assert 0.5 in share_of_zeros(tuned).values()
    again = inside("prune", "--out", str(run), "--resume", "--json")
    assert json.loads(again.stdout)["stages"] == stages


def test_prune_by_magnitude_alone_trains_nothing(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    line = ("prune", str(checkpoint), "--data", str(faces), "--out", str(tmp_path / "run"), "--json")
    done = inside(*line, "--criterion", "magnitude", "--sparsity", "0.5")
    assert [one["name"] for one in json.loads(done.stdout)["stages"]] == ["start", "1-mask"]
    assert "epoch" not in done.stderr


def test_a_recipe_with_steps_is_followed(inside, checkpoint: Path, faces: Path, tmp_path: Path) -> None:
    """The snippet of docs/methods/pruning.md: several passes, each with its own ratio."""
    recipe = tmp_path / "passes.toml"
    recipe.write_text(
        '[prune]\ncriterion = "fpgm"\nlimits = { round_to = 1 }\n[finetune]\nepochs = 1\nbatch_size = 64\n'
        '[[steps]]\ndo = "prune"\nratio = 0.3\n[[steps]]\ndo = "finetune"\n[[steps]]\ndo = "prune"\nratio = 0.2\n'
    )
    line = ("prune", str(checkpoint), "--data", str(faces), "--recipe", str(recipe), "--json")
    done = inside(*line, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["stages"]] == ["start", "1-prune", "2-finetune", "3-prune"]
    entries = [e for e in Checkpoint.load(tmp_path / "run" / "weights" / "best.safetensors").lineage if "cut" in e]
    assert [round(entry["cut"], 1) for entry in entries] == [0.3, 0.2]
    done = inside(*line, "--criterion", "l1", "--ratio", "0.4", "--out", str(tmp_path / "flags"))
    assert [one["name"] for one in json.loads(done.stdout)["stages"]] == ["start", "1-prune"], "flags go over it"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dsd", "--sparsity", "1"), "sparsity must be at least 0 and below 1, not 1.0"),
        (("dsd", "--pattern", "4:2"), "N:M masks keep 1 to M-1 of M <= 64 weights, not 4 of 2"),
        (("dsd", "--pattern", "half"), "--pattern is N:M with 1 <= N < M <= 64, such as 2:4, not 'half'"),
        (("dsd", "--pattern", "2:4", "--sparsity", "0.5"), "either --sparsity 0.5 or --pattern 2:4, not both"),
        (("dsd", "--layers", "fc9*"), "layers: no convolution or linear layer is called 'fc9*' (there are "),
        (("dsd", "--frozen", "fc9*"), "no layer is called 'fc9*' (there are "),
        (("dsd", "--rounds", "0"), "rounds must be between 1 and 20, not 0"),
        (("prune", "--ratio", "1.5"), "ratio must be at least 0 and below 1, not 1.5"),
        (("prune", "--passes", "0"), "passes must be between 1 and 20, not 0"),
        (("prune", "--passes", "2", "--finetune-epochs", "0"), "2 passes of pruning need fine-tuning between them"),
        (("prune", "--sparsity", "-0.5"), "sparsity must be at least 0 and below 1, not -0.5"),
        (("prune", "--criterion", "magnitude", "--layers", "x"), "no convolution or linear layer is called 'x'"),
        (("prune", "--criterion", "l1", "--pattern", "2:4"), "masks go by magnitude, not by l1"),
        (("prune", "--pattern", "2:4", "--ratio", "0.3"), "--ratio is for cutting filters; masks have --sparsity"),
        (("prune", "--schedule", "cubic"), "--schedule cubic with --finetune-epochs above 0"),
        (("prune", "--criterion", "magic"), "magic"),
    ],
)
def test_mistakes_are_one_sentence(inside, checkpoint: Path, faces: Path, tmp_path: Path, words, sentence) -> None:
    verb, *flags = words
    done = inside(verb, str(checkpoint), "--data", str(faces), "--out", str(tmp_path / "run"), *flags)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
