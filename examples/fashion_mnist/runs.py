"""Many runs over processes, each kept in files as soon as it is done: OUT/runs/NET-SCHEME-sSEED.json and .pt.

A run that has its files is not run again. Pruned runs begin with the dense network of their seed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pconv_ops.report import PruneReport

from .data import Dataset, load_cifar10, load_fashion_mnist
from .deploy import agreement, latency
from .nets import NETS
from .schemes import SCHEMES
from .training import Schedule, Trainer


@dataclass(frozen=True)
class Run:
    """What tells a run from others of the same folder."""

    net: str
    scheme: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.net}-{self.scheme}-s{self.seed}"


@dataclass(frozen=True)
class Setting:
    """What all runs of a folder share."""

    out: Path
    dataset: str  # "fashion_mnist" or "cifar10"
    folder: Path | None
    schedule: Schedule

    def load(self) -> Dataset:
        """As many images as the schedule wants."""
        dataset, images = self._load(), self.schedule.images
        if images is None:
            return dataset
        return replace(dataset, train=dataset.train.first(images), test=dataset.test.first(images // 4))

    def _load(self) -> Dataset:
        if self.dataset == "cifar10":
            if self.folder is None:
                raise FileNotFoundError("CIFAR-10: name the folder of its files with --data")
            return load_cifar10(self.folder)
        return load_fashion_mnist(self.folder)

    def path(self, run: Run, suffix: str) -> Path:
        return self.out / "runs" / f"{run.name}{suffix}"

    def finished(self, run: Run) -> bool:
        """ValueError: the folder has such a run of another setting."""
        if not self.path(run, ".json").exists():
            return False
        record = self.record(run)
        if record["schedule"] != asdict(self.schedule) or record["dataset"] != self.dataset:
            raise ValueError(f"{self.path(run, '.json')}: is of another schedule or dataset; take another --out")
        return True

    def record(self, run: Run) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.path(run, ".json").read_text(encoding="utf-8"))
        return record


def build(net: str, dataset: Dataset) -> nn.Module:
    return NETS[net](dataset.image_shape[0], len(dataset.classes))


def load_model(setting: Setting, run: Run, dataset: Dataset) -> nn.Module:
    """The network that a finished run left, on the CPU."""
    model = build(run.net, dataset)
    model.load_state_dict(torch.load(setting.path(run, ".pt"), map_location="cpu", weights_only=True))
    return model.to(memory_format=torch.channels_last).eval()


def perform(run: Run, setting: Setting, trainer: Trainer, dataset: Dataset, bar: Any) -> None:
    """Trains, and writes the run's files: weights first, so that a record always has its weights."""
    begun, schedule = time.perf_counter(), setting.schedule
    scheme = SCHEMES[run.scheme]

    def tell(text: str) -> None:
        bar.update()
        bar.set_postfix_str(text)

    counts: dict[str, Any] = {}
    if run.scheme == "dense":
        model = trainer.from_scratch(lambda: build(run.net, dataset), schedule, tell)
    else:
        model = load_model(setting, Run(run.net, "dense", run.seed), dataset).to(trainer.device)
        pruner = None if scheme.build is None else scheme.build(model, trainer.score)
        trainer.prune(model, pruner, schedule, tell)
        if pruner is not None:
            counts = _counts(pruner.finalize())
    outcome = asdict(trainer.outcome)
    record = (
        asdict(run)
        | outcome
        | counts
        | {
            "dataset": setting.dataset,
            "schedule": asdict(schedule),
            "seconds": round(time.perf_counter() - begun, 1),
            "torch": torch.__version__,
            "device": str(trainer.device),
        }
    )
    torch.save(model.cpu().state_dict(), setting.path(run, ".pt"))
    write_json(setting.path(run, ".json"), record)


def _counts(report: PruneReport) -> dict[str, Any]:
    """Kept weights of the 3x3 layers behind the stem, which every scheme prunes to the same rate."""
    layers = [layer for layer in report.layers if layer.shape[2:] == (3, 3)]
    kept, total = sum(layer.nnz for layer in layers), sum(layer.total for layer in layers)
    return {"kept": kept, "total": total, "rate": total / kept, "conv_kept": report.nnz, "conv_total": report.total}


def write_json(path: Path, record: dict[str, Any]) -> None:
    """A whole file or none, whenever the run is stopped."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def deploy_all(runs: Iterable[Run], setting: Setting) -> None:
    """Adds to every record whether `convert` changes predictions and, for the first seed, milliseconds an image."""
    dataset = setting.load()
    for run in tqdm(list(runs), desc="convert", unit="run"):
        record = setting.record(run)
        model = load_model(setting, run, dataset)
        if "agreement" not in record:
            record["agreement"] = asdict(agreement(model, dataset))
        if run.seed == 0 and "latency" not in record:
            record["latency"] = asdict(latency(model, dataset))
        write_json(setting.path(run, ".json"), record)


# ---- over processes

_worker: dict[str, Any] = {}


def run_all(runs: Iterable[Run], setting: Setting, workers: int) -> None:
    """Every run that has no files yet, dense ones first; a GPU, where there is one, does them one after another."""
    setting.load()  # what is wrong with the data is said here, once
    (setting.out / "runs").mkdir(parents=True, exist_ok=True)
    wanted = {run: None for run in runs}
    dense = [run for run in {Run(r.net, "dense", r.seed): None for r in wanted} if not setting.finished(run)]
    others = [run for run in wanted if run.scheme != "dense" and not setting.finished(run)]
    if torch.cuda.is_available():
        workers = 1
    context = get_context("spawn")
    lock, places = context.RLock(), context.Queue()
    for place in range(workers):
        places.put(place)
    with tqdm(total=len(dense) + len(others), desc="runs", unit="run", position=workers) as bar:
        with context.Pool(workers, _start, (setting, workers, places, lock)) as pool:
            for stage in (dense, others):
                for _ in pool.imap_unordered(_perform, stage):
                    bar.update()


def _start(setting: Setting, workers: int, places: Any, lock: Any) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    tqdm.set_lock(lock)
    _worker.update(setting=setting, dataset=setting.load(), place=places.get())


def _perform(run: Run) -> None:
    setting, dataset = _worker["setting"], _worker["dataset"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(dataset, device, run.seed)
    epochs = setting.schedule.dense if run.scheme == "dense" else setting.schedule.pruned
    with tqdm(total=epochs, desc=run.name, unit="epoch", position=_worker["place"], leave=False) as bar:
        perform(run, setting, trainer, dataset, bar)
