"""A packed convolution -> arrays and macros of the OpenCL kernels pattern.cl and taps.cl. Numpy alone: no device.

Filters that keep the same kernels form groups that share every load (PCONV, AAAI 2020, section 5: load redundancy
elimination at the level of filters); within a group kernels are sorted by pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._native import PackedConv

TEXEL = 4
GROUPS = (8, 4, 2, 1)  # filters of a group, most first
_MAX_PATTERNS = 32  # runs that a program has code for
_LINE = 16  # floats of a cache line: rows of packed planes begin and end with one
_FULL = 0.8  # of the weights that a pattern program multiplies must be kept: others take the stream of taps

Int = npt.NDArray[np.int32]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Tile:
    """What an item computes: `rows` rows of `vectors` vectors of `lanes` outputs, for each of at most `ocb` filters (0:
    as many as pay). images: the input is read as an image where that is possible (four lanes). tiled: the input is
    packed tile by tile in rows of whole cache lines; tiles are then narrower by what windows overlap, and as wide as
    divides the map best."""

    lanes: int
    rows: int
    ocb: int = 0
    vectors: int = 1
    images: bool = False
    tiled: bool = False

    @property
    def width(self) -> int:
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Packing:
    """The padded planes of the input: phases of (row, column) of the stride, each rows x pitch floats. tiles: down and
    along the map, each with planes of its own, `steps` rows and columns of outputs apart; (1, 1): whole planes."""

    phases: tuple[tuple[int, int], ...]
    rows: int
    pitch: int
    tiles: tuple[int, int] = (1, 1)
    steps: tuple[int, int] = (0, 0)

    @property
    def plane(self) -> int:
        """Floats of a channel of a tile."""
        return len(self.phases) * self.rows * self.pitch

    @property
    def channel(self) -> int:
        """Floats of a channel of the whole map."""
        return self.tiles[0] * self.tiles[1] * self.plane


@dataclass(frozen=True)
class ConvProgram:
    """What runs for one layer and input shape. arrays: those between input and filters in the kernel's arguments.
    packing None: the input is read in place. overread: floats behind the input that are read, and not used. images: the
    input is an image of TEXEL floats a texel."""

    source: str
    kernel: str
    defines: dict[str, str | int]
    arrays: tuple[npt.NDArray[np.generic], ...]
    filters: Int
    bias: Float
    packing: Packing | None
    size: tuple[int, int, int]
    overread: int
    images: bool

    def input_floats(self, planes: int, plane: int) -> int:
        """Of what the kernel reads: packed, or `planes` planes in place with what lies behind them."""
        return planes * (self.packing.channel if self.packing is not None else plane) + self.overread


@dataclass(frozen=True)
class Grouped:
    """Filters in groups of ocb (-1: none), and what each group keeps: taps[g] [kept kernels, taps of the window], True
    where a filter of the group has a weight; channels[g] of the input; weights[g] [kept, taps, ocb]."""

    ocb: int
    filters: Int
    channels: list[Int]
    taps: list[npt.NDArray[np.bool_]]
    weights: list[Float]


def _alike(kept: npt.NDArray[np.bool_], groups: int) -> list[list[int]]:
    """Filters of the same convolution group that keep the same kernels; kept: [filters, kernels]."""
    per_group = len(kept) // groups
    found: dict[tuple[int, bytes], list[int]] = {}
    for f, row in enumerate(kept):
        found.setdefault((f // per_group, row.tobytes()), []).append(f)
    return list(found.values())


def group_filters(weight: Float, groups: int, most: int = 0) -> Grouped:
    """Filters with the same kernels side by side, in groups of the size, up to `most` (0: any), that needs the least
    work: a tap costs a load, and a multiply-add for each filter. Groups with most kernels come first, so that no long
    one comes last."""
    flat = weight.reshape(*weight.shape[:2], -1)
    used = flat != 0
    alike = _alike(used.any(2), groups)
    best: tuple[float, int, list[list[int]]] | None = None
    for ocb in GROUPS:
        if ocb > (most or GROUPS[0]) or (ocb > 1 and ocb >= 2 * max(map(len, alike))):
            continue
        sets = [same[i : i + ocb] for same in alike for i in range(0, len(same), ocb)]
        work = sum(int(used[own].any(0).sum()) for own in sets) * (ocb + 1)
        if best is None or work < best[0]:
            best = (work, ocb, sets)
    assert best is not None  # 1 is always tried
    return _grouped(flat, len(weight) // groups, best[1], best[2])


def _grouped(flat: Float, filters_per_group: int, ocb: int, sets: list[list[int]]) -> Grouped:
    """flat: [filters, kernels, taps]."""
    kept = (flat != 0).any(2)
    sets = sorted(sets, key=lambda own: -int(kept[own[0]].sum()))
    filters = np.full((len(sets), ocb), -1, np.int32)
    channels, taps, weights = [], [], []
    for g, own in enumerate(sets):
        filters[g, : len(own)] = own
        kernels = np.flatnonzero(kept[own[0]])
        chosen = flat[own][:, kernels]
        channels.append((kernels + own[0] // filters_per_group * flat.shape[1]).astype(np.int32))
        taps.append((chosen != 0).any(0))
        full = np.zeros((len(kernels), flat.shape[2], ocb), np.float32)
        full[:, :, : len(own)] = chosen.transpose(1, 2, 0)
        weights.append(full)
    return Grouped(ocb, filters.reshape(-1), channels, taps, weights)


class _Geometry:
    """Where taps lie in the packed input."""

    def __init__(self, layer: PackedConv, h: int, w: int, tile: Tile, taps_used: npt.NDArray[np.bool_]) -> None:
        (stride_h, stride_w), (dilation_h, dilation_w) = layer.stride, layer.dilation
        self.out_h, self.out_w = layer.output_shape(h, w)
        self.width = tile.width  # outputs along a row of a tile
        kernel_h, kernel_w = layer.kernel_size
        rows, columns = np.divmod(np.arange(kernel_h * kernel_w), kernel_w)
        rows, columns = rows * dilation_h, columns * dilation_w
        in_place = (stride_h, stride_w) == (1, 1) and not any(layer.padding)
        if in_place and (kernel_h, kernel_w) == (1, 1):  # one long row: tiles run on over the ends of rows
            n_lines = -(-h * w // tile.width)
            self.out_w, self.count = tile.width, h * w
            self.columns, self.tiles, self.pitch = 1, -(-n_lines // tile.rows), tile.width
        else:
            self.count = self.out_h * self.out_w
            self.columns, self.tiles = -(-self.out_w // tile.width), -(-self.out_h // tile.rows)
            self.pitch = w
        self.packing, self.plane, self.overread = None, h * w, 0
        if in_place:
            self.at = rows * self.pitch + columns
            last = (self.tiles * tile.rows - 1) * self.pitch + self.columns * tile.width + int(self.at.max(initial=0))
            self.overread = max(0, last - h * w)
            return
        used = np.flatnonzero(taps_used)
        of_tap = list(zip((rows % stride_h).tolist(), (columns % stride_w).tolist(), strict=True))
        phases = sorted({of_tap[t] for t in used}) or [(0, 0)]
        down, along = rows // stride_h, columns // stride_w
        below, beside = int(down[used].max(initial=0)), int(along[used].max(initial=0))
        if tile.tiled and tile.lanes + beside <= _LINE:
            self.pitch = -(-max(tile.width, tile.lanes + beside) // _LINE) * _LINE
            self.columns = -(-self.out_w // min(self.pitch - beside, tile.width))
            self.width = max(-(-self.out_w // self.columns), tile.lanes)
            n_rows = tile.rows + below
            of_tiles = ((self.tiles, self.columns), (tile.rows, self.width))
            self.packing = Packing(tuple(phases), n_rows, self.pitch, *of_tiles)
        else:
            self.pitch = -(-(self.columns * tile.width + beside) // _LINE) * _LINE
            n_rows = self.tiles * tile.rows + below
            self.packing = Packing(tuple(phases), n_rows, self.pitch)
        self.plane = self.packing.plane
        number = np.array([phases.index(of_tap[t]) if t in set(used.tolist()) else 0 for t in range(len(of_tap))])
        self.at = (number * n_rows + down) * self.pitch + along


def program_of(
    layer: PackedConv, n: int, h: int, w: int, tile: Tile, epilogue: dict[str, str | int], half: bool = False
) -> ConvProgram:
    """The program for a layer on n images of h x w. epilogue: macros of conv.h. half: tensors
    are stored so; weights stay float."""
    weight, bias = layer.to_dense()
    grouped = group_filters(weight, layer.groups, tile.ocb)
    used = np.zeros(weight.shape[2] * weight.shape[3], np.bool_)
    for taps in grouped.taps:
        used |= taps.any(0)
    geometry = _Geometry(layer, h, w, tile, used)
    n_groups = len(grouped.filters) // grouped.ocb
    channel = geometry.plane if geometry.packing is None else geometry.packing.channel
    defines: dict[str, str | int] = {
        "LANES": tile.lanes,
        "ROWS": tile.rows,
        "VECTORS": -(-geometry.width // tile.lanes),
        "WIDTH": geometry.width,
        "OCB": grouped.ocb,
        "PITCH": geometry.pitch,
        "PLANE": geometry.plane,
        "IN_IMAGE": channel * layer.in_channels,
        "OUT_W": geometry.out_w,
        "OUT_COUNT": geometry.count,
        "N_COLUMNS": geometry.columns,
        "N_TILES": geometry.tiles,
        "N_GROUPS": n_groups,
        "N_IMAGES": n,
        "STORAGE_HALF": int(half),
        **epilogue,
    }
    size = (geometry.columns, geometry.tiles, n * n_groups)
    tiled = geometry.packing is not None and geometry.packing.steps != (0, 0)
    if tiled:
        size = (1, geometry.columns * geometry.tiles, n * n_groups)
        along = geometry.plane * layer.in_channels
        defines |= {"TILED": 1, "ALONG": along, "DOWN": geometry.columns * along}
    filled = np.where(grouped.filters < 0, 0, grouped.filters)
    biases = np.zeros(len(filled), np.float32) if bias is None else np.where(grouped.filters < 0, 0, bias[filled])
    patterns = _patterns(grouped) if weight.shape[2:] != (1, 1) else None
    images = (
        tile.images
        and not tiled
        and tile.lanes == TEXEL
        and geometry.pitch % TEXEL == 0
        and geometry.plane % TEXEL == 0
    )
    if patterns is None:
        arrays: tuple[npt.NDArray[np.generic], ...] = _stream(grouped, geometry)
        source, kernel = "taps.cl", "conv_taps"
        images = images and not (arrays[1] % TEXEL).any()  # type: ignore[operator]
    else:
        defines |= _runs(patterns, geometry)
        arrays = _sorted_kernels(grouped, patterns)
        source, kernel = "pattern.cl", "conv_patterns"
    defines["IMAGE_READS"] = int(images)
    return ConvProgram(
        *(source, kernel, defines, arrays, grouped.filters, biases.astype(np.float32), geometry.packing, size),
        overread=-(-geometry.overread // TEXEL) * TEXEL if images else geometry.overread,
        images=images,
    )


# ---- the stream of taps


def _stream(grouped: Grouped, geometry: _Geometry) -> tuple[npt.NDArray[np.generic], ...]:
    """starts, places, weights of taps.cl."""
    starts, places, weights = [0], [], []
    for channels, taps, values in zip(grouped.channels, grouped.taps, grouped.weights, strict=True):
        kernel, tap = np.nonzero(taps)
        places.append(channels[kernel].astype(np.int64) * geometry.plane + geometry.at[tap])
        weights.append(values[kernel, tap])
        starts.append(starts[-1] + len(kernel))
    return (
        np.array(starts, np.uint32),
        _filled(np.concatenate(places).astype(np.int32)),
        _filled(np.concatenate(weights).astype(np.float32)),
    )


def _filled(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Never empty: a device has no buffers of 0 bytes."""
    return array if array.size else np.zeros(1, array.dtype)


# ---- kernels sorted by pattern


def _patterns(grouped: Grouped) -> list[tuple[int, ...]] | None:
    """The taps of each pattern of a layer, all of the same number: shorter ones repeat a tap, with weight 0. None: too
    many patterns, or too few weights in them."""
    rows = np.concatenate(grouped.taps)
    if rows.shape[1] > 9 or not len(rows):
        return None
    masks, counts = np.unique(rows, axis=0, return_counts=True)
    size = int(masks.sum(1).max())
    if len(masks) > _MAX_PATTERNS or (masks.sum(1) * counts).sum() < _FULL * size * counts.sum():
        return None
    taps = [np.flatnonzero(mask).tolist() for mask in masks]
    return [tuple(own + own[:1] * (size - len(own))) for own in taps]


def _runs(patterns: Sequence[tuple[int, ...]], geometry: _Geometry) -> dict[str, str | int]:
    used = sorted({tap for taps in patterns for tap in taps})
    bodies = [" ".join(f"TAP({tap}, {j})" for j, tap in enumerate(taps)) for taps in patterns]
    return {
        **{f"AT_{tap}": int(geometry.at[tap]) for tap in used},
        "TAPS": len(patterns[0]),
        "N_RUNS": len(patterns),
        "RUNS": " ".join(f"RUN({body})" for body in bodies),
    }


def _sorted_kernels(grouped: Grouped, patterns: Sequence[tuple[int, ...]]) -> tuple[npt.NDArray[np.generic], ...]:
    """starts, channels, weights of pattern.cl."""
    number = {frozenset(taps): i for i, taps in enumerate(patterns)}
    starts, channels, weights = [], [], []
    total = 0
    for own, taps, values in zip(grouped.channels, grouped.taps, grouped.weights, strict=True):
        which = np.array([number[frozenset(np.flatnonzero(row).tolist())] for row in taps], np.int64)
        counts = np.bincount(which, minlength=len(patterns))
        starts.append(total + np.concatenate(([0], np.cumsum(counts))))
        total += len(own)
        for i, order in enumerate(patterns):
            chosen = np.flatnonzero(which == i)
            channels.append(own[chosen])
            block = values[np.ix_(chosen, np.array(order))]
            for j, tap in enumerate(order):
                if tap in order[:j]:
                    block[:, j] = 0
            weights.append(block)
    return (
        np.concatenate(starts).astype(np.uint32),
        _filled(np.concatenate(channels).astype(np.uint32)),
        _filled(np.concatenate(weights).astype(np.float32)),
    )
