"""Many runs over processes, each kept in files as soon as it is done: OUT/runs/NET-SCHEME-sSEED.json and .pt.

A run that has its files is not run again. Pruned runs begin with the dense network of their seed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cache, cached_property, reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import nn
from tqdm import tqdm

from pconv_ops import cpu_info
from pconv_ops.checkpoint import save_atomically
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

    @cached_property
    def fingerprint(self) -> int:
        """Tells the images of this setting from others, by a checksum."""
        dataset = self.load()
        tensors = [part for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
        return reduce(lambda total, tensor: crc32(tensor.numpy().tobytes(), total), tensors, 0)

    def load(self) -> Dataset:
        """As many images as the schedule wants; read once in a process."""
        return _load(self.dataset, self.folder, self.schedule.images)

    def path(self, run: Run, suffix: str) -> Path:
        return self.out / "runs" / f"{run.name}{suffix}"

    def finished(self, run: Run) -> bool:
        """ValueError: the folder has such a run of another setting."""
        if not self.path(run, ".json").exists():
            return False
        record = self.record(run)
        ours = {"schedule": asdict(self.schedule), "dataset": self.dataset, "checksum": self.fingerprint}
        other = next((key for key, value in ours.items() if record.get(key) != value), None)
        if other is not None:
            raise ValueError(f"{self.path(run, '.json')}: was made with another {other}; take another --out")
        return True

    def record(self, run: Run) -> dict[str, Any]:
        path = self.path(run, ".json")
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: is damaged ({error}): remove it to run this again") from None
        return record


@cache
def _load(name: str, folder: Path | None, images: int | None) -> Dataset:
    if name == "cifar10":
        if folder is None:
            raise FileNotFoundError("CIFAR-10: name the folder of its files with --data")
        dataset = load_cifar10(folder)
    else:
        dataset = load_fashion_mnist(folder)
    if images is None:
        return dataset
    return replace(dataset, train=dataset.train.first(images), test=dataset.test.first(images // 4))


def build(net: str, dataset: Dataset) -> nn.Module:
    return NETS[net](dataset.image_shape[0], len(dataset.classes))


def load_model(setting: Setting, run: Run, dataset: Dataset) -> nn.Module:
    """The network that a finished run left, on the CPU."""
    model, path = build(run.net, dataset), setting.path(run, ".pt")
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch has no error of its own for a file that is damaged
        raise ValueError(f"{path}: cannot be read ({error!r}): remove it and its .json to run this again") from None
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
            "checksum": setting.fingerprint,
            "schedule": asdict(schedule),
            "seconds": round(time.perf_counter() - begun, 1),
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else cpu_info()["model"],
            "date": date.today().isoformat(),
        }
    )
    save_atomically(model.cpu().state_dict(), setting.path(run, ".pt"))
    write_json(setting.path(run, ".json"), record)
    write_json(setting.path(run, ".json"), record | {"agreement": asdict(agreement(model.eval(), dataset))})


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
    """Adds to the records what they lack: whether `convert` changes predictions and, for the first seed, milliseconds
    an image, now that nothing else runs any more. The process has one thread from then on."""
    dataset = setting.load()
    for run in tqdm(list(runs), desc="deploy", unit="run"):
        record = setting.record(run)
        measures = {"agreement": agreement} | ({"latency": latency} if run.seed == 0 else {})
        missing = {key: measure for key, measure in measures.items() if key not in record}
        if missing:
            model = load_model(setting, run, dataset)
            record |= {key: asdict(measure(model, dataset)) for key, measure in missing.items()}
            write_json(setting.path(run, ".json"), record)


# ---- over processes

_worker: dict[str, Any] = {}


def run_all(runs: Iterable[Run], setting: Setting, workers: int) -> list[str]:
    """Every run that has no files yet, dense ones first; a GPU, where there is one, does them one after another.
    Returns what went wrong, run by run: the others are finished. ValueError, FileNotFoundError: the data, or the
    folder, which another process may be filling."""
    setting.load()  # what is wrong with the data is said here, once
    (setting.out / "runs").mkdir(parents=True, exist_ok=True)
    wanted = list(runs)
    dense = [run for run in {Run(r.net, "dense", r.seed): None for r in wanted} if not setting.finished(run)]
    others = [run for run in wanted if run.scheme != "dense" and not setting.finished(run)]
    workers = 1 if torch.cuda.is_available() else workers
    failures: list[str] = []
    with _alone(setting.out), tqdm(total=len(dense) + len(others), desc="runs", unit="run", position=workers) as bar:
        for stage in (dense, others):
            context = get_context("spawn")
            arguments = (setting, workers, context.Value("i", 0), context.RLock())
            with ProcessPoolExecutor(min(workers, len(stage)) or 1, context, _start, arguments) as pool:
                started = {pool.submit(_perform, run): run for run in stage if _can_start(run, setting)}
                for done in as_completed(started):
                    error = done.exception()
                    if error is not None:
                        failures.append(f"{started[done].name}: {type(error).__name__}: {error}")
                    bar.update()
    return failures


def _can_start(run: Run, setting: Setting) -> bool:
    return run.scheme == "dense" or setting.finished(Run(run.net, "dense", run.seed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """ValueError when another process fills the folder."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder}: another process is filling this folder") from None
        yield


def _start(setting: Setting, workers: int, started: Any, lock: Any) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    tqdm.set_lock(lock)
    with started.get_lock():
        place, started.value = started.value, started.value + 1
    _worker.update(setting=setting, dataset=setting.load(), place=place)


def _perform(run: Run) -> None:
    setting, dataset = _worker["setting"], _worker["dataset"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(dataset, device, run.seed, setting.schedule.precision)
    epochs = setting.schedule.dense if run.scheme == "dense" else setting.schedule.pruned
    with tqdm(total=epochs, desc=run.name, unit="epoch", position=_worker["place"], leave=False) as bar:
        perform(run, setting, trainer, dataset, bar)
