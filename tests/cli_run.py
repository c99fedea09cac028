"""Runs the pconv command for its tests, and what they feed it."""

import torch
from torch import nn

from pconv_ops import cli


def run(capsys, *arguments):
    """(status, stdout, stderr) of a command in this process."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 32, 3),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.Linear(4, 4),
    )


def save(path, content):
    torch.save(content, path)
    return path
