"""Chunks of tensors to frames and back, alone or against a reference; and text-like records likewise.

Pure functions of bytes: no ids, no store, no files, and no choice of the reference. They may be called from any
number of threads, and let go of the interpreter lock in their long steps. Decoding is specified, byte for byte, in
docs/format/codecs.md; encoding is free, as long as it comes back.
"""

from modelvault.codec.chunk import decode_chunk, encode_chunk
from modelvault.codec.compare import Sums, compare
from modelvault.codec.entropy import pack, unpack
from modelvault.codec.errors import CodecError
from modelvault.codec.frame import codec_name, is_delta, max_frame_bytes
from modelvault.codec.parameters import Parameters, Predictor
from modelvault.codec.rounding import Bound, Rounded, is_roundable, round_elements, round_within_both
from modelvault.codec.values import NPY_DTYPES, npy_bytes, plain_numbers

KERNELS = "numpy"
"""What computes: the same bytes come out whatever it is."""

__all__ = [
    "KERNELS",
    "NPY_DTYPES",
    "Bound",
    "CodecError",
    "Parameters",
    "Predictor",
    "Rounded",
    "Sums",
    "compare",
    "codec_name",
    "decode_chunk",
    "encode_chunk",
    "is_delta",
    "is_roundable",
    "max_frame_bytes",
    "npy_bytes",
    "pack",
    "plain_numbers",
    "round_elements",
    "round_within_both",
    "unpack",
]
