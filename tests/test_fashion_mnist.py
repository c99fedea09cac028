"""The experiment of examples/fashion_mnist: files of datasets, nets, schemes, table, and a quick run of everything."""

import fcntl
import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.fashion_mnist import data, deploy, nets, pictures, table, training
from examples.fashion_mnist.schemes import SCHEMES

ROOT = Path(__file__).parent.parent
needs_data = pytest.mark.skipif(
    not data.DEBIAN_FOLDER.is_dir(), reason="no Fashion-MNIST here: install Debian's package dataset-fashion-mnist"
)
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:finalize\\(\\) without")]


# ---- files


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


def fashion_folder(folder, n=20):
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 28, 28)))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n) % 10)
    return folder


def test_fashion_mnist_from_a_folder(tmp_path):
    dataset = data.load_fashion_mnist(fashion_folder(tmp_path))
    assert dataset.image_shape == (1, 28, 28) and len(dataset.train) == len(dataset.test) == 20
    expected = np.random.default_rng(0).integers(0, 256, (20, 28, 28))
    assert np.array_equal(dataset.train.images[:, 0].numpy(), expected)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(20)] and len(dataset.classes) == 10


@needs_data
def test_fashion_mnist_of_debian():
    dataset = data.load_fashion_mnist()
    assert (len(dataset.train), len(dataset.test)) == (60000, 10000)
    assert torch.bincount(dataset.test.labels).tolist() == [1000] * 10


@pytest.mark.parametrize(("content", "message"), [
    (b"plain", "gzip"), (gzip.compress(b""), "IDX"), (gzip.compress(b"\0\0\x09\x03" + bytes(12)), "IDX"),
    (gzip.compress(b"\0\0\x08\x01" + bytes(12)), "IDX"), (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "fit"),
    (gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3), "fit"), (gzip.compress(bytes(100))[:-20], "gzip"),
    (gzip.compress(b"\0\0\x08\x03\0\0"), "IDX"), (gzip.compress(bytes(100))[:12] + b"\xff" * 30, "gzip"),
])  # fmt: skip
def test_idx_files_of_anything_else_are_refused(content, message, tmp_path):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / "x.gz", 3)


def test_missing_files_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        data.load_fashion_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match="CIFAR-10"):
        data.load_cifar10(tmp_path)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    fashion_folder(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(20))
    with pytest.raises(ValueError, match=r"labels in 0\.\.9"):
        data.load_fashion_mnist(tmp_path)


def cifar_parts():
    rng = np.random.default_rng(1)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    return {name: (rng.integers(0, 256, (4, 3072), dtype=np.uint8), [0, 3, 9, 1]) for name in names}


@pytest.mark.parametrize("form", ["python", "binary"])
def test_cifar10_from_its_original_files(form, tmp_path):
    parts, names = cifar_parts(), [f"class{i}" for i in range(10)]
    for name, (images, labels) in parts.items():
        if form == "python":
            (tmp_path / name).write_bytes(pickle.dumps({b"data": images, b"labels": labels}, protocol=2))
        else:
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], images], axis=1)
            (tmp_path / f"{name}.bin").write_bytes(rows.tobytes())
    if form == "python":
        (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in names]}, protocol=2))
    else:
        (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    dataset = data.load_cifar10(tmp_path)
    assert dataset.classes == tuple(names) and dataset.image_shape == (3, 32, 32)
    assert len(dataset.train) == 20 and dataset.train.labels[:4].tolist() == [0, 3, 9, 1]
    expected = parts["data_batch_2"][0].reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train.images[4:8].numpy(), expected)


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def test_cifar10_pickles_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": Evil()}))
    with pytest.raises(ValueError, match="does not belong"):
        data.load_cifar10(tmp_path)
    assert not (tmp_path / "harm").exists()


# ---- batches


def test_batches_move_and_flip_and_nothing_else():
    images = torch.arange(2 * 5 * 5, dtype=torch.float32).reshape(2, 1, 5, 5)
    labels = torch.tensor([0, 1])
    padded = nn.functional.pad(images, (1,) * 4, value=-1)
    allowed = []
    for image in padded[:, 0]:
        views = [image[y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
        allowed.append(views + [view.flip(1) for view in views])
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        for batch, chosen in data.augmented_batches(padded, labels, 2, 1, generator):
            assert batch.shape == (2, 1, 5, 5) and sorted(chosen.tolist()) == [0, 1]
            for image, label in zip(batch[:, 0], chosen.tolist(), strict=True):
                matches = [i for i, view in enumerate(allowed[label]) if torch.equal(image, view)]
                assert matches
                seen.add((label, matches[0]))
    assert len(seen) == 2 * 18


def test_batches_without_shift_are_the_images():
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8)
    for batch, chosen in data.augmented_batches(images, labels, 4, 0, torch.Generator().manual_seed(0)):
        for image, label in zip(batch, chosen.tolist(), strict=True):
            assert torch.equal(image, images[label]) or torch.equal(image, images[label].flip(2))


# ---- nets and schedule


@pytest.mark.parametrize("net", nets.NETS)
def test_nets_stay_small(net):
    model, multiplies = nets.NETS[net](), []

    def count(module, args, y):
        multiplies.append(y[0].numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    assert model.eval()(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert 1e6 < sum(multiplies) <= 8e6


def test_schedule_is_within_twenty_epochs():
    schedule = training.Schedule()
    assert schedule.dense + schedule.pruned <= 20
    assert schedule.dense_lr(0) == 0 and schedule.dense_lr(0.2) == schedule.dense_rate
    assert schedule.dense_lr(1) == pytest.approx(0) and schedule.pruned_lr(1) == pytest.approx(0)
    assert schedule.pruned_lr(0) == schedule.draw_rate
    assert schedule.pruned_lr(schedule.draw / schedule.pruned) == schedule.retrain_rate


def energy(model):
    """A score for the scan that needs no images."""
    return sum(parameter.detach().square().sum().item() for parameter in model.parameters())


@pytest.mark.parametrize("net", nets.NETS)
@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.build])
def test_schemes_reach_their_rate(net, scheme):
    torch.manual_seed(0)
    model = nets.NETS[net]()
    report = SCHEMES[scheme].build(model, energy).finalize()
    layers = [layer for layer in report.layers if layer.shape[2:] == (3, 3)]
    rate = sum(layer.total for layer in layers) / sum(layer.nnz for layer in layers)
    assert rate == pytest.approx(SCHEMES[scheme].rate, rel=0.05)


# ---- table, convert, pictures


def record(scheme, seed, accuracy, **more):
    return {"net": "vgg", "scheme": scheme, "seed": seed, "accuracy": accuracy, "cut": None} | more


def test_table_has_mean_and_deviation():
    rows = table.rows_of([
        record("pconv8", 1, 90.0, cut=50.0, rate=8.0), record("dense", 0, 92.0), record("dense", 1, 93.0),
        record("pconv8", 0, 91.0, cut=60.0, rate=8.0, latency={"torch_ms": 2.0, "ours_ms": 0.5},
               agreement={"images": 10, "different": 1, "near_ties": 3, "near_ties_changed": 2}),
    ])  # fmt: skip
    assert [(row.scheme, row.mean) for row in rows] == [("dense", 92.5), ("pconv8", 90.5)]
    assert rows[1].deviation == pytest.approx(0.5**0.5) and rows[1].accuracies == (91.0, 90.0)
    *_, line, _, note = table.markdown(rows).splitlines()
    assert note == "¹ dense"
    for text in ("8.00x", "90.50 ± 0.71", "-2.00", "55.00", "2.000", "0.500 (4.0x)", "1 of 10, and 2 near ties"):
        assert text in line


def test_table_compares_with_what_was_trained_as_long():
    rows = table.rows_of([record("dense", 0, 90.0), record("dense_longer", 0, 92.0), record("pconv8", 0, 91.5)])
    lines = table.markdown(rows).splitlines()
    assert "-0.50" in lines[-3] and "-2.00" in lines[-5] and lines[-1] == "¹ dense, trained as long"


def test_near_ties():
    logits = torch.tensor([[1.0, 1.00005, -5.0], [1.0, 1.01, -5.0], [10.0, 10.0005, -20.0], [3.0, 3.0, 3.0]])
    assert deploy.near_ties(logits).tolist() == [True, False, True, True]


def test_guided_backpropagation_clips_negative_gradients():
    """One pixel into two ReLUs with weights 2 and -3: the negative way back is closed, module or function."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = x.flatten(1)
            return 2 * self.relu(x * 1.0) - 3 * torch.relu(x)

    image = torch.tensor([[[[1.0]]], [[[-1.0]]]])
    before = (torch.relu, nn.functional.relu)
    saliency = pictures.guided_backpropagation(Net(), image, torch.tensor([0, 0]))
    assert saliency.flatten().tolist() == [2.0, 0.0]
    assert (torch.relu, nn.functional.relu) == before


# ---- everything, quickly


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "examples.fashion_mnist", *arguments], cwd=ROOT, capture_output=True, text=True
    )


@needs_data
def test_quick_run_does_it_all_and_is_not_repeated(tmp_path):
    done = run("--quick", "--nets", "vgg", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["records"]) == 6
    for row in results["records"]:
        assert row["accuracy"] > 40, row  # ten classes: they do learn
        assert row["agreement"]["different"] == 0 and row["agreement"]["images"] == 2048
        assert row["latency"]["torch_ms"] > 0 and row["latency"]["convolutions"] >= 5
    text = (tmp_path / "table.md").read_text()
    assert "### vgg" in text and text in done.stdout + "\n"
    for picture in ("accuracy", "patterns", "connectivity", "kernels", "saliency"):
        assert (tmp_path / f"vgg-{picture}.png").read_bytes().startswith(b"\x89PNG")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.pt")}
    assert len(stamps) == 6
    assert run("--quick", "--nets", "vgg", "resnet", "--schemes", "filter8", "--out", str(tmp_path)).returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert "### resnet" in (tmp_path / "table.md").read_text()
    other = run("--out", str(tmp_path), "--seeds", "1", "--nets", "vgg", "--schemes", "dense")
    assert other.returncode == 2 and "another schedule" in other.stderr
    records = sorted((tmp_path / "runs").glob("vgg-*.json"))
    records[0].write_text(records[0].read_text().replace('"checksum": ', '"checksum": 1'))
    other = run("--quick", "--nets", "vgg", "--out", str(tmp_path))
    assert other.returncode == 2 and "another checksum" in other.stderr
    records[0].write_text("{")
    other = run("--quick", "--nets", "vgg", "--out", str(tmp_path))
    assert other.returncode == 2 and records[0].name in other.stderr and "damaged" in other.stderr


@pytest.mark.parametrize("form", ["python", "binary"])
def test_damaged_cifar10_files_are_named(form, tmp_path):
    names = [f"class{i}" for i in range(10)]
    if form == "python":
        (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [n.encode() for n in names]}, protocol=2))
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": 3}, protocol=2))
    else:
        (tmp_path / "batches.meta.txt").write_text("\n".join(names))
        (tmp_path / "data_batch_1.bin").write_bytes(bytes(100))
    with pytest.raises(ValueError, match="data_batch_1"):
        data.load_cifar10(tmp_path)
    if form == "python":
        (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}q\x00(")
        with pytest.raises(ValueError, match="data_batch_1"):
            data.load_cifar10(tmp_path)


@needs_data
def test_a_run_without_its_record_is_done_again_and_failures_do_not_stop_others(tmp_path):
    """As after a kill between the two files; a dense network that cannot be read fails its own pruned runs alone."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "vgg-dense-s0.pt").write_bytes(b"half a file")
    arguments = ("--quick", "--nets", "vgg", "--schemes", "pattern8", "--out", str(tmp_path))
    assert run(*arguments).returncode == 0
    assert len(list((tmp_path / "runs").glob("*.json"))) == 2
    (tmp_path / "runs" / "vgg-pattern8-s0.json").unlink()
    (tmp_path / "runs" / "vgg-dense-s0.pt").write_bytes(b"half a file")
    done = run(*arguments)
    assert done.returncode == 1 and "vgg-pattern8-s0: " in done.stderr


def test_a_folder_is_filled_by_one_process(tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run("--quick", "--data", str(fashion_folder(tmp_path)), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "another process" in done.stderr


def test_missing_data_is_an_error_in_one_line(tmp_path):
    done = run("--data", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "dataset-fashion-mnist" in done.stderr
