"""The soak's light model: the brightest of 64 patches of the part, as a file with a card that the daemon takes.

A soak asks what the daemon does over a million parts, not what a network does: this one costs ONNX Runtime some tens
of microseconds a part. It is a whole model file all the same (graph, card, golden image) and enters service through the
same gate as any other.
"""

import base64
import json
import struct
import zlib

SIDE, PATCH = 32, 4
PATCHES = SIDE // PATCH
FLOAT, UINT8, INT64 = 1, 2, 7
INT, TENSOR_INTS = 2, 7


def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """One field of a protobuf message: a whole number, or what has a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


# The numbers are those of onnx.proto3; src/core/onnx.rs has the same messages.


def attribute(name, value):
    if isinstance(value, int):
        return field(1, name) + field(20, INT) + field(3, value)
    return field(1, name) + field(20, TENSOR_INTS) + b"".join(field(8, v) for v in value)


def node(kind, inputs, output, **attributes):
    parts = [field(1, name) for name in inputs] + [field(2, output), field(4, kind)]
    return b"".join(parts + [field(5, attribute(k, v)) for k, v in attributes.items()])


def tensor(name, kind, dims, raw):
    return b"".join(field(1, d) for d in dims) + field(2, kind) + field(8, name) + field(9, raw)


def value(name, kind, dims):
    """An input or output; None is a dimension that is open."""
    shape = b"".join(field(1, field(2, "N") if d is None else field(1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def png(rows):
    """A grey picture."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def card(name, review, reject):
    """Patches from dark to bright; the brightest has level 189."""
    picture = [[3 * (row // PATCH * PATCHES + column // PATCH) for column in range(SIDE)] for row in range(SIDE)]
    golden = {"name": "patches", "png_base64": base64.b64encode(png(picture)).decode(), "score": 189 / 255}
    return {
        "schema": 1,
        "name": name,
        "created": "2026-01-01T00:00:00Z",
        "input": {"width": SIDE, "height": SIDE, "channels": 1},
        "preprocessing": {"resize": "area"},
        "thresholds": {"review": review, "reject": reject},
        "calibration": {
            "method": "conformal", "goods": 1, "groups": 1, "alpha": 0.05, "review_alpha": 0.05, "provisional": True,
            "claim": "None: limits of a simulation.",
        },
        "golden": [golden],
        "training": {
            "trainer_version": "none", "data_sha256": "", "goods": 0, "seed": 0, "steps": 0,
            "settings": {"score": "brightest patch"},
        },
    }


def model(name, review, reject):
    """The file's bytes."""
    nodes = [
        node("Cast", ["image"], "levels", to=FLOAT),
        node("Mul", ["levels", "scale"], "grey"),
        node("Reshape", ["grey", "planes"], "plane"),
        node("AveragePool", ["plane"], "patches", kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        node("Reshape", ["patches", "grid"], "map"),
        node("ReduceMax", ["map"], "score", axes=[1, 2], keepdims=0),
    ]
    constants = [
        tensor("scale", FLOAT, [1], struct.pack("<f", 1 / 255)),
        tensor("planes", INT64, [4], struct.pack("<4q", -1, 1, SIDE, SIDE)),
        tensor("grid", INT64, [3], struct.pack("<3q", -1, PATCHES, PATCHES)),
    ]
    graph = b"".join(field(1, n) for n in nodes) + field(2, "soak") + b"".join(field(5, c) for c in constants)
    graph += field(11, value("image", UINT8, [None, SIDE, SIDE, 1]))
    graph += field(12, value("score", FLOAT, [None])) + field(12, value("map", FLOAT, [None, PATCHES, PATCHES]))
    about = field(1, "inspectd.card") + field(2, json.dumps(card(name, review, reject), separators=(",", ":")))
    return field(1, 8) + field(8, field(1, "") + field(2, 17)) + field(7, graph) + field(14, about)
