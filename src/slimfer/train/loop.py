"""The one training loop, with three seams (after backward, after step, after epoch) and an objective.

A run that is killed at any moment continues bit-equal: order and augmentation of step s in epoch e depend on
(seed, e, s) alone, and everything else that a step changes is in one file, written atomically.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.files import sweep_stale, write_text
from slimfer.metrics import score
from slimfer.train.augment import augment, mixup, step_generator
from slimfer.train.checkpoint import Checkpoint, load_tensors, save_tensors, weights_of
from slimfer.train.config import TrainConfig
from slimfer.train.evaluate import predict_logits, softmax
from slimfer.train.objective import Objective, balanced_weights, cross_entropy, smooth, weighted
from slimfer.train.schedule import lr_at

COLUMNS = ("epoch", "time", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1", "lr")


class Hook:
    """What a method adds to training. Override what it needs; the list of seams is closed."""

    def after_backward(self, net: nn.Module, progress: float) -> None:
        """Change gradients (slimming penalty, masks)."""

    def after_step(self, net: nn.Module, progress: float) -> None:
        """Change weights (re-apply a mask)."""

    def after_epoch(self, net: nn.Module, epoch: int) -> None:
        """Change phase."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the watcher after each step and, with `row`, after each epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    row: dict[str, float] | None = None


class Watcher(Protocol):
    """Shows progress to a person."""

    def __call__(self, progress: Progress) -> None:
        """Take note of one step or epoch."""


def fit(
    start: Checkpoint,
    train: Frames,
    validation: Frames,
    config: TrainConfig,
    *,
    run: Path | None = None,
    resume: bool = False,
    objective: Objective = cross_entropy,
    hooks: Sequence[Hook] = (),
    device: str = "cpu",
    step_name: str = "train",
    watch: Watcher | None = None,
) -> Checkpoint:
    """Train from `start` and return the checkpoint of the epoch with the best validation accuracy.

    Args:
        start: structure and first weights.
        train: pictures to learn from.
        validation: pictures to choose the epoch on.
        config: everything else that decides the result.
        run: folder for `results.csv`, `weights/` and the state to resume from; None keeps all in memory.
        resume: continue from `run`'s state if there is one.
        objective: loss of (logits, target, input batch).
        hooks: methods that act during training.
        device: `cpu` or `cuda`.
        step_name: name of this training in the lineage.
        watch: called with the progress.

    Raises:
        InputError: if the data does not fit the network or the batch, or a state belongs to another run.
    """
    _check(start, train, validation, config)
    trainer = _Trainer(start, train, validation, config, run, objective, hooks, device, step_name, watch)
    if run is not None:
        sweep_stale(run)
        if resume:
            trainer.load()
    return trainer.run_all()


def initial(spec: Any, labels: tuple[str, ...], *, seed: int, gamma: float = 1.0) -> Checkpoint:
    """Return a checkpoint with fresh weights."""
    from slimfer.model.zoo import build

    return Checkpoint(spec, weights_of(build(spec, seed=seed, gamma=gamma)), labels)


def uses_bf16(precision: str, device: str) -> bool:
    """Return whether to train in bf16: as asked, or by `auto` where the processor multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Trainer:
    """The state of one run; `fit` is its only user."""

    def __init__(
        self,
        start: Checkpoint,
        train: Frames,
        validation: Frames,
        config: TrainConfig,
        run: Path | None,
        objective: Objective,
        hooks: Sequence[Hook],
        device: str,
        step_name: str,
        watch: Watcher | None,
    ) -> None:
        self.start, self.validation, self.config = start, validation, config
        self.run, self.objective, self.hooks, self.step_name, self.watch = run, objective, hooks, step_name, watch
        self.device = torch.device(device)
        self.bf16 = uses_bf16(config.precision, device)
        self.net = start.build().to(self.device, memory_format=torch.channels_last).train()
        self.images = torch.from_numpy(np.ascontiguousarray(train.images)).to(self.device)
        self.targets = torch.from_numpy(train.targets()).to(self.device)
        self.class_weights: Tensor | None = None
        if config.class_weights == "balanced":
            self.class_weights = balanced_weights(torch.from_numpy(train.labels), len(train.classes)).to(self.device)
        self.steps = len(train) // config.batch_size
        self.optimizer = _optimizer(self.net, config)
        self.average = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}
        self.epoch = self.step = 0
        self.updates = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.hits = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_score = 0, -1.0
        self.best = weights_of(self.net)

    # --- the loop -----------------------------------------------------------------------------------------------------
    def run_all(self) -> Checkpoint:
        while self.epoch < self.config.epochs and not self._stopped_early():
            self.run_epoch()
        result = self.result()
        if self.run is not None:
            weights = self.run / "weights"
            result.save(weights / "best.safetensors")
            self.start.after(self.step_name, self.net).save(weights / "last.safetensors")
            self._write_csv()
        return result

    def run_epoch(self) -> None:
        config = self.config
        order = torch.randperm(len(self.images), generator=step_generator(config.seed, self.epoch + 1))
        saved = begun = time.monotonic()
        elapsed = self.seconds
        while self.step < self.steps:
            # Pick the pictures of this step; everything random in it follows from (seed, epoch, step).
            index = order[self.step * config.batch_size : (self.step + 1) * config.batch_size].to(self.device)
            loss = self.train_step(self.images[index], self.targets[index])
            self.step += 1
            now = time.monotonic()
            self.seconds = elapsed + now - begun
            if self.watch:
                self.watch(Progress(self.epoch, config.epochs, self.step, self.steps, loss))
            if self.run is not None and now - saved >= config.save_seconds and self.step < self.steps:
                self.save()
                saved = time.monotonic()
        self.finish_epoch(elapsed - begun)

    def train_step(self, images: Tensor, target: Tensor) -> float:
        config = self.config
        generator = step_generator(config.seed, self.epoch + 1, self.step + 1)
        progress = (self.epoch * self.steps + self.step) / (config.epochs * self.steps)
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # dropout
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(progress, config)
        # Vary the pictures and prepare the targets.
        x = augment(images, config.augment, generator).contiguous(memory_format=torch.channels_last)
        hard = target.argmax(1)
        if config.augment.mixup:
            x, target = mixup(x, target, config.augment.mixup, generator)
        target = weighted(smooth(target, config.label_smoothing), self.class_weights)
        # Forward, backward, the methods' say, step.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(x)
            loss = self.objective(logits, target, x)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for hook in self.hooks:
            hook.after_backward(self.net, progress)
        self.optimizer.step()
        for hook in self.hooks:
            hook.after_step(self.net, progress)
        self._update_average()
        # Note what happened, without waiting for a GPU.
        self.loss_sum += loss.detach().double()
        self.hits += (logits.detach().argmax(1) == hard).sum()
        return float(loss.detach()) if self.device.type == "cpu" else float("nan")

    def finish_epoch(self, clock: float) -> None:
        config = self.config
        for hook in self.hooks:
            hook.after_epoch(self.net, self.epoch)
        judged = self._averaged_net()
        probabilities = softmax(predict_logits(judged, self.validation, bf16=self.bf16))
        scores = score(probabilities, self.validation.labels, self.validation.classes)
        count = self.steps * config.batch_size
        self.seconds = clock + time.monotonic()
        row = {
            "epoch": self.epoch + 1,
            "time": round(self.seconds, 3),
            "train/loss": float(self.loss_sum) / self.steps,
            "train/accuracy": int(self.hits) / count,
            "val/loss": scores["nll"],
            "val/accuracy": scores["accuracy"],
            "val/macro_f1": scores["macro_f1"],
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        self.history.append(row)
        if scores["accuracy"] > self.best_score:
            self.best_epoch, self.best_score = self.epoch, scores["accuracy"]
            self.best = weights_of(judged)
        self.epoch, self.step = self.epoch + 1, 0
        self.loss_sum.zero_()
        self.hits.zero_()
        if self.run is not None:
            self.save()
            self._write_csv()
        if self.watch:
            self.watch(Progress(self.epoch - 1, config.epochs, self.steps, self.steps, row["train/loss"], row))

    def result(self) -> Checkpoint:
        return Checkpoint(
            self.start.spec,
            self.best,
            self.start.labels,
            (
                *self.start.lineage,
                {
                    "step": self.step_name,
                    "config": asdict(self.config),
                    "epoch": self.best_epoch + 1,
                    "val_accuracy": self.best_score,
                },
            ),
        )

    # --- weight averaging -----------------------------------------------------------------------------------------------
    def _update_average(self) -> None:
        self.updates += 1
        if not self.config.average:
            return
        # Follow closely at first, so that the random start is forgotten (as in the warm-up of Tan and Le 2019).
        decay = min(self.config.average, (1 + self.updates) / (10 + self.updates))
        state = self.net.state_dict()
        floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floats], [state[n].detach() for n in floats], 1 - decay)

    def _averaged_net(self) -> nn.Module:
        if not self.config.average:
            return self.net
        judged = self.start.build().to(self.device, memory_format=torch.channels_last)
        judged.load_state_dict(self.average)
        return judged

    # --- the state on disk --------------------------------------------------------------------------------------------------
    @property
    def state_path(self) -> Path:
        assert self.run is not None
        return self.run / "weights" / "last.state"

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a state to belong to this run; speed of saving is not part of it."""
        return {
            "spec": self.start.spec.to_dict(),
            "config": {k: v for k, v in asdict(self.config).items() if k != "save_seconds"},
            "step": self.step_name,
            "steps": self.steps,
        }

    def save(self) -> None:
        tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in weights_of(self.net).items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        if self.config.average:
            tensors |= {f"average.{k}": v.cpu().contiguous() for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": torch.as_tensor(v).cpu() for k, v in state.items() if v is not None}
        tensors |= {"loss_sum": self.loss_sum.cpu(), "hits": self.hits.cpu()}
        counters = {
            name: getattr(self, name)
            for name in ("epoch", "step", "updates", "seconds", "history", "best_epoch", "best_score")
        }
        save_tensors(self.state_path, tensors, {"kind": "state", **counters, "identity": self._identity()})

    def load(self) -> None:
        if not self.state_path.exists():
            return
        tensors, meta = load_tensors(self.state_path)
        if _as_json(meta["identity"]) != _as_json(self._identity()):
            raise InputError(f"{self.state_path} belongs to a run with other settings; use another --out, or --force")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.net.load_state_dict(part("net."))
        self.best = part("best.")
        if self.config.average:
            self.average = {k: v.to(self.device) for k, v in part("average.").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in part("optimizer.").items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.loss_sum, self.hits = tensors["loss_sum"].to(self.device), tensors["hits"].to(self.device)
        for name in ("epoch", "step", "updates", "seconds", "history", "best_epoch", "best_score"):
            setattr(self, name, meta[name])

    def _write_csv(self) -> None:
        assert self.run is not None
        lines = [",".join(COLUMNS)]
        lines += [",".join(f"{row[c]:g}" if c == "epoch" else f"{row[c]:.6g}" for c in COLUMNS) for row in self.history]
        write_text(self.run / "results.csv", "\n".join(lines) + "\n")

    def _stopped_early(self) -> bool:
        return bool(self.config.early_stop) and self.epoch - 1 - self.best_epoch >= self.config.early_stop > 0


def _check(start: Checkpoint, train: Frames, validation: Frames, config: TrainConfig) -> None:
    for name, frames in (("train", train), ("validation", validation)):
        if not len(frames):
            raise InputError(f"the {name} split is empty")
        if len(frames.classes) != start.spec.classes:
            raise InputError(f"the {name} split has {len(frames.classes)} classes, the network {start.spec.classes}")
        if frames.channels != start.spec.channels:
            raise InputError(f"the {name} split has {frames.channels} channels, the network {start.spec.channels}")
    if config.batch_size > len(train):
        raise InputError(f"batch_size is {config.batch_size}, but the train split has only {len(train)} pictures")


def _optimizer(net: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def _as_json(value: Any) -> str:
    import json

    return json.dumps(value, sort_keys=True)
