"""The one door to zstandard: byte planes, and records that are like a record we have already.

What is read here may be hostile. A frame must state its size in its header, and nothing is decompressed before that
size and the window were compared with what the caller expects; nothing may follow the frame.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import zstandard

from modelvault.codec.errors import CodecError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PLANE_LEVEL = 1
"""zstd level for byte planes. Three epochs of a 3.6 MB fp32 CNN trained with SGD, one core, ratio and MB/s of planes:
                level -1      level 1       level 3      level 9      level 19
    deltas      1.451 1505    1.575 1188    1.571 940    1.572 162    1.591 7
    keyframes   1.118  647    1.182  745    1.174 634    1.175 131    1.192 9
What there is to gain is in the literals, and level 1 codes them better than any level below 15. Looking for planes of
noise beforehand is not worth a line: zstd passes over them at 13 GB/s."""

_RECORD_LEVEL = 19
_LONG_RECORD_LEVEL = 9
_LONG_BYTES = 1 << 20
"""From this much record and dictionary on, `pack` works at the lower level but with a table that has room for every
position, without which a match in a long dictionary is not found; just below it level 19 takes 0.2 s. A 24 MiB record
with 2,000 edits against its predecessor, text and noise, bytes and seconds:
                               text               noise
    level 19                   26,994 31.7        26,148 5.0
    level 9 as it comes        2.7 million 0.6    21.9 million 0.2
    level 9, 2**25 entries     26,952 0.6         26,133 0.7
zstd's long distance matching is left off: it changed no byte at level 19, and at level 3 with a larger table zstandard
0.25 died of a division by zero."""

_ALIKE = 256
"""A record that the lower level makes so many times shorter is nearly its dictionary, and the higher one finds no more:
templates of ShuffleNet, 89 KB against the one before, 45 bytes either way, 0.3 ms in place of 6.5; a checkpoint of
MobileNetV2, 243 KB, 89 and 90 bytes, 0.8 ms and 24."""

_MAX_TABLE_LOG = 25
"""2**25 entries of 4 bytes: 160 MiB while a record of tens of megabytes is packed."""

_MIN_WINDOW_LOG = zstandard.WINDOWLOG_MIN  # 10
_MAX_WINDOW_LOG = 31


class _Contexts(threading.local):
    """A thread's own compressor and decompressor: neither may be shared, and making one takes 9 us, a 20 kB plane 7."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_PLANE_LEVEL, write_checksum=False, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


def compress(data: Buffer) -> bytes:
    """Return a zstd frame of a plane."""
    return _contexts.compressor.compress(memoryview(data))


def decompress(frame: bytes, size: int) -> bytes:
    """Return a plane of exactly `size` bytes.

    Raises:
        CodecError: not one whole zstd frame of a plane of that size.
    """
    if _content_size(frame) != size:
        raise CodecError(f"zstd frame holds {_content_size(frame)} bytes, expected {size}")
    return _decompress(_contexts.decompressor, frame, size)


def pack(data: Buffer, dictionary: Buffer = b"") -> bytes:
    """Return a short form of a record, shorter still where it repeats runs of `dictionary`.

    >>> skeleton = bytes(range(256))
    >>> patch = pack(skeleton[:100] + b"!" + skeleton[100:], skeleton)
    >>> len(patch) < 40
    True
    >>> unpack(patch, 257, skeleton)[99:102]
    b'c!d'
    """
    data, dictionary = memoryview(data).cast("B"), bytes(dictionary)
    if not len(data):
        return b""
    if dictionary and len(data) + len(dictionary) < _LONG_BYTES:
        found = _packed(data, dictionary, _LONG_RECORD_LEVEL)
        if len(found) * _ALIKE <= len(data):
            return found
    return _packed(data, dictionary, _RECORD_LEVEL)


def _packed(data: memoryview, dictionary: bytes, level: int) -> bytes:
    total = len(data) + len(dictionary)
    window_log = min(max((total - 1).bit_length(), _MIN_WINDOW_LOG), _MAX_WINDOW_LOG)
    tables = dict[str, int]()
    if total >= _LONG_BYTES:
        table_log = min(window_log, _MAX_TABLE_LOG)
        level, tables = _LONG_RECORD_LEVEL, {"hash_log": table_log, "chain_log": table_log}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(dictionary),
        window_log=window_log,  # matches reach this far back: over all of the dictionary
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
        **tables,
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(dictionary), compression_params=parameters)
    return compressor.compress(data)


def unpack(data: Buffer, size_limit: int, dictionary: Buffer = b"") -> bytes:
    """Return the record that `pack` was given, of at most `size_limit` bytes.

    Raises:
        CodecError: not a packed record, or a longer one. With a dictionary other than that of `pack` this may or may
            not be noticed.
    """
    data = bytes(data)
    if not data:
        return b""
    size = _content_size(data)
    if not 0 < size <= size_limit:
        raise CodecError(f"packed record holds {size} bytes, expected 1 to {size_limit}")
    decompressor = zstandard.ZstdDecompressor(
        dict_data=_dictionary(bytes(dictionary)), max_window_size=max(size, 1 << _MIN_WINDOW_LOG)
    )
    return _decompress(decompressor, data, size)


def _dictionary(content: bytes) -> zstandard.ZstdCompressionDict | None:
    if not content:
        return None
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _content_size(frame: bytes) -> int:
    """Return the size that a zstd frame states, having checked all else that its header says.

    Raises:
        CodecError: not a zstd frame, one that does not state its size, names a dictionary, or has a window larger than
            its content.
    """
    if not frame.startswith(zstandard.FRAME_HEADER):
        raise CodecError("not a zstd frame")
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd frame header: {error}") from None
    size: int = header.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise CodecError("zstd frame does not state its size")
    if header.dict_id:
        raise CodecError(f"zstd frame names dictionary {header.dict_id}")
    if header.window_size > max(size, 1 << _MIN_WINDOW_LOG):
        raise CodecError(f"zstd frame of {size} bytes has a window of {header.window_size}")
    return size


def _decompress(decompressor: zstandard.ZstdDecompressor, frame: bytes, size: int) -> bytes:
    try:
        data = decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"zstd frame: {error}") from None
    if len(data) != size:
        raise CodecError(f"zstd frame gave {len(data)} bytes, expected {size}")
    return data
