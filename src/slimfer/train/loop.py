"""The one training loop, with four seams (after backward, step and epoch, before judging) and an objective.

A run that is killed at any moment continues bit-equal: order and augmentation of step s in epoch e depend on
(seed, e, s) alone, and everything else that a step changes is in one file, written atomically. (Bit-equal on the same
machine with the same number of threads; on a GPU as far as its kernels repeat themselves.)
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slimfer.data.frames import Frames
from slimfer.errors import InputError
from slimfer.files import sweep_stale, write_text
from slimfer.metrics import score
from slimfer.model.spec import NetSpec
from slimfer.model.zoo import build
from slimfer.train.augment import augment, mixup, step_generator
from slimfer.train.averaging import WeightAverage
from slimfer.train.checkpoint import Checkpoint, load_tensors, save_tensors, weights_of
from slimfer.train.config import TrainConfig
from slimfer.train.evaluate import predict_logits, softmax
from slimfer.train.learning import frozen_layers, optimizer_of
from slimfer.train.objective import Attached, Objective, balanced_weights, cross_entropy, smooth, weighted
from slimfer.train.schedule import lr_at
from slimfer.train.state import differences, identity, optimizer_tensors, restore_optimizer

COLUMNS = ("epoch", "time", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/macro_f1", "lr")
_COUNTERS = ("epoch", "step", "seconds", "history", "best_epoch", "best_score")


class Hook:
    """What a method adds to training. Override what it needs; the list of seams is closed.

    Plain attributes (numbers, texts) are settings: a run resumes only with the same ones. What changes during training
    belongs into `state_dict`.
    """

    def after_backward(self, net: nn.Module, progress: float) -> None:
        """Change gradients (slimming penalty, masks)."""

    def after_step(self, net: nn.Module, progress: float) -> None:
        """Change weights (re-apply a mask)."""

    def after_epoch(self, net: nn.Module, epoch: int) -> None:
        """Change phase."""

    def before_judging(self, net: nn.Module, progress: float) -> bool:
        """Make the network that is judged, whose weights may be averages, what the method wants (masked).

        Return whether it may be chosen: not, say, while its mask still grows.
        """
        return True

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return what the hook must get back when a killed run goes on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; given to the watcher after each step and, with `row` (see `COLUMNS`), after each epoch.

    Epochs and steps done count from 0 and 1; `loss` is that of the step (NaN on a GPU, which is not waited for), or the
    epoch's mean.
    """

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
    """Train `start` and return the checkpoint of the epoch with the best validation accuracy (the first, of equals).

    `run` then holds `results.csv`, `weights/best.safetensors` (what is returned), `weights/last.safetensors` (the
    network of the last row of `results.csv`) and `weights/last.state` (to resume from). With `config.average`, both
    networks have the averaged weights. Torch's global generators are left as they were.

    Args:
        start: structure and first weights.
        train: pictures to learn from.
        validation: pictures to choose the epoch on.
        config: everything else that decides the result.
        run: folder for results, weights and state; None keeps all in memory.
        resume: continue from `run`'s state if there is one.
        objective: loss of (logits, target, input batch); one that needs the network too has a method `attach(net)`.
        hooks: methods that act during training.
        device: `cpu` or `cuda`.
        step_name: name of this training in the lineage.
        watch: called with the progress.

    Raises:
        InputError: if the data does not fit the network or the batch, a state belongs to another run, or the training
            diverges.
    """
    _check(start, train, validation, config)
    trainer = _Trainer(start, train, validation, config, run, objective, hooks, device, step_name, watch)
    if run is not None:
        sweep_stale(run)
        if resume:
            trainer.load()
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        return trainer.run_all()


def initial(spec: NetSpec, labels: tuple[str, ...], *, seed: int, gamma: float = 1.0) -> Checkpoint:
    """Return a checkpoint with fresh weights; see `slimfer.model.zoo.build`."""
    return Checkpoint(spec, weights_of(build(spec, seed=seed, gamma=gamma)), labels)


def uses_bf16(precision: str, device: str) -> bool:
    """Return whether to train in bf16: as asked, or by `auto` where the processor multiplies it natively."""
    if precision != "auto":
        return precision == "bf16"
    if torch.device(device).type == "cuda":
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
        self.net = _placed(start.build(), self.device).train()
        for layer in frozen_layers(self.net, config.frozen):
            layer.eval().requires_grad_(False)  # in evaluation, BN statistics stay
        if isinstance(objective, Attached):
            objective.attach(self.net)
        self.images = _tensor(train.images, self.device)
        self.targets = _tensor(train.targets(), self.device)
        self.class_weights: Tensor | None = None
        if config.class_weights == "balanced":
            self.class_weights = balanced_weights(_tensor(train.labels, self.device), len(train.classes))
        self.steps = len(train) // config.batch_size
        self.optimizer = optimizer_of(self.net, config)
        self.average = WeightAverage(self.net, config.average)
        self.epoch = self.step = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.hits = torch.zeros((), dtype=torch.int64, device=self.device)
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.best_epoch, self.best_score = 0, -1.0
        self.best = weights_of(self.net)
        data = {"train": train, "validation": validation}
        self.identity = identity(start, data, config, objective, hooks, step_name) if run else {}

    # --- the loop -----------------------------------------------------------------------------------------------------
    def run_all(self) -> Checkpoint:
        while self.epoch < self.config.epochs and not self._stopped_early():
            self.run_epoch()
        result = self._checkpoint(self.best, self.best_epoch)
        if self.run is not None:
            weights = self.run / "weights"
            result.save(weights / "best.safetensors")
            self._checkpoint(weights_of(self._judged()[0]), len(self.history) - 1).save(weights / "last.safetensors")
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
        progress = self._progress()
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
        self.average.update(self.net)
        # Note what happened, without waiting for a GPU.
        self.loss_sum += loss.detach().double()
        self.hits += (logits.detach().argmax(1) == hard).sum()
        if self.device.type != "cpu":
            return math.nan
        self._check_finite(float(loss.detach()))
        return float(loss.detach())

    def finish_epoch(self, clock: float) -> None:
        config = self.config
        for hook in self.hooks:
            hook.after_epoch(self.net, self.epoch)
        judged, ready = self._judged()
        logits = predict_logits(judged, self.validation, bf16=self.bf16)
        self._check_finite(float(self.loss_sum), float(np.abs(logits).max()))
        scores = score(softmax(logits), self.validation.labels, self.validation.classes)
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
        if ready and scores["accuracy"] > self.best_score:
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

    def _judged(self) -> tuple[nn.Module, bool]:
        """Return the network that is evaluated, with averaged weights if they are averaged; and if it may be chosen."""
        judged = self.net
        if self.config.average:
            judged = _placed(self.start.build(), self.device)
            judged.load_state_dict(self.average.tensors)
        ready = [hook.before_judging(judged, self._progress()) for hook in self.hooks]  # each one, whatever others say
        return judged, all(ready)

    def _progress(self) -> float:
        """Return which share of the training is done, in [0, 1]."""
        return (self.epoch * self.steps + self.step) / (self.config.epochs * self.steps)

    def _checkpoint(self, weights: Mapping[str, Tensor], epoch: int) -> Checkpoint:
        record = {
            "step": self.step_name,
            "config": asdict(self.config),
            "epoch": epoch + 1,
            "val_accuracy": self.history[epoch]["val/accuracy"],
        }
        quant = {name: weights[name] for name in self.start.quant}
        return replace(
            self.start,
            weights={name: tensor for name, tensor in weights.items() if name not in quant},
            lineage=(*self.start.lineage, record),
            quant=quant,
        )

    def _check_finite(self, *values: float) -> None:
        if not all(math.isfinite(value) for value in values):
            raise InputError(
                f"training diverged in epoch {self.epoch + 1}, at step {min(self.step + 1, self.steps)} or before: "
                f"loss or outputs are not finite; lower lr ({self.config.lr}) or raise warmup ({self.config.warmup})"
            )

    def _stopped_early(self) -> bool:
        chosen = self.best_score >= 0
        return bool(self.config.early_stop) and chosen and self.epoch - 1 - self.best_epoch >= self.config.early_stop

    # --- the state on disk --------------------------------------------------------------------------------------------
    @property
    def state_path(self) -> Path:
        assert self.run is not None
        return self.run / "weights" / "last.state"

    def save(self) -> None:
        self._check_finite(float(self.loss_sum))  # never overwrite a good state by a broken one
        parts: dict[str, Mapping[str, Tensor]] = {
            "net": weights_of(self.net),
            "best": self.best,
            "average": self.average.tensors if self.config.average else {},
            "optimizer": optimizer_tensors(self.optimizer),
            "sums": {"loss": self.loss_sum, "hits": self.hits},
        }
        parts |= {f"hook{index}": hook.state_dict() for index, hook in enumerate(self.hooks)}
        tensors = {f"{part}.{name}": tensor.cpu() for part, named in parts.items() for name, tensor in named.items()}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        meta = {"kind": "state", **counters, "updates": self.average.updates, "identity": self.identity}
        save_tensors(self.state_path, tensors, meta)

    def load(self) -> None:
        if not self.state_path.exists():
            return
        tensors, meta = load_tensors(self.state_path)
        if meta.get("kind") != "state":
            raise InputError(f"{self.state_path}: a {meta.get('kind')}, not the state of a training run")
        if changed := differences(meta["identity"], self.identity):
            raise InputError(
                f"{self.state_path} belongs to a run with another {', '.join(changed)}; use another --out, or --force"
            )

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}

        self.net.load_state_dict(part("net"))
        self.best = part("best")
        self.average.load(part("average"))
        self.average.updates = meta["updates"]
        restore_optimizer(self.optimizer, part("optimizer"))
        sums = part("sums")
        self.loss_sum, self.hits = sums["loss"].to(self.device), sums["hits"].to(self.device)
        for index, hook in enumerate(self.hooks):
            hook.load_state_dict(part(f"hook{index}"))
        for name in _COUNTERS:
            setattr(self, name, meta[name])

    def _write_csv(self) -> None:
        assert self.run is not None
        lines = [",".join(COLUMNS)]
        lines += [",".join(f"{row[c]:g}" if c == "epoch" else f"{row[c]:.6g}" for c in COLUMNS) for row in self.history]
        write_text(self.run / "results.csv", "\n".join(lines) + "\n")


def _check(start: Checkpoint, train: Frames, validation: Frames, config: TrainConfig) -> None:
    for name, frames in (("train", train), ("validation", validation)):
        if not len(frames):
            raise InputError(f"the {name} split is empty")
        if len(frames.classes) != start.spec.classes:
            raise InputError(f"the {name} split has {len(frames.classes)} classes, the network {start.spec.classes}")
        if frames.classes != start.labels:
            raise InputError(
                f"the {name} split has the classes {', '.join(frames.classes)}, in this order; "
                f"the network {', '.join(start.labels)}"
            )
        if frames.images.shape[2:] != (start.spec.image, start.spec.image):
            height, width = frames.images.shape[2:]
            raise InputError(f"the {name} split has pictures of {width} x {height} px, the network {start.spec.image}")
        if frames.channels != start.spec.channels:
            raise InputError(f"the {name} split has {frames.channels} channels, the network {start.spec.channels}")
    if config.batch_size > len(train):
        raise InputError(f"batch_size is {config.batch_size}, but the train split has only {len(train)} pictures")


def _tensor(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return the array in memory; it is copied only if it is a read-only map or not in one piece."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def _placed(net: nn.Module, device: torch.device) -> nn.Module:
    """Return `net` on the device, its weights in the layout in which convolutions are fastest."""
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
