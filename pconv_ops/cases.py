"""What benchmarks time: single layers and the networks of the zoo, pruned as the options say, with inputs for them.

Weights are He-normal and inputs normal, from seed 0. Nothing here is timed: benchmark.py and sweep.py do that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from . import _native
from .layers import Blocks, is_depthwise, is_stem
from .packing import pack
from .patterns import named_patterns
from .prune import prune_
from .report import PruneReport
from .zoo import NETS, rescale_


@dataclass(frozen=True)
class BenchOptions:
    """What to prune and how to run. threads: None = pconv_ops.get_num_threads(); isa: None = the best of this CPU.
    block: of the 1x1 layers of a net (pattern kernels gain nothing by one); of a single layer, whatever its kernel."""

    connectivity: float = 3.1
    connectivity_1x1: float | None = None
    patterns: str = "scp4"
    threads: int | None = None
    isa: str | None = None
    block: int = 1
    rounds: int = 7


@dataclass(frozen=True)
class LayerSpec:
    """One convolution to time alone: [1, ic, h, w] in, padding dilation * (kernel // 2)."""

    ic: int
    oc: int
    h: int
    w: int
    stride: int = 1
    kernel: int = 3
    groups: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class ConvCase:
    """A convolution of a pruned network and an input for it, fp32 [n, ic, h, w]; block: it was pruned with."""

    name: str
    conv: nn.Conv2d
    x: torch.Tensor
    block: int = 1


def prune_by(
    model: nn.Module, options: BenchOptions, named: Sequence[str] = (), block: Blocks | None = None
) -> PruneReport:
    """prune_ with the options' rates and patterns. named: the only layers to lose kernels, of any size but 1x1.
    block: None = the options' block for 1x1 layers, 1 for others."""
    return prune_(
        model,
        patterns=named_patterns(options.patterns),
        connectivity=dict.fromkeys(named, options.connectivity) if named else options.connectivity,
        connectivity_1x1=options.connectivity_1x1,
        block=blocks_1x1(model, options.block, options.connectivity_1x1) if block is None else block,
    )


def blocks_1x1(model: nn.Module, block: int, connectivity_1x1: float | None) -> Blocks:
    """`block` by the names of the 1x1 layers, for prune_; ValueError for one that no layer would have."""
    if block == 1:
        return 1
    names = [n for n, m in convs(model) if m.kernel_size == (1, 1) and not (is_stem(m) or is_depthwise(m))]
    if not names or connectivity_1x1 is None:
        why = "connectivity_1x1 is not given" if names else "there is none"
        raise ValueError(f"block: got {block}, which is for 1x1 layers that lose kernels, but {why}")
    return dict.fromkeys(names, block)


def seeded_net(net: str) -> nn.Module:
    """The zoo net `net`, He-normal weights from seed 0; the caller's random state is left alone."""
    if net not in NETS:
        raise ValueError(f"net: got {net!r}, allowed: {', '.join(NETS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NETS[net].factory().eval()


def random_input(*shape: int) -> torch.Tensor:
    """Normal fp32 numbers from seed 0."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def conv_cases(model: nn.Module, x: torch.Tensor, prefix: str = "") -> list[ConvCase]:
    """Every nn.Conv2d of `model` in calling order with the input it meets when the model runs on x."""
    cases: list[ConvCase] = []

    def note(name: str) -> Callable[..., None]:
        def hook(conv: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
            cases.append(ConvCase(prefix + name, conv, inputs[0].clone()))

        return hook

    hooks = [conv.register_forward_pre_hook(note(name)) for name, conv in convs(model)]
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return cases


def convs(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """(name, module) of every nn.Conv2d."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def pack_conv(conv: nn.Conv2d) -> _native.PackedConv:
    """The packed form of a module."""
    return pack(conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def single_conv(spec: LayerSpec) -> nn.Conv2d:
    """The layer of a spec, dense; He-normal from seed 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        padding = spec.dilation * (spec.kernel // 2)
        conv = nn.Conv2d(spec.ic, spec.oc, spec.kernel, spec.stride, padding, spec.dilation, spec.groups).eval()
        nn.init.kaiming_normal_(conv.weight)
    return conv


def single_case(spec: LayerSpec, options: BenchOptions) -> ConvCase:
    """A convolution of its own, pruned by the rules of prune_: `connectivity` is its rate, whatever its kernel size;
    stems stay dense, depthwise layers get patterns alone."""
    conv = single_conv(spec)
    if spec.kernel == 1 and options.connectivity_1x1 is None:
        options = replace(options, connectivity_1x1=options.connectivity)
    layer = nn.Sequential(OrderedDict(layer=conv))
    by_name = spec.kernel not in (1, 3) and not (is_stem(conv) or is_depthwise(conv))
    report = prune_by(layer, options, ("layer",) if by_name else (), options.block)
    return ConvCase("layer", conv, random_input(1, spec.ic, spec.h, spec.w), report.layers[0].block)


def net_cases(net: str, options: BenchOptions) -> tuple[nn.Module, torch.Tensor, list[ConvCase]]:
    """(model, x, cases): the part of a zoo net that is timed, pruned and rescaled; its input; its convolutions in
    calling order with random inputs."""
    model, part = seeded_net(net), NETS[net].part
    model = NETS[net].benchmarked(model)
    blocks = {layer.name: layer.block for layer in prune_by(model, options).layers}
    x = random_input(1, 3, NETS[net].size, NETS[net].size)
    rescale_(model, x)  # or the comparison of whole nets would pass unseen faults
    names = {conv: name for name, conv in convs(model)}
    cases = [
        replace(case, x=random_input(*case.x.shape), block=blocks[names[case.conv]])
        for case in conv_cases(model, x, f"{part}." if part else "")
    ]
    return model, x, cases
