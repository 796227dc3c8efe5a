"""Chunks of tensors to frames and back, alone or against a reference; and text-like records likewise.

Pure functions of bytes: no ids, no store, no files, and no choice of the reference. They may be called from any
number of threads, and let go of the interpreter lock in their long steps. Decoding is specified, byte for byte, in
docs/format/codecs.md; encoding is free, as long as it comes back.
"""

from modelvault.codec.bounds import Bound, Rounded
from modelvault.codec.chunk import decode_chunk, decodes_to, encode_chunk, runs_of
from modelvault.codec.compare import Sums, compare
from modelvault.codec.entropy import pack, unpack
from modelvault.codec.errors import CodecError
from modelvault.codec.fit import fit
from modelvault.codec.frame import codec_name, is_delta, max_frame_bytes, references_of, row_of
from modelvault.codec.kernels import in_use as kernels_in_use
from modelvault.codec.order import word_bytes
from modelvault.codec.parameters import (
    COMPUTED_DTYPES,
    Combined,
    Decayed,
    Parameters,
    Predictor,
    Previous,
    Scaled,
    Term,
    TermKind,
)
from modelvault.codec.regression import agreement, fit_terms
from modelvault.codec.rounding import (
    anchored,
    hold,
    is_roundable,
    round_elements,
    round_in_units,
    round_moment,
    round_within_both,
    step_exponent,
    sum_of_squares,
)
from modelvault.codec.spreads import Run
from modelvault.codec.values import NPY_DTYPES, npy_bytes, plain_numbers

__all__ = [
    "COMPUTED_DTYPES",
    "NPY_DTYPES",
    "Bound",
    "CodecError",
    "Combined",
    "Decayed",
    "Parameters",
    "Predictor",
    "Previous",
    "Rounded",
    "Run",
    "Scaled",
    "Sums",
    "Term",
    "TermKind",
    "agreement",
    "anchored",
    "codec_name",
    "compare",
    "decode_chunk",
    "decodes_to",
    "encode_chunk",
    "fit",
    "fit_terms",
    "hold",
    "is_delta",
    "is_roundable",
    "kernels_in_use",
    "max_frame_bytes",
    "npy_bytes",
    "pack",
    "plain_numbers",
    "references_of",
    "round_elements",
    "round_in_units",
    "round_moment",
    "round_within_both",
    "row_of",
    "runs_of",
    "step_exponent",
    "sum_of_squares",
    "unpack",
    "word_bytes",
]
