"""Pattern sets: which taps of a 3x3 kernel may stay.

First step of the flow: a PatternSet says what prune.py projects onto; here too is how a set is chosen from a model, and
how much of it a set keeps. A set holds masks and nothing else: it neither prunes nor limits what the core can run (any
mask runs, see include/pconv/patterns.def). Needs numpy alone: models are read by their attributes.

A mask is written three ways: uint8 [3, 3], an integer with bit ky*3+kx set for each kept tap, and a name, "p" and the
nine taps in reading order ("p010111000" keeps up, left, centre and right).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

_TAPS = 9
_CENTRE = 4
# PCONV (AAAI 2020, section 4, eq. 12): the centre and three of its four edge neighbours. Order of patterns.def.
_SCP4_BITS = (0x03A, 0x09A, 0x0B8, 0x0B2)
_FOUR_TAP_BITS = tuple(bits for bits in range(1 << _TAPS) if bin(bits).count("1") == 4)
# Natural patterns: the centre and 3 of its 8 neighbours.
MAX_NATURAL = 56


def pattern_name(bits: int, taps: int = _TAPS) -> str:
    """Name of a mask with `taps` taps: "p" and a digit per tap, tap 0 first."""
    return "p" + "".join(str(bits >> tap & 1) for tap in range(taps))


def _bits_of(mask: npt.NDArray[np.uint8]) -> int:
    return sum(1 << tap for tap, kept in enumerate(mask.ravel().tolist()) if kept)


def _mask_array(masks: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """[P, 3, 3] masks of 0 and 1, or [P] integers 1..511, as a fresh read-only uint8 [P, 3, 3]."""
    given = np.asarray(masks)
    if given.dtype.kind not in "biuf":
        raise TypeError(f"masks: expected numbers, got dtype {given.dtype}")
    if given.ndim == 1 and given.size:
        if given.dtype.kind not in "iu":
            raise TypeError(f"masks: bit masks must be integers, got dtype {given.dtype}")
        if np.any((given < 1) | (given >= 1 << _TAPS)):
            raise ValueError(f"masks: bit masks must be 1..511, got {given.tolist()}")
        given = (given.astype(np.int64)[:, None] >> np.arange(_TAPS) & 1).reshape(-1, 3, 3)
    if given.ndim != 3 or given.shape[0] == 0 or given.shape[1:] != (3, 3):
        raise ValueError(f"masks: expected shape [P, 3, 3] or [P] with P >= 1, got {list(given.shape)}")
    if not np.all((given == 0) | (given == 1)):
        raise ValueError("masks: every tap must be 0 or 1")
    array = given.astype(np.uint8)
    bits = [_bits_of(mask) for mask in array]
    if 0 in bits:
        raise ValueError(f"masks: mask {bits.index(0)} keeps no tap")
    if len(set(bits)) != len(bits):
        raise ValueError(f"masks: {[pattern_name(b) for b in bits]} contains a mask twice")
    array.flags.writeable = False
    return array


class PatternSet:
    """An ordered set of 3x3 masks; immutable, hashable, picklable. Equal when the masks are equal, in order.

    masks: [P, 3, 3] of 0 and 1, or [P] integers with bit ky*3+kx per kept tap; no mask empty, none twice.
    names: P strings; default `pattern_name` of each mask.
    Raises TypeError for masks that are no numbers, ValueError for wrong shapes, values or counts.
    """

    __slots__ = ("_masks", "_names", "_bits")

    def __init__(self, masks: npt.ArrayLike, names: Sequence[str] | None = None) -> None:
        self._masks = _mask_array(masks)
        self._bits = tuple(_bits_of(mask) for mask in self._masks)
        self._names = tuple(pattern_name(b) for b in self._bits) if names is None else tuple(names)
        if len(self._names) != len(self._bits):
            raise ValueError(f"names: expected {len(self._bits)} names, one per mask, got {len(self._names)}")

    @classmethod
    def from_masks(cls, masks: npt.ArrayLike) -> PatternSet:
        """The set of the given masks: [P, 3, 3] of 0 and 1, or [P] integers 1..511 (bit ky*3+kx); errors as there."""
        return cls(masks)

    @classmethod
    def random(cls, n: int, seed: int = 0) -> PatternSet:
        """The 4 SCPs and n-4 four-tap masks drawn without replacement from the other 122 (PCONV's 8 and 12 pattern
        runs). The draw depends on n and seed alone. ValueError unless 4 <= n <= 126 and 0 <= seed < 2**32."""
        n, seed = index(n), index(seed)
        if not len(_SCP4_BITS) <= n <= len(_FOUR_TAP_BITS):
            raise ValueError(f"n: expected {len(_SCP4_BITS)}..{len(_FOUR_TAP_BITS)}, got {n}")
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed: expected 0..2**32-1, got {seed}")
        others = [bits for bits in _FOUR_TAP_BITS if bits not in _SCP4_BITS]
        # RandomState, not default_rng: numpy promises to keep its stream the same in every version.
        drawn = np.random.RandomState(seed).permutation(len(others))[: n - len(_SCP4_BITS)]
        return cls([*_SCP4_BITS, *(others[i] for i in drawn)])

    @classmethod
    def from_model(cls, model: Any, k: int = 8) -> PatternSet:
        """The k most frequent natural patterns of a torch model's 3x3 convolutions, its stem included (PatDNN, ASPLOS
        2020).

        The natural pattern of a kernel is its centre and its 3 largest other magnitudes (ties: lowest tap); kernels of
        zeros have none. Ties in frequency go to the lowest mask. Fewer than k when the model has fewer.
        ValueError unless 1 <= k <= 56, for a model without non-zero 3x3 kernels, and for NaN or Inf weights.
        """
        return cls.from_weights(dict(_weights_3x3(model)), k)

    @classmethod
    def from_weights(cls, weights: Mapping[str, npt.NDArray[np.float64]], k: int = 8) -> PatternSet:
        """As `from_model`, of weights [OC, IC/groups, 3, 3] by layer name."""
        k = index(k)
        if not 1 <= k <= MAX_NATURAL:
            raise ValueError(f"k: expected 1..{MAX_NATURAL}, got {k}")
        counts = np.zeros(1 << _TAPS, dtype=np.int64)
        for name, weight in weights.items():
            _check_finite(name, weight)
            counts += np.bincount(_natural_bits(weight.reshape(-1, _TAPS)), minlength=counts.size)
        order = np.argsort(-counts, kind="stable")[:k]
        chosen = [int(bits) for bits in order if counts[bits]]
        if not chosen:
            raise ValueError("model: found no 3x3 convolution with non-zero weights")
        return cls(chosen)

    @property
    def masks(self) -> npt.NDArray[np.uint8]:
        """uint8 [P, 3, 3], read-only."""
        return self._masks

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def bits(self) -> tuple[int, ...]:
        """Each mask as an integer: bit ky*3+kx is a kept tap."""
        return self._bits

    def __len__(self) -> int:
        return len(self._bits)

    def __eq__(self, other: object) -> bool:
        return self._bits == other._bits if isinstance(other, PatternSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._bits)

    def __repr__(self) -> str:
        return f"PatternSet({', '.join(self._names)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PatternSet, (self._bits, self._names)


def kept_energy(model: Any, patterns: PatternSet) -> dict[str, float]:
    """What a set keeps of each 3x3 convolution of a torch model: the share 0..1 of its squared weights that stays when
    every kernel keeps its best pattern (as `project_patterns` does), by layer name; 1 for a layer of zeros.

    1 - share is the squared error of the projection, relative to the weights: compare sets by it before training. A
    stem is listed too, though `prune_` leaves it dense. TypeError for another kind of patterns, ValueError for NaN or
    Inf weights.
    """
    if not isinstance(patterns, PatternSet):
        raise TypeError(f"patterns: expected a PatternSet, got {type(patterns).__name__}")
    shares = {}
    for name, weight in _weights_3x3(model):
        _check_finite(name, weight)
        squares = np.square(weight.reshape(-1, _TAPS))
        kept = (squares @ patterns.masks.reshape(-1, _TAPS).T.astype(np.float64)).max(axis=1)
        total = squares.sum()
        shares[name] = float(kept.sum() / total) if total > 0 else 1.0
    return shares


def _check_finite(name: str, weight: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(weight).all():
        raise ValueError(f"model: the weight of layer '{name}' contains NaN or Inf")


def _weights_3x3(model: Any) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    for name, module in model.named_modules():
        if getattr(module, "kernel_size", None) == (3, 3) and not getattr(module, "transposed", True):
            yield name, module.weight.detach().double().cpu().numpy()


def _natural_bits(kernels: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """[K, 9] kernels -> masks of those that are not all zero."""
    magnitude = np.abs(kernels[np.any(kernels != 0, axis=1)])
    magnitude[:, _CENTRE] = np.inf
    taps = np.argsort(-magnitude, axis=1, kind="stable")[:, :4]
    bits: npt.NDArray[np.int64] = np.left_shift(np.int64(1), taps).sum(axis=1)
    return bits


SCP4 = PatternSet(_SCP4_BITS)
PATTERN_SETS: dict[str, Callable[[], PatternSet]] = {
    "scp4": lambda: SCP4,
    "random8": lambda: PatternSet.random(8, seed=0),
    "random12": lambda: PatternSet.random(12, seed=0),
}


def named_patterns(name: str) -> PatternSet:
    """The pattern set of a command-line name; ValueError lists the names."""
    if name not in PATTERN_SETS:
        raise ValueError(f"patterns: got {name!r}, allowed: {', '.join(PATTERN_SETS)}")
    return PATTERN_SETS[name]()
