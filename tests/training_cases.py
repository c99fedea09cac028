"""Small trainings for the tests of the pruners: a network, its data, and a loop as a user writes it."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda params: torch.optim.Adam(params, lr=3e-3, weight_decay=1e-2, amsgrad=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=3e-3, weight_decay=1e-1),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-3, momentum=0.9, centered=True),
}


def small_net(seed=0, norm=True, dtype=torch.float32):
    """A stem, two 3x3 convolutions of 48 kernels each, a classifier."""
    torch.manual_seed(seed)
    norms = [nn.BatchNorm2d(n) if norm else nn.Identity() for n in (6, 8, 6)]
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), norms[0], nn.ReLU()),
        *(nn.Conv2d(6, 8, 3, padding=1), norms[1], nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 6, 3, padding=1), norms[2], nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    ).to(dtype)


PRUNED = ("3", "7")  # names of the layers that a pruner takes


def batches(epoch, n=4, size=8, dtype=torch.float32):
    """Images of three kinds of stripes, the same for the same epoch."""
    generator = torch.Generator().manual_seed(1000 + epoch)
    for _ in range(n):
        labels = torch.randint(0, 3, (size,), generator=generator)
        images = torch.randn(size, 1, 8, 8, generator=generator, dtype=dtype) / 2
        for image, label in zip(images, labels, strict=True):
            image[0, :: int(label) + 1] += 1
        yield images, labels


def train_epoch(model, optimizer, pruner, epoch, after_step=None):
    model.train()
    dtype = next(model.parameters()).dtype
    for images, labels in batches(epoch, dtype=dtype):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        if pruner is not None:
            loss = loss + pruner.penalty()
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step()


def weights_of(model, names=PRUNED):
    return {name: model.get_submodule(name).weight.detach().clone() for name in names}


def same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if isinstance(value, dict):
            same_state(value, theirs[key])
        else:
            assert torch.equal(value, theirs[key]) if isinstance(value, torch.Tensor) else value == theirs[key], key
