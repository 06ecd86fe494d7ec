"""What is trained beside the network that a search found."""

from dataclasses import replace
from pathlib import Path

from searching import CONFIG, GOAL, QUICK, seeker, trained
from slimfer.compress.config import DistillConfig
from slimfer.export.beside import controls
from slimfer.export.probe import Measured
from slimfer.train.checkpoint import Checkpoint


def test_from_scratch_with_the_named_teachers_and_without_any(tmp_path: Path) -> None:
    dense = trained()
    dense.save(tmp_path / "dense.safetensors")
    plain = replace(CONFIG, train=QUICK)
    taught = replace(plain, distill=DistillConfig(teachers=(str(tmp_path / "dense.safetensors"),)))
    goal = replace(GOAL, max_size=9000, trials=1)
    nets: dict[str, Checkpoint] = {}
    for name, config in {"plain": plain, "taught": taught}.items():
        one = seeker(dense, tmp_path / name, goal, config)
        plan = one.run()
        final = next(row for row in one.table.rows if row["kept"])
        known = Measured(**{key: final[key] for key in ("bytes", "ms", "macs", "params", "accuracy")})
        points = list(controls(one, plan, known))
        rows = {row["name"]: row for row in one.table.rows if row["kind"] == "control"}
        scratch = [row for row in rows if row.startswith(("control-scratch", "control-untaught"))]
        assert scratch == ["control-scratch"] + (["control-untaught"] if config is taught else [])
        assert sum(point["series"] == "from scratch" for point in points) == len(scratch)
        for control in scratch:
            assert rows[control]["parameter"] == {"epochs": 6 + CONFIG.finetune.epochs}
            assert (rows[control]["params"], rows[control]["macs"]) == (known.params, known.macs)
            nets[f"{name} {control}"] = Checkpoint.load(tmp_path / name / control / "1-train" / "result.safetensors")
    # Without a teacher a network is what it is where none is named; with one it is not.
    weights = {name: {key: tensor.tolist() for key, tensor in net.weights.items()} for name, net in nets.items()}
    assert len(weights) == 3
    assert weights["taught control-untaught"] == weights["plain control-scratch"]
    assert weights["taught control-scratch"] != weights["plain control-scratch"]
