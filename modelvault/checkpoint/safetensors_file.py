"""The layout of a safetensors file: a length, a JSON header, and the tensors it describes.

8 bytes   n, the header's length, little-endian
n bytes   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, "__metadata__": {...}}
rest      the data, which the offsets count from
"""

from __future__ import annotations

import json

from modelvault.checkpoint.layout import Layout, Segment, Source, opaque
from modelvault.tensors import DType

MAX_HEADER_BYTES = 16 << 20
"""The format allows 100 MB, of which hostile JSON makes 2 GB of objects. An entry takes about 100 bytes: this
is room for 160,000 tensors in one file."""
_PREFIX = 8

_DTYPES = {
    "BOOL": DType.BOOL,
    "U8": DType.U8,
    "I8": DType.I8,
    "U16": DType.U16,
    "I16": DType.I16,
    "U32": DType.U32,
    "I32": DType.I32,
    "U64": DType.U64,
    "I64": DType.I64,
    "F16": DType.F16,
    "BF16": DType.BF16,
    "F32": DType.F32,
    "F64": DType.F64,
    "F8_E4M3": DType.F8_E4M3,
    "F8_E5M2": DType.F8_E5M2,
    "F8_E4M3FNUZ": DType.F8_E4M3FNUZ,
    "F8_E5M2FNUZ": DType.F8_E5M2FNUZ,
    "F8_E8M0": DType.F8_E8M0,
    "F4": DType.F4X2,
    "C64": DType.C64,
    "F6_E2M3": DType.BYTES,  # four values in three bytes: no element of its own to predict
    "F6_E3M2": DType.BYTES,
}


def looks_like_safetensors(source: Source, head: bytes) -> bool:
    """Whether a file that starts with `head` (9 bytes or more) may be a safetensors file."""
    length = int.from_bytes(head[:_PREFIX], "little")
    return len(head) > _PREFIX and head[_PREFIX : _PREFIX + 1] == b"{" and length <= source.size - _PREFIX


def safetensors_layout(source: Source) -> Layout:
    """Return the layout of a safetensors file, opaque if its header cannot be read.

    The layout is what the file claims; `layout.checked` has the last word.
    """
    length = int.from_bytes(source.read(0, _PREFIX), "little")
    if length > MAX_HEADER_BYTES:
        return opaque(source.size, f"safetensors header of {length} bytes is too long to read")
    try:
        header = json.loads(source.read(_PREFIX, length))
    except (ValueError, RecursionError) as error:
        return opaque(source.size, f"safetensors header not read: {error}")
    if not isinstance(header, dict):
        return opaque(source.size, "safetensors header is no object")

    segments: list[Segment] = []
    notes: list[str] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        segment = _segment(name, entry, _PREFIX + length)
        if segment is None:
            notes.append(f"{name}: header entry not understood")
        elif segment.length:
            segments.append(segment)
    return Layout("safetensors", source.size, tuple(segments), notes=tuple(notes))


def _segment(name: str, entry: object, data_start: int) -> Segment | None:
    """Return the segment that a header entry describes, of no length for an empty tensor."""
    match entry:
        case {"dtype": str(tag), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if 0 <= begin <= end:
            dtype = _DTYPES.get(tag, DType.BYTES)
            sizes = tuple(size for size in shape if isinstance(size, int))
            if dtype is DType.F4X2 and sizes:
                sizes = (*sizes[:-1], sizes[-1] // 2)  # counted in values of four bits
            return Segment(data_start + begin, end - begin, dtype, sizes, name)
    return None
