"""One-shot pruning: projects the weights of a torch model onto patterns and onto a number of kernels, in place.

Second step of the flow: patterns -> prune -> pack. layers.py chooses the layers and what each may lose, projections.py
says which weights that are. This file trains nothing and packs nothing: it sets weights to zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .constraints import keep_all
from .layers import (
    Blocks,
    LayerChoice,
    Rates,
    Skip,
    check_model,
    check_patterns,
    choose_layers,
    constraints_of,
    distinct,
    finite_values,
    unwrapped,
)
from .patterns import SCP4, PatternSet
from .projections import check_balance
from .report import LayerPruning, PruneReport


def prune_(
    model: nn.Module,
    patterns: PatternSet | None = SCP4,
    connectivity: Rates = 3.1,
    connectivity_1x1: Rates = None,
    block: Blocks = 1,
    skip: Skip = (),
    balance: str | None = None,
) -> PruneReport:
    """Prunes the nn.Conv2d layers of a model in place, in one shot (PCONV, AAAI 2020, section 4), and reports it.

    patterns: what every 3x3 kernel is cut to (`project_patterns`); None: no pattern pruning.
    connectivity: each 3x3 layer keeps round(OC*IC/groups/connectivity) kernels, those with the largest L2 norm of the
        weights its pattern keeps (so that both cuts together are the nearest weights), ties by lowest index. A dict
        gives rates by layer name (exact, or fnmatch; an exact name wins, then the first match), to layers of other
        sizes too; 3x3 layers it does not name get patterns alone. None: no connectivity pruning.
    connectivity_1x1: the same for 1x1 layers, which nothing else prunes.
    block: 1..64, or a dict by layer name as above (layers it does not name: 1). As many consecutive filters of a layer
        keep the same kernels, chosen by the norm of them all, and with patterns the same pattern for a channel
        (block-punched pruning, Gong et al., TODAES 2022), so that 1x1 and general kernels load each input once for
        them. The number of kernels kept is the nearest number of whole rows of `block` kernels. Layers that lose no
        kernels have no blocks; one of n filters a group has blocks of gcd(block, n).
    skip: layers to leave alone: names (of layers or of modules around them), fnmatch patterns, predicate(name, module).
    balance: "filter" keeps the same number of kernels, round(IC/groups/rate), in every filter (block) of a layer.

    A stem (groups 1, at most 4 input channels) stays dense; depthwise layers get patterns, never connectivity. Weights
    that are zero stay zero; pruning again with the same arguments changes nothing. A weight that several modules share
    is pruned once, or not at all when one of them stays dense. Nothing but those weights is touched, and nothing at
    all on an error: TypeError for a wrong kind; ValueError for a rate below 1, a rate that leaves a layer no kernel, a
    name that matches no layer, a block outside 1..64, and NaN or Inf weights (the layer is named).
    """
    check_model(model)
    check_patterns(patterns)
    check_balance(balance)
    choices = choose_layers(unwrapped(model), patterns is not None, connectivity, connectivity_1x1, block, skip)
    pruned = distinct(choices)
    values = {name: finite_values(name, choice.weight) for name, choice in pruned.items()}
    constraints = {name: constraints_of(choice, patterns, balance) for name, choice in pruned.items()}
    with torch.no_grad():
        for name, choice in pruned.items():
            weight = choice.weight
            weight.masked_fill_(torch.from_numpy(~keep_all(values[name], constraints[name])).to(weight.device), 0)
    return pruning_of(choices)


def pruning_of(choices: Iterable[LayerChoice]) -> PruneReport:
    """What the layers look like now."""
    return PruneReport([_pruning_of(choice) for choice in choices])


def _pruning_of(choice: LayerChoice) -> LayerPruning:
    kept = (choice.weight.detach() != 0).cpu().numpy()
    groups: Any = choice.module.groups
    return LayerPruning.of(choice.name, kept, groups, choice.reason, choice.block)
