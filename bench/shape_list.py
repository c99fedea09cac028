"""Layer shapes of the benches, read from the text files in bench/shapes/."""

from __future__ import annotations

from pathlib import Path

from pconv_ops.cases import LayerSpec


def read_shapes(name: str) -> dict[str, LayerSpec]:
    """Layer name -> LayerSpec from bench/shapes/<name>.txt: lines of 'name ic oc h w', '#' starts a comment."""
    shapes = {}
    path = Path(__file__).parent / "shapes" / f"{name}.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if words:
            layer, *sizes = words
            shapes[layer] = LayerSpec(*map(int, sizes))
    return shapes


def shape_id(spec: LayerSpec) -> str:
    """The part of a bench's name that says the shape: '64x128x112x112' for ic x oc x h x w."""
    return f"{spec.ic}x{spec.oc}x{spec.h}x{spec.w}"
