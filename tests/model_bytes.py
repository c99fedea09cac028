"""Model files taken apart and put together again by docs/FORMAT.md alone, to make bad ones by hand."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

HEADER = struct.Struct("<8sHHIQII4I4IQ5Q")
INPUT = struct.Struct("<II6qII")
NODE = struct.Struct("<HHHHHHI")
OUTPUT = struct.Struct("<II")
CHOICE = struct.Struct("<IIIIqqq")
DATA = struct.Struct("<HHIQ")
LAYER, FP32, FP16, SHARED = range(4)
HEADER_FIELDS = (
    *("magic", "major", "minor", "header_bytes", "total_bytes", "crc32", "flags"),
    *("n_inputs", "n_nodes", "n_outputs", "n_choices", "n_links", "n_ints", "n_floats", "n_data", "text_bytes"),
    *(f"reserved{i}" for i in range(5)),
)
ITEM_BYTES = {LAYER: 1, FP32: 4, FP16: 2}


@dataclass
class ModelBytes:
    """Every number of a model file; build() gives the bytes, sizes and checksum set unless they were set by hand."""

    header: dict[str, int | bytes]
    inputs: list[list[int]]
    nodes: list[list[int]]
    outputs: list[list[int]]
    choices: list[list[int]]
    links: list[int]
    ints: list[int]
    floats: list[float]
    data: list[list[int]]
    text: bytes
    blobs: list[bytes]
    by_hand: set[str] = field(default_factory=set)  # header fields that build() leaves
    section_padding: bytes = b"\0"
    data_padding: bytes = b"\0"
    behind: bytes = b""

    @classmethod
    def parse(cls, file: bytes) -> ModelBytes:
        header = dict(zip(HEADER_FIELDS, HEADER.unpack_from(file), strict=True))
        at = HEADER.size

        def section(item: struct.Struct, count: int) -> list[list[int]]:
            nonlocal at
            rows = [list(item.unpack_from(file, at + i * item.size)) for i in range(count)]
            at += item.size * count
            at += -at % 8
            return rows

        inputs, nodes = section(INPUT, header["n_inputs"]), section(NODE, header["n_nodes"])
        outputs, choices = section(OUTPUT, header["n_outputs"]), section(CHOICE, header["n_choices"])
        links = [row[0] for row in section(struct.Struct("<I"), header["n_links"])]
        ints = [row[0] for row in section(struct.Struct("<q"), header["n_ints"])]
        floats = [row[0] for row in section(struct.Struct("<f"), header["n_floats"])]
        data = section(DATA, header["n_data"])
        text = file[at : at + header["text_bytes"]]
        at += len(text)
        at += -at % 8
        blobs = []
        for _, kind, _, count in data:
            if kind == SHARED:
                blobs.append(b"")
                continue
            at += -at % 64
            blobs.append(file[at : at + count * ITEM_BYTES[kind]])
            at += len(blobs[-1])
        return cls(header, inputs, nodes, outputs, choices, links, ints, floats, data, text, blobs)

    def set_header(self, **values: int | bytes) -> None:
        self.header |= values
        self.by_hand |= set(values)

    def build(self) -> bytes:
        sections = [
            *([INPUT.pack(*row) for row in self.inputs], [NODE.pack(*row) for row in self.nodes]),
            *([OUTPUT.pack(*row) for row in self.outputs], [CHOICE.pack(*row) for row in self.choices]),
            *([struct.pack("<I", n) for n in self.links], [struct.pack("<q", n) for n in self.ints]),
            *([struct.pack("<f", n) for n in self.floats], [DATA.pack(*row) for row in self.data], [self.text]),
        ]
        out = bytearray(HEADER.size)
        for rows in sections:
            out += b"".join(rows)
            out += self.section_padding * (-len(out) % 8)
        for (_, kind, _, _), blob in zip(self.data, self.blobs, strict=True):
            if kind != SHARED:
                out += self.data_padding * (-len(out) % 64)
                out += blob
        out += bytes(-len(out) % 8) + self.behind
        counts = {
            f"n_{name}": len(getattr(self, name))
            for name in ("inputs", "nodes", "outputs", "choices", "links", "ints", "floats", "data")
        }
        found = {"total_bytes": len(out), "header_bytes": HEADER.size, "text_bytes": len(self.text), **counts}
        self.header |= {name: value for name, value in found.items() if name not in self.by_hand}
        if "crc32" not in self.by_hand:
            self.header["crc32"] = 0
            out[: HEADER.size] = HEADER.pack(*(self.header[name] for name in HEADER_FIELDS))
            self.header["crc32"] = zlib.crc32(bytes(out))
        out[: HEADER.size] = HEADER.pack(*(self.header[name] for name in HEADER_FIELDS))
        return bytes(out)
