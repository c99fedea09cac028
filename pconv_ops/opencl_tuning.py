"""Which tiles suit a layer on a device: the usual one, candidates, and what was measured, kept on disk for each device
and driver. Knows files and numbers; opencl.py measures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ._native import PackedConv
from .opencl_conv import Tile
from .opencl_device import DeviceInfo

# (rows, filters of a group or 0 for as many as pay, vectors). Measured on PoCL: docs/PERFORMANCE.md, OpenCL.
_SHAPES = ((7, 0, 1), (4, 0, 1), (2, 0, 1), (1, 0, 1), (4, 0, 2), (6, 0, 2), (2, 4, 1), (1, 8, 1), (4, 2, 1))
_TILED_SHAPES = ((4, 0, 2), (5, 0, 2), (7, 0, 1), (2, 0, 4))
_TILED_WIDTH = 112  # wider maps write more lines than tiles one by one can keep in a cache
_VERSION = 2  # of the file and of what tiles mean


def candidates(lanes: int, images: bool, by_row: bool) -> list[Tile]:
    """Tiles that are worth trying for a layer. images: the device has images of such vectors. by_row: it is a CPU,
    where neighbouring items need not read neighbouring floats."""
    plain = [Tile(lanes, *shape) for shape in _SHAPES]
    tiled = [Tile(lanes, *shape, tiled=True) for shape in _TILED_SHAPES if by_row]
    return [*plain, *tiled, *(replace(tile, images=True) for tile in plain if images)]


def layer_key(layer: PackedConv, n: int, h: int, w: int) -> str:
    """Names what decides which tile is best: geometry, what is kept, input."""
    numbers = (layer.in_channels, layer.out_channels, *layer.kernel_size, *layer.stride, *layer.padding)
    kept = (*layer.dilation, layer.groups, layer.n_kernels, layer.nnz)
    return ",".join(map(str, (*numbers, *kept, n, h, w)))


def default_tile(layer: PackedConv, out_h: int, out_w: int, lanes: int, *, images: bool, by_row: bool) -> Tile:
    """Rows that fill the map, as many as registers hold for a filter alone; two where four filters share loads. On a
    CPU (by_row) sparse windows read tiles that its cache holds (docs/PERFORMANCE.md, OpenCL)."""
    if layer.density > 0.5 and layer.in_channels // layer.groups > 1:
        return Tile(lanes, min(2, out_h), 4, images=images)
    packed = layer.stride != (1, 1) or any(layer.padding)  # others are read in place
    near = max(layer.kernel_size) <= 3 and layer.dilation == (1, 1)  # a tile's halo is small
    if by_row and packed and near and layer.in_channels > layer.groups:
        if out_w > _TILED_WIDTH:
            return Tile(lanes, min(4, out_h), vectors=2)
        vectors = 1 if out_w <= lanes else 2
        return Tile(lanes, _filling_rows(out_h, 7 if vectors == 1 else 5), vectors=vectors, tiled=True)
    return Tile(lanes, _filling_rows(out_h, 7), images=images)


def _filling_rows(out_h: int, most: int) -> int:
    return min(range(1, most + 1), key=lambda rows: (-(-out_h // rows) * rows * (1 + 0.25 / rows), -rows))


def tiles_file(device: DeviceInfo) -> Path:
    """Where the tiles of a device are kept: in the user's cache folder, or in PCONV_CACHE."""
    from platformdirs import user_cache_path  # comes with pyopencl

    folder = os.environ.get("PCONV_CACHE")
    return (Path(folder) if folder else user_cache_path("pconv_ops")) / "opencl_tiles.json"


def _key(device: DeviceInfo, half: bool) -> str:
    return f"{device.title}; {device.version}; {device.driver}; {'fp16' if half else 'fp32'}"


def _read(path: Path) -> dict[str, dict[str, dict[str, int]]]:
    """By device, by layer. What cannot be read is as good as absent: it is measured again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == _VERSION:
            return {str(device): dict(rows) for device, rows in content["devices"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}


def load_tiles(device: DeviceInfo, half: bool) -> dict[str, Tile]:
    """Tiles by layer_key()."""
    found = {}
    for layer, row in _read(tiles_file(device)).get(_key(device, half), {}).items():
        try:
            sizes = {name: int(row[name]) for name in ("lanes", "rows", "ocb", "vectors")}
            tile = Tile(**sizes, images=bool(row.get("images")), tiled=bool(row.get("tiled")))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            continue
        if tile.lanes in (1, 2, 4, 8) and 0 < tile.rows <= 16 and 0 < tile.vectors <= 4 and tile.ocb in (0, 1, 2, 4, 8):
            found[layer] = tile
    return found


def save_tiles(device: DeviceInfo, half: bool, tiles: Mapping[str, Tile | None]) -> None:
    """Adds to what is known; None: the usual tile is the best. OSError: the folder cannot be written to."""
    path = tiles_file(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    devices = _read(path)
    rows = devices.setdefault(_key(device, half), {})
    for layer, tile in tiles.items():
        rows.pop(layer, None)
        if tile is not None:
            rows[layer] = asdict(tile)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    part.write_text(json.dumps({"version": _VERSION, "devices": devices}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
