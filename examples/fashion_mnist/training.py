"""One run: a network trained from scratch, or a trained one pruned during training and trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pconv_ops.splitting import SplittingPruner

from .data import Dataset, augmented_batches, normalise, padded_by

BATCH = 128
# Of the forward pass in training; weights, optimizer and every accuracy are fp32.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCANNED = 2000  # training images that rates are chosen by


@dataclass(frozen=True)
class Schedule:
    """Epochs: `dense` from scratch; then, for a pruned run, `draw` with the penalty and `retrain` with frozen masks.
    The learning rate of the first rises and falls; it is `draw_rate` during the second; it falls during the third."""

    dense: int = 10
    draw: int = 3
    retrain: int = 7
    steps: int = 8  # of the pruner, an epoch
    dense_rate: float = 0.1
    draw_rate: float = 0.02
    retrain_rate: float = 0.05
    images: int | None = None  # of the training split, and a quarter as many to test; None: all
    precision: str = "fp32"  # a key of PRECISIONS

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"schedule: precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        if min(self.dense, self.draw, self.retrain, self.steps) < 1:
            raise ValueError(f"schedule: every phase needs an epoch, and an epoch a step; got {self}")

    @property
    def pruned(self) -> int:
        return self.draw + self.retrain

    def dense_lr(self, done: float) -> float:
        """Learning rate when this share of the epochs is done: up for a fifth of them, down along a cosine."""
        return self.dense_rate * (done / 0.2 if done < 0.2 else _cosine((done - 0.2) / 0.8))

    def pruned_lr(self, done: float) -> float:
        epoch = done * self.pruned
        if epoch < self.draw:
            return self.draw_rate
        return self.retrain_rate * _cosine((epoch - self.draw) / self.retrain)


def _cosine(done: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * done)


@dataclass
class Outcome:
    """What a run gave: percent of the test split, at the end, after each epoch and, if pruned, right after the cut."""

    accuracy: float = 0.0
    curve: list[float] = field(default_factory=list)
    cut: float | None = None


class Trainer:
    """Trains on a dataset that lies in memory on a device, always the same way for the same seed."""

    def __init__(self, dataset: Dataset, device: torch.device, seed: int, precision: str = "fp32") -> None:
        self.device = device
        train = dataset.train
        # Padded before they are normalised: the border is black, as it is around every image.
        self._padded = normalise(padded_by(train.images, dataset.shift), dataset.train).to(device)
        self._labels = train.labels.to(device)
        self._test = normalise(dataset.test.images, dataset.train).to(device)
        self._test_labels = dataset.test.labels.to(device)
        self._shift, self._seed, self._precision = dataset.shift, seed, PRECISIONS[precision]

    def from_scratch(self, net: Callable[[], nn.Module], schedule: Schedule, tell: Callable[[str], None]) -> nn.Module:
        torch.manual_seed(self._seed)
        model = net().to(self.device, memory_format=torch.channels_last)
        self.outcome = Outcome()
        for epoch, _ in enumerate(self._epochs(model, schedule.dense, schedule.dense_lr)):
            self._note(model, epoch, tell)
        return model

    def prune(
        self, model: nn.Module, pruner: SplittingPruner | None, schedule: Schedule, tell: Callable[[str], None]
    ) -> nn.Module:
        """Trains the model on, with the pruner's penalty until it is cut; without a pruner just as long."""
        self.outcome = Outcome()
        for epoch, _ in enumerate(self._epochs(model, schedule.pruned, schedule.pruned_lr, pruner, schedule.steps)):
            if pruner is not None and epoch + 1 == schedule.draw:
                pruner.finalize()
                self.outcome.cut = self.accuracy(model)
            self._note(model, epoch, tell)
        return model

    def _epochs(
        self,
        model: nn.Module,
        epochs: int,
        rate: Callable[[float], float],
        pruner: SplittingPruner | None = None,
        steps: int = 0,
    ) -> Iterator[None]:
        """Stops after each epoch. `rate`: learning rate by the share of the epochs that is done. The pruner has `steps`
        evenly spaced steps an epoch, the last one at its end."""
        generator = torch.Generator().manual_seed(self._seed)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
        )
        n = len(self._labels) // BATCH
        for epoch in range(epochs):
            model.train()
            batches = augmented_batches(self._padded, self._labels, BATCH, self._shift, generator)
            for i, (images, labels) in enumerate(batches):
                optimizer.param_groups[0]["lr"] = rate((epoch + i / n) / epochs)
                optimizer.zero_grad()
                loss = cross_entropy(self._forward(model, images), labels)
                if pruner is not None:
                    loss = loss + pruner.penalty()
                loss.backward()
                optimizer.step()
                if pruner is not None and (i + 1) * steps // n > i * steps // n:
                    pruner.step()
            yield

    def _forward(self, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, self._precision, enabled=self._precision != torch.float32):
            logits: torch.Tensor = model(images)
        return logits.float()

    def _note(self, model: nn.Module, epoch: int, tell: Callable[[str], None]) -> None:
        self.outcome.accuracy = self.accuracy(model)
        self.outcome.curve.append(self.outcome.accuracy)
        tell(f"{self.outcome.accuracy:.2f} %")

    def accuracy(self, model: nn.Module) -> float:
        hits = self.logits(model).argmax(1) == self._test_labels
        return 100 * hits.double().mean().item()

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """Minus the mean loss on some training images: what a scan may look at before anything is trained."""
        model.eval()
        shift = self._shift
        images = self._padded[:SCANNED, :, shift : self._padded.shape[2] - shift, shift : self._padded.shape[3] - shift]
        return -cross_entropy(model(images), self._labels[:SCANNED]).item()

    @torch.no_grad()
    def logits(self, model: nn.Module) -> torch.Tensor:
        """[N, classes] of the test split."""
        model.eval()
        return torch.cat([model(images) for images in self._test.split(500)])
