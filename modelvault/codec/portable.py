"""The codecs of float words in numpy: what computes where the compiled kernels are missing, and to the same bytes.

Everything goes in and out as bytes, so that the compiled kernels offer the same functions. `parameters` are those of
the tensor, `references` the chunks at the same place of its references, each as long as the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modelvault.codec import levels_rans, low_rank, plan, residual_rans, search, spreads, strides_delta, told
from modelvault.codec.bounds import checked, on_lattice
from modelvault.codec.ends import of_numbers, surveyed
from modelvault.codec.errors import CodecError
from modelvault.codec.floats import BINARY32, FORMATS, Format
from modelvault.codec.frame import FRAME_BYTES, seal, unseal
from modelvault.codec.glance import Signs, are_noise, signs
from modelvault.codec.order import Words
from modelvault.codec.parameters import Parameters, Predictor, Previous
from modelvault.codec.plan import Kind
from modelvault.codec.table import BY_ID, LEVELS_RANS, LOW_RANK, LOW_RANK_DELTA, OF_FLOATS, RESIDUAL_RANS, STRIDES_DELTA
from modelvault.tensors import BY_CODE

if TYPE_CHECKING:
    from typing_extensions import Buffer


def glance(dtype_code: int, chunk: Buffer, reference: Buffer | None, alone: bool) -> int:
    """Return the `Signs` of a chunk.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        reference: as many bytes; None if there is none.
        alone: whether they are one tensor's.

    Raises:
        ValueError: another dtype, or a reference of another length.
    """
    format_ = _format(dtype_code, ValueError)
    words, rest = _words(chunk, format_)
    if reference is None:
        return signs(words, None, BY_CODE[dtype_code], alone=alone)
    base, rest_of_base = _words(reference, format_)
    if (words.size, len(rest)) != (base.size, len(rest_of_base)):
        raise ValueError(f"reference of {base.nbytes} bytes for a chunk of {words.nbytes}")
    if words.nbytes + len(rest) and np.array_equal(words, base) and rest == rest_of_base:
        return Signs.EQUAL
    return signs(words, base, BY_CODE[dtype_code], alone=alone)


def ends(dtype_code: int, words: Buffer) -> bytes:
    """Return the `Ends` of words that are not 0, as three 64-bit integers for each pair, in order.

    Args:
        dtype_code: of a dtype that has a float format.
        words: some, from all over a tensor.

    Raises:
        ValueError: another dtype.
    """
    found = of_numbers(_words(words, _format(dtype_code, ValueError))[0], BY_CODE[dtype_code])
    return np.stack(found, axis=1).astype("<i8").tobytes()


def encode_delta(
    dtype_code: int, chunk: Buffer, parameters: bytes, references: Sequence[Buffer], row: int, start: int, limit: int
) -> bytes | None:
    """Return a body of codec `residual-rans`, or None if none is shorter than the chunk's words, or worth making.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        parameters: with at least one predictor.
        references: as many as the parameters need.
        row: words of a row of the tensor, 0 if there are no rows.
        start: which word of the tensor the chunk's first is.
        limit: no body is made if its tails and two bits for each token alone take so many bytes.

    Raises:
        ValueError: another dtype, no predictor, or references that are missing or of other lengths.
    """
    format_, predictors, bases = _checked(dtype_code, memoryview(chunk).nbytes, parameters, references, ValueError)
    words, rest = _words(chunk, format_)
    return residual_rans.encode(words, rest, format_, predictors, bases, row, start, limit)


def decode_delta(dtype_code: int, body: Buffer, size: int, parameters: bytes, references: Sequence[Buffer]) -> bytes:
    """Return the chunk of `size` bytes that `encode_delta` was given.

    Raises:
        CodecError: not such a body, or nothing of that dtype, those parameters or references can have one.
    """
    format_, predictors, bases = _checked(dtype_code, size, parameters, references, CodecError)
    return residual_rans.decode(body, size, format_, predictors, bases)


def decode_strides(dtype_code: int, body: Buffer, size: int, references: Sequence[Buffer]) -> bytes:
    """Return the chunk of `size` bytes that a body of codec `strides-delta` was made of.

    Raises:
        CodecError: not such a body, or nothing of that dtype or reference can have one.
    """
    format_ = _format(dtype_code, CodecError)
    if format_ is not BINARY32:
        raise CodecError(f"{STRIDES_DELTA.name} frame of words of {format_.word_bytes} bytes")
    return strides_delta.decode(body, size, _first(format_, size, references))


def _first(format_: Format, size: int, references: Sequence[Buffer]) -> Words:
    if not references:
        raise CodecError("0 references given, 1 needed")
    base = memoryview(references[0])
    if base.nbytes != size:
        raise CodecError(f"reference of {base.nbytes} bytes for a chunk of {size}")
    return _words(base, format_)[0]


def encode_keyframe(dtype_code: int, chunk: Buffer, row: int, start: int) -> bytes | None:
    """Return a body of codec `levels-rans`, or None if none is shorter than the chunk's words.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        row: words of a row of the tensor, 0 if there are no rows.
        start: which word of the tensor the chunk's first is.

    Raises:
        ValueError: another dtype.
    """
    format_ = _format(dtype_code, ValueError)
    words, rest = _words(chunk, format_)
    return levels_rans.encode(words, rest, format_, row, start)


def decode_keyframe(dtype_code: int, body: Buffer, size: int) -> bytes:
    """Return the chunk of `size` bytes that `encode_keyframe` was given.

    Raises:
        CodecError: not such a body, or nothing of that dtype can have one.
    """
    return levels_rans.decode(body, size, _format(dtype_code, CodecError))


def encode_frame(
    dtype_code: int,
    chunk: Buffer,
    parameters: bytes,
    references: Sequence[Buffer],
    row: int,
    start: int,
    limit: int,
    alone: bool,
) -> bytes | int:
    """Return a frame of a chunk that shows no signs: by strides, by factors, a delta, or a keyframe if that is shorter.

    Return its `Signs` if it has some, or if byte planes may do better yet: `LONG`, or 0 if no delta is worth making.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        parameters: with at least one predictor.
        references: as many as the parameters need.
        row: words of a row of the tensor, 0 if there are no rows.
        start: which word of the tensor the chunk's first is.
        limit: as of `encode_delta`.
        alone: whether the chunk's words are one tensor's.

    Raises:
        ValueError: another dtype, no predictor, or references that are missing or of other lengths.
    """
    seen = glance(dtype_code, chunk, references[0] if references else None, alone)
    if seen:
        return seen
    format_ = _format(dtype_code, ValueError)
    if format_ is BINARY32:
        words, rest = _words(chunk, format_)
        by_strides = strides_delta.encode(words, rest, _words(references[0], format_)[0], row, start)
        if by_strides is not None:
            return seal(STRIDES_DELTA, by_strides)
    words, rest = _words(chunk, format_)
    bases = _checked(dtype_code, len(words) * format_.word_bytes + len(rest), parameters, references, ValueError)
    factored = low_rank.encode(words, rest, *bases, row, start)
    if factored is not None and len(factored[1]) < limit:
        return seal(LOW_RANK_DELTA if factored[0] else LOW_RANK, factored[1])
    body = encode_delta(dtype_code, chunk, parameters, references, row, start, limit)
    if body is not None and len(body) < limit:
        return seal(RESIDUAL_RANS, body)
    undecided = 0 if body is None else Signs.LONG
    words, rest = _words(chunk, format_)
    if not are_noise(words):
        return undecided
    keyframe = levels_rans.encode(words, rest, format_, row, start)
    found = [(len(made), codec, made) for codec, made in ((LEVELS_RANS, keyframe), (RESIDUAL_RANS, body)) if made]
    length, codec, shortest = min(found, key=lambda one: one[0], default=(0, LEVELS_RANS, b""))
    if not found or length > limit + (words.nbytes + len(rest)) // levels_rans.POOR:
        return undecided
    return seal(codec, shortest)


def decode_frame(
    dtype_code: int, frame: Buffer, size: int, parameters: bytes, references: Sequence[Buffer]
) -> bytes | None:
    """Return the chunk of `size` bytes that a frame of a codec of floats was made of: those that `encode_frame` writes.

    None if it is none of them, or a delta of a tensor whose parameters name no predictor.

    Raises:
        CodecError: it is damaged, or nothing of that dtype, those parameters or references can have one.
    """
    view = memoryview(frame)
    if len(view) < FRAME_BYTES or BY_ID.get(view[0]) not in OF_FLOATS:
        return None
    if BY_ID[view[0]].needs_reference and parameters[1:2] == b"\0":
        return None
    codec, body = unseal(view)
    if codec is LEVELS_RANS:
        return decode_keyframe(dtype_code, body, size)
    if codec is LOW_RANK:
        return low_rank.decode(body, size, _format(dtype_code, CodecError), None, ())
    if codec is LOW_RANK_DELTA and bytes(body[:1]) == b"\0":
        format_ = _format(dtype_code, CodecError)
        return low_rank.decode(body, size, format_, (), [_first(format_, size, references)])
    if codec is LOW_RANK_DELTA:
        return low_rank.decode(body, size, *_checked(dtype_code, size, parameters, references, CodecError))
    if codec is STRIDES_DELTA:
        return decode_strides(dtype_code, body, size, references)
    return decode_delta(dtype_code, body, size, parameters, references)


def frame_decodes_to(
    dtype_code: int, frame: Buffer, chunk: Buffer, parameters: bytes, references: Sequence[Buffer]
) -> bool | None:
    """Return whether `decode_frame` gives this chunk; None where it gives none.

    Raises:
        CodecError: as `decode_frame`.
    """
    raw = bytes(chunk)
    found = decode_frame(dtype_code, frame, len(raw), parameters, references)
    return None if found is None else found == raw


def fit(dtype_code: int, new: Buffer, old: Buffer, length: int, share: float) -> bytes:
    """Return parameters with the predictors that do best, as bytes; `search` says which these are.

    Args:
        dtype_code: of a dtype that has a float format.
        new: words of a tensor.
        old: the words at the same places of its reference.
        length: words of a block.
        share: what part of the tensor they are.

    Raises:
        ValueError: another dtype, or `old` is not as long as `new`.
    """
    format_ = _format(dtype_code, ValueError)
    words, reference = _words(new, format_)[0], _words(old, format_)[0]
    if words.size != reference.size:
        raise ValueError(f"reference of {reference.size} words for {words.size} words")
    predictors: tuple[Predictor, ...] = (Previous(),)
    if words.size >= search.LEAST_WORDS and not np.array_equal(words, reference):
        predictors = search.find(format_, words, reference, length, share)
    return Parameters(BY_CODE[dtype_code], predictors).to_bytes()


def round_elements(dtype_code: int, chunk: Buffer, exponent: int, limit: float) -> tuple[bytes, float, float, int, int]:
    """Return the fields of `Rounded` of a chunk whose elements go to multiples of a power of two within a limit.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        exponent: of the step, at most `plan.MAX_EXPONENT` either way.
        limit: how far an element may be off.

    Raises:
        ValueError: another dtype.
    """
    dtype, data = BY_CODE[dtype_code], np.frombuffer(memoryview(chunk), np.uint8)
    words = _words(chunk, _format(dtype_code, ValueError))[0]
    return checked(data, words, on_lattice(words, dtype, exponent), dtype, {}, limit)


def survey_pieces(dtype_code: int, chunk: Buffer, reference: Buffer | None, pieces: bytes) -> bytes:
    """Return what `ends.surveyed` tells of the words of pieces, as 64-bit integers.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        reference: as many, or None.
        pieces: what `plan.pack` returned; they have all words of the chunk, none of them no word.
    """
    format_ = _format(dtype_code, ValueError)
    base = None if reference is None else _words(reference, format_)[0]
    sizes = np.frombuffer(pieces, plan.RECORD)["words"].astype(np.int64)
    found = surveyed(_words(chunk, format_)[0], base, BY_CODE[dtype_code], sizes)
    return found.astype("<i8").tobytes()


def tell_pieces(pieces: bytes, delta: bool) -> bytes:
    """Return what says of pieces what they are.

    Args:
        pieces: what `plan.pack` returned.
        delta: whether there is a reference.

    Raises:
        ValueError: they are of too many kinds.
    """
    return told.write(plan.unpack(pieces), delta)


def read_pieces(body: Buffer, count: int, delta: bool) -> tuple[bytes, int]:
    """Return the pieces that `tell_pieces` was given but for how they lie in rows, and how many bytes told them.

    Args:
        body: begins with what it returned.
        count: words of all of them.
        delta: the same.

    Raises:
        CodecError: not such bytes.
    """
    found, used = told.read(bytes(body), count, delta)
    return plan.pack(found), used


def fit_pieces(dtype_code: int, chunk: Buffer, reference: Buffer, pieces: bytes) -> bytes:
    """Return what the reference of each piece is best multiplied with, as binary64: 1 where steps are not equal.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        reference: as many.
        pieces: what `plan.pack` returned; they have all words of the chunk.
    """
    format_ = _format(dtype_code, ValueError)
    words, base = _words(chunk, format_)[0], _words(reference, format_)[0]
    factors, start = list[float](), 0
    for piece in plan.unpack(pieces):
        some = slice(start, start + piece.run.words)
        start = some.stop
        factors.append(plan.fitted(words[some], base[some], BY_CODE[dtype_code], piece))
    return np.array(factors, "<f8").tobytes()


def encode_pieces(dtype_code: int, chunk: Buffer, reference: Buffer | None, pieces: bytes) -> tuple[bytes, bytes]:
    """Return the residuals of pieces, coded, and a byte for each word that says whether it is none of its kind.

    Those bytes are left out if there is no such word.

    Args:
        dtype_code: of a dtype that has a float format.
        chunk: its bytes.
        reference: as many, or None.
        pieces: what `plan.pack` returned; they have all words of the chunk.
    """
    format_ = _format(dtype_code, ValueError)
    words, base = _words(chunk, format_)[0], None if reference is None else _words(reference, format_)[0]
    marks = np.zeros(words.size, np.bool_)
    residuals, classes, runs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    start = 0
    for piece in plan.unpack(pieces):
        some = slice(start, start + piece.run.words)
        start = some.stop
        if piece.is_counted:
            beside = None if base is None else base[some]
            found, kinds, marks[some] = plan.counted(words[some], beside, BY_CODE[dtype_code], piece)
            residuals.append(found)
            classes.append(kinds)
            runs.append(piece.run)
    core = spreads.write(np.concatenate(residuals), np.concatenate(classes), runs)
    return core, marks.tobytes() if marks.any() else b""


def decode_pieces(dtype_code: int, core: Buffer, size: int, reference: Buffer | None, pieces: bytes) -> bytes:
    """Return the chunk of `size` bytes that `encode_pieces` was given, 0 where words are in another frame.

    Raises:
        CodecError: not such bytes, or nothing of that dtype can have them.
    """
    format_ = _format(dtype_code, CodecError)
    dtype = BY_CODE[dtype_code]
    out = bytearray(size)
    words, base = _words(out, format_)[0], None if reference is None else _words(reference, format_)[0]
    expected, start = [], 0
    for piece in plan.unpack(pieces):
        some = slice(start, start + piece.run.words)
        start = some.stop
        beside = None if base is None else base[some]
        if piece.is_counted:
            expected.append((some, piece, beside, plan.classes_of(piece.run.words, beside, dtype, piece)))
        elif piece.kind is Kind.SAME and beside is not None:
            words[some] = beside
    classes = np.concatenate([np.zeros(0, np.int64), *(found[2] for *_, found in expected)])
    residuals = spreads.read(core, classes, [piece.run.words for _, piece, *_ in expected])
    start = 0
    for some, piece, beside, (points, sides, _) in expected:
        found = residuals[start : start + piece.run.words]
        start += piece.run.words
        words[some] = plan.restored(found, points, sides, beside, dtype, piece)
    return bytes(out)


def _format(dtype_code: int, error: type[Exception]) -> Format:
    dtype = BY_CODE.get(dtype_code)
    if dtype is None or dtype not in FORMATS:
        raise error(f"words of dtype {dtype_code if dtype is None else dtype.name} are no floats that are coded so")
    return FORMATS[dtype]


def _checked(
    dtype_code: int, size: int, parameters: bytes, references: Sequence[Buffer], error: type[Exception]
) -> tuple[Format, Sequence[Predictor], list[Words]]:
    format_ = _format(dtype_code, error)
    found = Parameters.from_bytes(parameters)
    if found.dtype.code != dtype_code or not found.needs_reference:
        raise error(f"parameters {parameters.hex()} are for no delta of dtype {dtype_code}")
    if len(references) < found.references:
        raise error(f"{len(references)} references, expected {found.references}")
    for reference in references[: found.references]:
        if memoryview(reference).nbytes != size:
            raise error(f"reference of {memoryview(reference).nbytes} bytes for a chunk of {size}")
    bases = [_words(reference, format_)[0] for reference in references[: found.references]]
    return format_, found.predictors, bases


def _words(chunk: Buffer, format_: Format) -> tuple[Words, memoryview]:
    data = np.frombuffer(memoryview(chunk), np.uint8)
    count = data.size // format_.word_bytes
    words: Words = data[: count * format_.word_bytes].view(f"<u{format_.word_bytes}")
    return words, data[words.nbytes :].data
