"""Model files (docs/FORMAT.md): hand-made bad ones, each refused with its own words; good ones; what may change."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from model_bytes import FP16, FP32, LAYER, SHARED, ModelBytes

import pconv_ops
from pconv_ops._native import ModelBuilder, NativeModel

CONV, LINEAR, CLAMP, PRELU = 1, 2, 1, 3
INF = float("inf")


def good_file() -> bytes:
    """Two inputs, two convolutions that share a layer, other operators with data, a choice."""
    rng = np.random.default_rng(5)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    builder = ModelBuilder()
    x = builder.add_input("image", (1, 4, 6, 6), 1)
    other = builder.add_input("more", (1, 4, 6, 6), 1)
    layer = pconv_ops.pack(random(4, 4, 3, 3), random(4), padding=1)
    y = builder.add_node("conv", "first", [x], [CLAMP], [0.0, 6.0], {"layer": layer})
    y = builder.add_node("conv", "second", [y, other], [PRELU], [0.0, 0.0], {"layer": layer, "slope": random(4)})
    scale = builder.add_node("constant", "scale", [], [4, 1, 1], [], {"value": random(4)})
    y = builder.add_node("mul", "scaled", [y, scale], [0], [0.0, 0.0], {})
    y = builder.add_node("max_pool", "pool", [y], [2, 2, 2, 2, 1, 1, 0, 0, 0], [], {})
    z = builder.add_node("mean", "mean", [y], [2, 0], [], {})
    weights = {"weight": random(3, 4), "bias": random(3)}
    z = builder.add_node("linear", "classes", [z], [0], [0.0, 0.0], weights, fp16=True)
    builder.add_output("classes", z)
    builder.add_output("map", y)
    return builder.finish(False).to_bytes([(0, "avx512", "f32_conv3x3_s1_8x1_avx512", (1, 6, 6))])


GOOD = good_file()
BAD: list[tuple[str, Callable[[ModelBytes], bytes | None], str]] = []


def bad(name: str, message: str) -> Callable[[Callable[[ModelBytes], bytes | None]], None]:
    """A way to spoil GOOD: a function that changes it, or returns other bytes."""

    def note(spoil: Callable[[ModelBytes], bytes | None]) -> None:
        BAD.append((name, spoil, message))

    return note


def spoil_header(name: str, message: str, **values: int | bytes) -> None:
    bad(name, message)(lambda m: m.set_header(**values))


def spoil(name: str, message: str, section: str, row: int, column: int | None, value: float) -> None:
    """Another number in a row of a section (column None: of a list of numbers)."""

    def change(m: ModelBytes) -> None:
        rows = getattr(m, section)
        if column is None:
            rows[row] = value
        else:
            rows[row][column] = value

    bad(name, message)(change)


# ---- header and sections

bad("nothing", "0 bytes are fewer than a header's 112")(lambda m: b"")
bad("half a header", "56 bytes are fewer than a header's 112")(lambda m: m.build()[:56])
spoil_header("magic", "magic: this is no model file", magic=b"PCONVPK\n")
spoil_header("major version", "version_major: got version 2.0, this library reads 1.x", major=2)
spoil_header("version 0", "version_major: got version 0.0, this library reads 1.x", major=0)
spoil_header("total too large", "total_bytes: says 1099511627776, there are", total_bytes=1 << 40)
spoil_header("total too small", "total_bytes: says 112, there are", total_bytes=112)
spoil_header("header too short", "header_bytes: must be 112", header_bytes=104)
spoil_header("header too long", "header_bytes: must be 112", header_bytes=120)
spoil_header("checksum", "crc32: the bytes were damaged", crc32=0x12345678)
spoil_header("flags", "flags: has bits this reader does not know", flags=2)
spoil_header("reserved", "reserved: must be 0", reserved3=1)
spoil_header("reserved word", "reserved: must be 0", reserved0=1 << 63)
spoil_header("too many inputs", "total_bytes: the sections need more bytes than there are", n_inputs=0xFFFFFFFF)
spoil_header("too many nodes", "total_bytes: the sections need more bytes than there are", n_nodes=0xFFFFFFFF)
spoil_header("text of all memory", "total_bytes: the sections need more bytes than there are", text_bytes=(1 << 64) - 1)
spoil_header("data of all memory", "total_bytes: the sections need more bytes than there are", n_data=0xFFFFFFFF)


@bad("bytes behind", "total_bytes: bytes follow the last data")
def _(m: ModelBytes) -> None:
    m.behind = bytes(8)


@bad("padding of a section", "byte[")
def _(m: ModelBytes) -> None:
    m.section_padding = b"\1"


@bad("padding of data", "padding must be 0")
def _(m: ModelBytes) -> None:
    m.data_padding = b"\1"


# ---- inputs and outputs

spoil("rank of an input", "inputs[0]: rank 7, at most 6 is allowed", "inputs", 0, 0, 7)
spoil("reserved of an input", "inputs[1]: reserved must be 0", "inputs", 1, 9, 1)
spoil("dim behind the rank", "inputs[0]: dims[4] behind the rank must be 0", "inputs", 0, 6, 3)
spoil("empty dim", 'input "image": dims[2] is 0, allowed 1 to', "inputs", 0, 4, 0)
spoil("negative dim", 'input "image": dims[0] is -1, allowed 1 to', "inputs", 0, 2, -1)
spoil("huge dim", 'input "image": dims[3] is 4611686018427387904, allowed 1 to', "inputs", 0, 5, 1 << 62)
spoil("free dim behind the rank", 'input "image": free_dims names a dim behind rank 4', "inputs", 0, 1, 1 << 4)
spoil("long name", "text_bytes: the records want more than there are", "inputs", 0, 8, 0xFFFFFFFF)
spoil("empty name", "name of an input: is empty", "inputs", 0, 8, 0)
spoil("value of an output", 'output "classes": is value 99, there are 9', "outputs", 0, 0, 99)
spoil("value of the last output", 'output "map": is value -1, there are 9', "outputs", 1, 0, 0xFFFFFFFF)


@bad("numbers beyond memory", 'input "image": has more than')
def _(m: ModelBytes) -> None:
    m.inputs[0][2:6] = [1 << 30] * 4


@bad("no input", "reads value")
def _(m: ModelBytes) -> None:
    m.text = m.text.removeprefix(b"imagemore")
    m.inputs = []


@bad("nothing at all", "model: has no input")
def _(m: ModelBytes) -> None:
    m.inputs, m.nodes, m.outputs, m.choices, m.links, m.ints, m.floats, m.data = [], [], [], [], [], [], [], []
    m.blobs, m.text = [], b""


@bad("no output", "model: has no output")
def _(m: ModelBytes) -> None:
    names = len(m.outputs[0:]) and sum(row[1] for row in m.outputs)
    choice = m.choices[0][1] + m.choices[0][2]
    m.text = m.text[: -(names + choice)] + m.text[-choice:]
    m.outputs = []


@bad("single output of two", "model: single_output with 2 outputs")
def _(m: ModelBytes) -> None:
    m.header["flags"] = 1


@bad("text without an owner", "text_bytes: the names take less")
def _(m: ModelBytes) -> None:
    m.text += b"x"


@bad("line feed in a name", "name of an input: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"image", b"ima\ne")


@bad("broken UTF-8", "name of a node: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"first", b"fir\xff\xff")


@bad("overlong UTF-8", "name of a node: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"second", b"se\xe0\x80\x80d")


@bad("surrogate", "name of an output: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"classesmap", b"clas\xed\xa0\x80map")


@bad("control character in two bytes", "name of a node: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"first", b"fir\xc2\x9b")


@bad("line separator", "name of a node: is no UTF-8 text of one line")
def _(m: ModelBytes) -> None:
    m.text = m.text.replace(b"first", b"fi\xe2\x80\xa8")


@bad("endless name", "name of an input: has 5000 bytes, at most 4096 are allowed")
def _(m: ModelBytes) -> None:
    m.text = b"i" * 4995 + m.text
    m.inputs[0][8] = 5000


# ---- nodes

spoil("operator 0", "nodes[0]: operator 0 is unknown", "nodes", 0, 0, 0)
spoil("operator of the future", "nodes[3]: operator 999 is unknown", "nodes", 3, 0, 999)
spoil("reserved of a node", "nodes[2]: reserved must be 0", "nodes", 2, 5, 1)
spoil("more links", "n_links: the records want more than there are", "nodes", 6, 1, 9)
spoil("more ints", "n_ints: the records want more than there are", "nodes", 6, 2, 9)
spoil("more floats", "n_floats: the records want more than there are", "nodes", 6, 3, 9)
spoil("more data", "n_data: the records want more than there are", "nodes", 6, 4, 9)
spoil("fewer links", "inputs: got 0, allowed 1 to 1", "nodes", 6, 1, 0)
spoil("fewer ints", "ints: got 1 attributes, needed are 2 (n_dims,keepdim)", "nodes", 5, 2, 1)
spoil("fewer floats", "attributes, needed are 2 (alpha,beta)", "nodes", 6, 3, 1)
spoil("fewer data", "n_data: the nodes have fewer", "nodes", 6, 4, 1)
spoil("input of the future", 'node 0 "first": reads value 8, there are 2 before it', "links", 0, None, 8)
spoil("its own input", 'node 1 "second": reads value 3, there are 3 before it', "links", 1, None, 3)
spoil("no value", 'node 0 "first": reads value -1', "links", 0, None, 0xFFFFFFFF)
spoil("another operator", "(max_pool): ints: got 1 attributes, needed are 9", "nodes", 0, 0, 7)
spoil("activation", 'node 0 "first" (conv): activation: got 77, allowed 0 to 11', "ints", 0, None, 77)
spoil("negative activation", 'node 0 "first" (conv): activation: got -1, allowed 0 to 11', "ints", 0, None, -1)
spoil("clamp upside down", 'node 0 "first" (conv): alpha: got 7 and beta 6', "floats", 0, None, 7.0)
spoil("clamp to NaN", 'node 0 "first" (conv): beta: is NaN', "floats", 1, None, float("nan"))
spoil("slope without prelu", 'node 1 "second" (conv): slope: is there without a prelu activation', "ints", 1, None, 0)
spoil(
    "prelu without slope", 'node 0 "first" (conv): slope: is missing, a prelu activation needs it', "ints", 0, None, 3
)
spoil("stride 0", 'node 4 "pool" (max_pool): stride_h: got 0', "ints", 8, None, 0)
spoil("kernel of all", 'node 4 "pool" (max_pool): kernel_w: got', "ints", 7, None, 1 << 62)
spoil("negative padding", 'node 4 "pool" (max_pool): pad_h: got -1', "ints", 12, None, -1)
spoil("window that does not fit", 'node 4 "pool" (max_pool): kernel_h: a window of', "ints", 6, None, 9)
spoil("dim of a constant", 'node 2 "scale" (constant): value: got 4 floats, needed are 5', "ints", 2, None, 5)
spoil("negative dim of a constant", 'node 2 "scale" (constant):', "ints", 3, None, -1)
spoil("dims of a mean", 'node 5 "mean" (mean): n_dims: got 5', "ints", 15, None, 5)
spoil("map of another size", 'node 1 "second" (conv): input 1: a residual must have the shape', "inputs", 1, 4, 5)
spoil("other channels", 'node 0 "first" (conv): input 0: got 3 channels, the layer has 4', "inputs", 0, 3, 3)


bad("int without a node", "n_ints: the nodes have fewer")(lambda m: m.ints.append(0))
bad("float without a node", "n_floats: the nodes have fewer")(lambda m: m.floats.append(0.0))
bad("link without a node", "n_links: the nodes have fewer")(lambda m: m.links.append(0))

# ---- data and choices

spoil("role", "data[0]: role is unknown", "data", 0, 0, 5)
spoil("kind", "data[2]: kind is unknown", "data", 2, 1, 4)
spoil("reserved of data", "data[4]: reserved must be 0", "data", 4, 2, 1)
spoil("tensor as a layer", "data[2]: kind does not go with role", "data", 2, 1, LAYER)
spoil("layer as a tensor", "data[0]: kind does not go with role", "data", 0, 1, FP32)
spoil("fp16 layer", "data[0]: kind does not go with role", "data", 0, 1, FP16)
spoil("slope as bias", "bias: does not belong here, allowed in this order: layer,[slope]", "data", 2, 0, 2)
spoil("data of all memory, in one", "data[2]: reaches behind the end of the file", "data", 2, 3, (1 << 64) - 1)
spoil("data that wraps", "data[3]: reaches behind the end of the file", "data", 3, 3, 1 << 62)
spoil("shared with the future", "data[1]: shares data that does not come before it", "data", 1, 3, 1)
spoil("no node of a choice", "choice 0: node -1 is no conv", "choices", 0, 0, 0xFFFFFFFF)
spoil("choice for a pooling", "choice 0: node 4 is no conv", "choices", 0, 0, 4)
spoil("reserved of a choice", "choices[0]: reserved must be 0", "choices", 0, 3, 7)
spoil("choice for no images", "choice 0: a map of 0, allowed 1 to", "choices", 0, 4, 0)
spoil("choice for a negative map", "choice 0: a map of -6, allowed 1 to", "choices", 0, 6, -6)
spoil("choice without an ISA", "name of an ISA in a choice: is empty", "choices", 0, 1, 0)


@bad("shared with what is shared", "data[2]: shares data that is shared itself")
def _(m: ModelBytes) -> None:
    m.data[2][1], m.data[2][3], m.blobs[2] = SHARED, 1, b""


@bad("layer shared as a tensor", "data[2]: shares data of another kind")
def _(m: ModelBytes) -> None:
    m.data[2][1], m.data[2][3], m.blobs[2] = SHARED, 0, b""


@bad("slope of another size", "slope: got 3 floats, allowed 1 or the channels, 4")
def _(m: ModelBytes) -> None:
    m.data[2][3], m.blobs[2] = 3, m.blobs[2][:12]


@bad("bias of another size", "bias: got 2 floats, needed are 3")
def _(m: ModelBytes) -> None:
    m.data[5][3], m.blobs[5] = 2, m.blobs[5][: 2 * len(m.blobs[5]) // 3]


@bad("weight of another size", "weight: got 11 floats, allowed are multiples of the input's 4")
def _(m: ModelBytes) -> None:
    m.data[4][3], m.blobs[4] = 11, m.blobs[4][: 11 * len(m.blobs[4]) // 12]


@bad("damaged layer", "data[0]: packed bytes: crc32: the bytes were damaged")
def _(m: ModelBytes) -> None:
    m.blobs[0] = m.blobs[0][:-4] + struct.pack("<f", 77.0)


@bad("short layer", "data[0]: packed bytes: total_bytes: says")
def _(m: ModelBytes) -> None:
    m.blobs[0] = m.blobs[0][:-8]
    m.data[0][3] -= 8


@bad("no layer", "data[0]: packed bytes: 0 bytes are fewer than a header's 128")
def _(m: ModelBytes) -> None:
    m.blobs[0], m.data[0][3] = b"", 0


@bad("layer of another kind", "data[0]: packed bytes: magic")
def _(m: ModelBytes) -> None:
    m.blobs[0] = b"PCONVNN\n" + m.blobs[0][8:]


# ---- tests


def test_parts_make_the_file_again():
    assert ModelBytes.parse(GOOD).build() == GOOD
    assert NativeModel.from_bytes(GOOD).to_bytes(NativeModel.from_bytes(GOOD).choices()) == GOOD


def test_eighty_messages_of_their_own():
    messages = set()
    for _, spoiled, _ in BAD:
        parts = ModelBytes.parse(GOOD)
        made = spoiled(parts)
        with pytest.raises(pconv_ops.PConvFormatError) as caught:
            NativeModel.from_bytes(parts.build() if made is None else made)
        messages.add(str(caught.value))
    assert len(messages) >= 80


@pytest.mark.parametrize(("name", "spoiled", "message"), BAD, ids=[name.replace(" ", "_") for name, _, _ in BAD])
def test_bad_file(name, spoiled, message):
    parts = ModelBytes.parse(GOOD)
    made = spoiled(parts)
    file = parts.build() if made is None else made
    assert file != GOOD
    with pytest.raises(pconv_ops.PConvFormatError) as caught:
        NativeModel.from_bytes(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith("model file: ")


def test_newer_minor_version_may_say_more():
    parts = ModelBytes.parse(GOOD)
    parts.header["minor"] = 1
    parts.behind = bytes(range(16))
    assert NativeModel.from_bytes(parts.build()).info["n_nodes"] == 7


def test_values_of_tensors_may_be_anything():
    parts = ModelBytes.parse(GOOD)
    parts.blobs[3] = struct.pack("<4f", float("nan"), INF, -INF, -0.0)
    values = NativeModel.from_bytes(parts.build()).values(2, 0)
    assert np.isnan(values[0]) and values[1] == INF and values[2] == -INF and np.signbit(values[3])


def test_other_kinds_of_files(tmp_path):
    packed = pconv_ops.pack(np.ones((1, 1, 3, 3), np.float32)).to_bytes()
    for content in (packed, b"", b"PK\3\4" + bytes(200), b"{}"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(pconv_ops.PConvFormatError, match="model file"):
            pconv_ops.CompiledModel.load(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        pconv_ops.CompiledModel.load(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        pconv_ops.CompiledModel.load(tmp_path)
