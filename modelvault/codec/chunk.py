"""Chunks to frames and back: tries the codecs that are likely to do well, keeps the smallest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modelvault.codec import ends, floats, glance, kernels, lattice, levels_rans, order, pieces, planes, steps, table
from modelvault.codec.errors import CodecError
from modelvault.codec.frame import seal, unseal
from modelvault.codec.glance import Signs
from modelvault.codec.order import Words
from modelvault.codec.parameters import Parameters
from modelvault.codec.spreads import Run
from modelvault.codec.table import Codec
from modelvault.tensors import DType

if TYPE_CHECKING:
    from typing_extensions import Buffer

_Bytes = npt.NDArray[np.uint8]

_SMALL_BYTES = 1 << 12
"""Up to here every codec is tried: it takes no time, and heads and tables weigh more than what a codec is good at.
Pieces of 6,000 and 12,000 bytes of ShuffleNet, MiniLM and MobileNetV2, fp32 and bf16, take 0.00 to 0.04 % more than
with 16 KiB, and a delta of 10,000 bytes of bf16 is made in 42 us in place of 155."""

_SHARES = {floats.BINARY32: 27 / 32, floats.BFLOAT16: 10.5 / 16, floats.BINARY16: 13.5 / 16}
_KEYFRAME_SHARE = {dtype: _SHARES[format_] for dtype, format_ in floats.FORMATS.items()}
"""What keyframes of trained weights take of their chunk, or a little more: a delta below it needs no comparison with a
keyframe, which would gain a fiftieth at most. ShuffleNet after SGD and MiniLM after AdamW: 26.5 to 26.6 bits of 32
(momentum 26.8 to 27), 10.5 to 10.6 of bf16's 16 and 13.5 to 13.6 of fp16's. With 26.5 of 32 bits checkpoints of SGD
(ShuffleNet, in turn with others) take 1.05 times as long, with 26 1.03 times that, to the same bytes; of 21 histories
one (GPT's checkpoints) takes 0.01 % less with 26."""

_FEW_WORDS = 1 << 12
"""Up to here elements on a lattice are counted by formula too (`steps`). MobileNetV2's weights, snapshot 6 against an
exact 5, lossy abs 0.004, bytes by tables (`lattice`) and by formula: tensors below 4,096 words 7,870 and 7,373, below
16,384 14,184 and 14,746, below 65,536 50,886 and 54,960, above 54,610 and 55,301."""

_SHORT_SHARE = 1 / 8
"""Below this share of their chunk, pieces need no comparison with other codecs: keyframes of weights that were rounded
take a third to a fifth of it, and deltas of what no lattice is found in more than half."""

_POOR_SHARE = 15 / 16
"""From here on a coder of floats has found nothing in them, and byte planes are tried."""

_ON_STEPS, _COARSE, _LONG = int(Signs.SHORT | Signs.ANCHORED), int(Signs.COARSE), int(Signs.LONG)

_FIRST_BYTES, _COMPARED_BYTES = 1 << 10, 1 << 16


def encode_chunk(
    raw: Buffer,
    parameters: Parameters,
    references: Sequence[Buffer] = (),
    *,
    row: int = 0,
    start: int = 0,
    runs: Sequence[Run] = (),
) -> bytes:
    """Return a frame of `raw`.

    It is never longer than `max_frame_bytes`; nor, but for chunks that are very unlike trained weights, by more than a
    fiftieth than the frame of the same bytes without references.

    Args:
        raw: the chunk's bytes. A length that is no multiple of the element size is taken too.
        parameters: the tensor's.
        references: the bytes of the references' chunks, as many as `raw` has each: as many as the parameters need.
        row: words of a row of the tensor, where it has rows; 0 where it has not.
        start: which word of the tensor the chunk's first is.
        runs: the small tensors that share the chunk, if they are known; they have all its words.

    Raises:
        ValueError: references are missing, not wanted, or of another length, or runs have other words than the chunk.

    >>> from modelvault.codec import Previous
    >>> from modelvault.tensors import DType
    >>> old, new = (np.linspace(low, 2, 1000, dtype="<f4").tobytes() for low in (1, 1.0001))
    >>> keyframe = encode_chunk(new, Parameters(DType.F32))
    >>> parameters = Parameters(DType.F32, (Previous(),))
    >>> delta = encode_chunk(new, parameters, [old])
    >>> len(delta) < len(keyframe) < len(new)
    True
    >>> decode_chunk(delta, 4000, parameters, [old]) == new
    True
    """
    view = _view(raw)
    if len(references) != parameters.references:
        raise ValueError(f"{len(references)} references, expected {parameters.references} with {parameters}")
    beside = [_view(reference) for reference in references]
    for base in beside:
        if len(base) != len(view):
            raise ValueError(f"reference of {len(base)} bytes for a chunk of {len(view)}")
    dtype = parameters.dtype
    if runs and sum(run.words for run in runs) != len(view) // order.word_bytes(dtype):
        raise ValueError(f"runs of {sum(run.words for run in runs)} words in a chunk of {len(view)} bytes")
    is_known = dtype in floats.FORMATS
    promised = _promised(dtype, len(view))
    has_delta = True
    if beside and promised:
        made = kernels.current.encode_frame(
            dtype.code, view, parameters.to_bytes(), beside, row, start, promised, not runs
        )
        if isinstance(made, bytes):
            return made
        has_delta, seen = made != 0, made & ~_LONG
    elif is_known:
        seen = kernels.current.glance(dtype.code, view, beside[0] if beside else None, not runs)
    else:
        seen = Signs.EQUAL if beside and len(view) and _equal(view, beside[0]) else Signs.COARSE
    if seen == Signs.EQUAL:
        return seal(table.SAME, b"")
    if not seen:  # as training leaves weights
        return seal(*_best(view, parameters, beside, row, start, has_delta)[0])
    data, bases = np.frombuffer(view, np.uint8), [np.frombuffer(base, np.uint8) for base in beside]
    words = order.words(data, dtype)
    found = list[tuple[Codec, bytes]]()
    if is_known and seen & _ON_STEPS:
        found = _pieces(data, words, bases[:1], dtype, runs or (Run(words.size, row, start),), seen)
        if any(len(body) < _SHORT_SHARE * data.size for _, body in found) and words.size > _FEW_WORDS:
            return seal(*min(found, key=lambda one: len(one[1])))
    best, size = _best(view, parameters, beside, row, start)
    if seen & _COARSE:
        found += _on_steps(data, words, bases, dtype, row, start)
    for codec, body in found:
        if len(body) < size:
            best, size = (codec, body), len(body)
    return seal(*best)


def _view(buffer: Buffer) -> memoryview:
    """Return the bytes of a buffer of any kind."""
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else np.frombuffer(view, np.uint8).data


def _pieces(
    data: _Bytes, words: Words, bases: list[_Bytes], dtype: DType, runs: Sequence[Run], seen: int
) -> list[tuple[Codec, bytes]]:
    """Return bodies of pieces on steps, if there are such: a keyframe where a delta does not gain much, and a delta."""
    tail = data[words.nbytes :].tobytes()
    found = list[tuple[Codec, bytes]]()
    for base in bases:
        body = pieces.encode(words, tail, order.words(base, dtype), dtype, runs, frame_within)
        if body is None:
            return []
        found.append((table.PIECES_DELTA, body))
        if len(body) < _SHORT_SHARE * data.size and words.size > _FEW_WORDS:
            return found
    body = pieces.encode(words, tail, None, dtype, runs, frame_within) if seen & Signs.SHORT else None
    return found if body is None else [(table.PIECES, body), *found]


def _on_steps(
    data: _Bytes, words: Words, bases: list[_Bytes], dtype: DType, row: int, start: int
) -> Iterator[tuple[Codec, bytes]]:
    """Yield bodies of elements on one kind of steps, if these are: keyframes, and deltas of dtypes without pieces."""
    step = ends.step_of(words, dtype)
    tail = data[words.nbytes :].tobytes()
    if step is not None:
        yield table.LATTICE, lattice.encode(words, tail, None, dtype, step, frame_within)
    if not bases or dtype in floats.FORMATS:
        return
    base = order.words(bases[0], dtype)
    if step is not None:
        yield table.LATTICE_DELTA, lattice.encode(words, tail, base, dtype, step, frame_within)
        if words.size <= _FEW_WORDS:
            grid = steps.Grid(step)
            yield table.STEPS_DELTA, steps.encode(words, tail, base, dtype, grid, row, start, frame_within)


def _equal(one: memoryview, other: memoryview) -> bool:
    """Return whether two chunks of one length are the same. Those that are not differ early, nearly always."""
    data, base = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    starts = (0, *range(_FIRST_BYTES, data.size, _COMPARED_BYTES))
    stops = (*starts[1:], data.size)
    return all(np.array_equal(data[start:stop], base[start:stop]) for start, stop in zip(starts, stops, strict=True))


def _promised(dtype: DType, size: int) -> int:
    """Return below which length a delta's body is held against no keyframe, 0 where it always is."""
    share = _KEYFRAME_SHARE.get(dtype)
    return 0 if share is None or size <= _SMALL_BYTES else int(share * size)


def _best(
    view: memoryview,
    parameters: Parameters,
    beside: list[memoryview],
    row: int,
    start: int,
    has_delta: bool = True,
) -> tuple[tuple[Codec, Buffer], int]:
    """Return the codec and body that are best where no lattice is looked for, and the length of the body.

    `has_delta` is whether a delta may be worth making within what was promised.
    """
    best: tuple[Codec, Buffer] = table.RAW, view
    size = len(view)
    # Keyframes come first: a tie goes to the frame that needs nothing.
    for codec, body in _bodies(view, parameters, beside, row, start, has_delta):
        if len(body) < size:
            best, size = (codec, body), len(body)
    return best, size


def _bodies(
    view: memoryview,
    parameters: Parameters,
    beside: list[memoryview],
    row: int,
    start: int,
    has_delta: bool,
) -> list[tuple[Codec, bytes | bytearray]]:
    """Return bodies of the codecs that could be the best ones: keyframes, then deltas."""
    dtype, size = parameters.dtype, len(view)
    keyframe: bytes | bytearray | None = None
    delta: bytes | bytearray | None = None
    if dtype in floats.FORMATS:
        promised = _promised(dtype, size)
        whatever_it_takes = 2 * size
        packed, kernel = parameters.to_bytes(), kernels.current
        if beside and has_delta:
            delta = kernel.encode_delta(dtype.code, view, packed, beside, row, start, promised or whatever_it_takes)
            if delta is not None and len(delta) < promised:
                return [(table.RESIDUAL_RANS, delta)]
        keyframe = kernel.encode_keyframe(dtype.code, view, row, start)
        is_poor = keyframe is None or len(keyframe) > promised + size // levels_rans.POOR
        if beside and promised and delta is None and is_poor:
            delta = kernel.encode_delta(dtype.code, view, packed, beside, row, start, whatever_it_takes)
    words = order.words(np.frombuffer(view, np.uint8), dtype)
    bodies = [(table.LEVELS_RANS, keyframe), (table.RESIDUAL_RANS, delta)]
    found = [(codec, body) for codec, body in bodies if body is not None]
    shortest = min((len(body) for _, body in found), default=size)
    if size <= _SMALL_BYTES or shortest >= _POOR_SHARE * size or _planes_do_better(words, shortest, bool(beside)):
        tail = view[words.nbytes :]
        found.insert(0, (table.PLANES_ZSTD, planes.encode(words, tail)))
        if beside:
            residuals = order.residual(words, order.words(np.frombuffer(beside[0], np.uint8), dtype), dtype)
            found.append((table.PREVIOUS_PLANES_ZSTD, planes.encode(residuals, tail)))
    return found


def frame_within(raw: bytes, dtype: DType, reference: bytes | None) -> bytes:
    """Return a frame that stands in another frame."""
    if raw and raw == reference:
        return seal(table.SAME, b"")
    beside = [] if reference is None else [memoryview(reference)]
    parameters = Parameters.for_reference(dtype, bool(beside))
    return seal(*_best(memoryview(raw), parameters, beside, 0, 0)[0])


def _unframe(frame: Buffer, size: int, dtype: DType, reference: bytes | None) -> bytes:
    """Return what is in a frame that stands in another frame.

    Raises:
        CodecError: it is damaged, or a lattice within a lattice.
    """
    codec, _ = unseal(frame)
    if codec.id >= table.LATTICE.id:
        raise CodecError("a lattice within a lattice")
    references = [] if reference is None else [reference]
    return decode_chunk(frame, size, Parameters.for_reference(dtype, bool(references)), references)


def _planes_do_better(words: Words, size: int, is_beside: bool) -> bool:
    """Return whether byte planes of some words in the middle promise a body shorter than `size`.

    Words beside a reference may be found to be too much like random ones to try.
    """
    if is_beside and glance.are_noise(words):
        return False
    probe = glance.middle(words)
    return len(planes.encode(probe, b"")) * words.nbytes < size * probe.nbytes


def decode_chunk(frame: Buffer, size: int, parameters: Parameters, references: Sequence[Buffer] = ()) -> bytes:
    """Return the bytes that `encode_chunk` was given.

    Args:
        frame: what it returned.
        size: how many bytes they are. The caller vouches for it: so much is allocated.
        parameters: the tensor's.
        references: the bytes of the references' chunks; a keyframe does not look at them, and some deltas look at the
            first only.

    Raises:
        CodecError: the frame is damaged, is not one of `size` bytes, or is a delta and a reference is missing or of
            another length. A wrong reference of the right length gives wrong bytes: the tensor's id tells.
    """
    dtype = parameters.dtype
    if dtype in floats.FORMATS:
        raw = kernels.current.decode_frame(dtype.code, frame, size, parameters.to_bytes(), references)
        if raw is not None:
            return raw
    codec, body = unseal(frame)
    if codec is table.RAW:
        if len(body) != size:
            raise CodecError(f"raw chunk of {len(body)} bytes, expected {size}")
        return bytes(body)
    if codec is table.PLANES_ZSTD:
        return bytes(planes.decode(body, size, order.word_bytes(dtype)))
    if codec in table.OF_FLOATS and dtype not in floats.FORMATS:
        raise CodecError(f"{codec.name} frame in a tensor of {dtype.name}")
    if codec is table.LATTICE:
        return bytes(lattice.decode(body, size, None, dtype, _unframe))
    if codec is table.PIECES:
        return bytes(pieces.decode(body, size, None, dtype, _unframe))
    if not parameters.needs_reference:
        raise CodecError(f"{codec.name} frame in a tensor whose parameters name no predictor")
    if not references:
        raise CodecError(f"{codec.name} frame without its reference")
    base = np.frombuffer(memoryview(references[0]), np.uint8)
    if base.size != size:
        raise CodecError(f"reference of {base.size} bytes for a chunk of {size}")
    if codec is table.SAME:
        if len(body):
            raise CodecError(f"same frame has a body of {len(body)} bytes, expected none")
        return base.tobytes()
    if codec is table.LATTICE_DELTA:
        return bytes(lattice.decode(body, size, base, dtype, _unframe))
    if codec is table.STEPS_DELTA:
        return bytes(steps.decode(body, size, base, dtype, _unframe))
    if codec is table.PIECES_DELTA:
        return bytes(pieces.decode(body, size, base, dtype, _unframe))
    out = planes.decode(body, size, order.word_bytes(dtype))
    residuals = order.words(np.frombuffer(out, np.uint8), dtype)  # a view: the sum is made in place
    order.add_reference(residuals, order.words(base, dtype), dtype)
    return bytes(out)


def decodes_to(frame: Buffer, raw: Buffer, parameters: Parameters, references: Sequence[Buffer] = ()) -> bool:
    """Return whether `decode_chunk` gives these bytes, without making them where that can be helped.

    Raises:
        CodecError: as `decode_chunk`.
    """
    dtype = parameters.dtype
    if dtype in floats.FORMATS:
        is_it = kernels.current.frame_decodes_to(dtype.code, frame, raw, parameters.to_bytes(), references)
        if is_it is not None:
            return is_it
    view = memoryview(raw).cast("B")
    return decode_chunk(frame, len(view), parameters, references) == view


def runs_of(frame: Buffer, size: int, dtype: DType) -> list[Run]:
    """Return the pieces that the encoder of a frame went by, none if the frame does not tell.

    They are a hint: coding its chunk anew, in another way, goes best by the same pieces.

    Args:
        frame: a chunk's.
        size: how many bytes the chunk has.
        dtype: of its tensor.
    """
    try:
        codec, body = unseal(frame)
        if codec in (table.PIECES, table.PIECES_DELTA):
            return pieces.runs_of(body, size // order.word_bytes(dtype), delta=codec is table.PIECES_DELTA)
    except CodecError:
        pass
    return []
