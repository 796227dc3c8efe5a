"""The codecs that are compared: ours, and the packages people would take, each in the strongest form we found.

A form is what is done before: `difference` (ordered integers, see transforms), `xor`, `own` where the package takes the
reference itself, `keyframe` without one. Whole models are handed over in one run of elements, unless a package does
better tensor by tensor. Everything runs on one thread.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

from modelvault import codec as ours
from modelvault.repository.samples import fit_pieces
from modelvault.tensors import CHUNK_BYTES, DType
from peers import transforms
from peers.series import Pair, Tensor, Words


def _total(encoded: list[bytes]) -> int:
    return sum(map(len, encoded))


@dataclass(frozen=True)
class Contender:
    """One way to encode a pair.

    Attributes:
        name: says package and setting.
        form: what the package gets: see the module.
        distribution: the package on the index.
        encode: returns what `decode` and `size` understand.
        decode: returns the words, in pieces. Of the pair it looks at the reference, and at names and lengths.
        prepare: what is done before the clock runs, for stores that hold the reference already.
        size: bytes of what was encoded.
        clear: removes what `prepare` made.
    """

    name: str
    form: str
    distribution: str
    encode: Callable[[Pair], Any]
    decode: Callable[[Any, Pair], list[Words]]
    prepare: Callable[[Pair], None] = lambda pair: None
    size: Callable[[Any], int] = _total
    clear: Callable[[], None] = lambda: None

    @property
    def version(self) -> str:
        """The version measured."""
        return importlib.metadata.version(self.distribution)


_Compress = Callable[[Words], bytes]
_Decompress = Callable[[bytes, Words], Words]
"""The second argument is only a pattern: an array of the length and dtype to return."""


def _on_words(
    name: str, form: str, distribution: str, compress: _Compress, decompress: _Decompress, by_tensor: bool = False
) -> Contender:
    """Return a contender of a package that knows nothing of references: the form decides what it gets."""

    def parts(pair: Pair) -> Iterator[tuple[Words, Words | None]]:
        if not by_tensor:
            yield pair.new.words, None if pair.reference is None else pair.reference.words
            return
        references = [None] * len(pair.new.tensors) if pair.reference is None else pair.reference.tensors
        for new, reference in zip(pair.new.tensors, references, strict=True):
            yield new.words, None if reference is None else reference.words

    def encode(pair: Pair) -> list[bytes]:
        made = []
        for new, reference in parts(pair):
            if form == "keyframe":
                made.append(compress(new))
            elif reference is not None:
                made.append(compress(new ^ reference if form == "xor" else transforms.difference(new, reference)))
        return made

    def decode(encoded: list[bytes], pair: Pair) -> list[Words]:
        back = []
        for data, (new, reference) in zip(encoded, parts(pair), strict=True):
            words = decompress(data, new)
            if reference is not None:
                words = words ^ reference if form == "xor" else transforms.undo_difference(words, reference)
            back.append(words)
        return back

    return Contender(name + (", by tensor" if by_tensor else ""), form, distribution, encode, decode)


def contenders(dtype: DType, keyframe: bool) -> Iterator[tuple[str, list[Contender]]]:
    """Yield each package's name and its contenders for keyframes, or for deltas; none if it is not installed."""
    forms = ["keyframe"] if keyframe else ["difference"]
    for package, make in _PACKAGES.items():
        try:
            yield package, [contender for form in forms for contender in make(dtype, form)]
        except ImportError:
            yield package, []


def fitted(dtype: DType, row: int, raw: memoryview, references: Sequence[memoryview]) -> ours.Parameters:
    """Return how a commit would code a tensor against its reference, found on the same sample."""
    if not references:
        return ours.Parameters(dtype)
    sample = [
        (place * CHUNK_BYTES + start, place * CHUNK_BYTES + start + size)
        for place, start, size in fit_pieces(len(raw), dtype, row)
    ]
    share = sum(end - start for start, end in sample) / max(1, len(raw))
    pairs = [(raw[start:end], references[0][start:end]) for start, end in sample]
    return ours.fit(dtype, pairs, row=row, share=share)


def _modelvault(dtype: DType, form: str) -> Iterator[Contender]:
    def of_tensors(pair: Pair) -> Iterator[tuple[Tensor, memoryview, list[memoryview]]]:
        references = [None] * len(pair.new.tensors) if pair.reference is None else pair.reference.tensors
        for new, reference in zip(pair.new.tensors, references, strict=True):
            yield new, new.words.data.cast("B"), [] if reference is None else [reference.words.data.cast("B")]

    def encode(pair: Pair) -> list[bytes]:
        made = []
        for tensor, raw, references in of_tensors(pair):
            parameters = fitted(dtype, tensor.row, raw, references)
            made.append(parameters.to_bytes())
            for at in range(0, len(raw), CHUNK_BYTES):
                beside = [reference[at : at + CHUNK_BYTES] for reference in references]
                first = at // dtype.size
                made.append(
                    ours.encode_chunk(raw[at : at + CHUNK_BYTES], parameters, beside, row=tensor.row, start=first)
                )
        return made

    def decode(encoded: list[bytes], pair: Pair) -> list[Words]:
        stored, back = iter(encoded), []
        for _, raw, references in of_tensors(pair):
            parameters = ours.Parameters.from_bytes(next(stored))
            for at in range(0, len(raw), CHUNK_BYTES):
                beside = [reference[at : at + CHUNK_BYTES] for reference in references]
                size = min(CHUNK_BYTES, len(raw) - at)
                back.append(np.frombuffer(ours.decode_chunk(next(stored), size, parameters, beside), f"<u{dtype.size}"))
        return back

    yield Contender("modelvault", "keyframe" if form == "keyframe" else "own", "mvault", encode, decode)


def _zstandard(dtype: DType, form: str) -> Iterator[Contender]:
    for level in (1, 3):
        compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()

        def compress(words: Words, compressor: zstandard.ZstdCompressor = compressor) -> bytes:
            frames = [compressor.compress(plane.data) for plane in transforms.planes(words)]
            return b"".join(len(frame).to_bytes(4, "little") + frame for frame in frames)

        def decompress(data: bytes, like: Words, decompressor: Any = decompressor) -> Words:
            planes = np.empty((like.itemsize, like.size), np.uint8)
            start = 0
            for plane in planes:
                end = start + 4 + int.from_bytes(data[start : start + 4], "little")
                plane[:] = np.frombuffer(decompressor.decompress(data[start + 4 : end]), np.uint8)
                start = end
            return transforms.undo_planes(planes, like)

        yield _on_words(f"zstd {level} on byte planes", form, "zstandard", compress, decompress)
        if form != "keyframe" and level == 1:
            yield _on_words(f"zstd {level} on byte planes", "xor", "zstandard", compress, decompress)


def _zipnn(dtype: DType, form: str) -> Iterator[Contender]:
    from zipnn import ZipNN

    kind = {DType.F32: "float32", DType.BF16: "bfloat16", DType.F16: "float16"}.get(dtype)
    if kind is None:
        return

    def tool(**more: str) -> Any:
        return ZipNN(input_format="byte", bytearray_dtype=kind, threads=1, **more)

    def encode(pair: Pair) -> list[bytes]:
        assert pair.reference is not None
        old = pair.reference.words.tobytes()
        return [bytes(tool(delta_compressed_type="byte").compress(pair.new.words.tobytes(), delta_second_data=old))]

    def decode(encoded: list[bytes], pair: Pair) -> list[Words]:
        assert pair.reference is not None
        old = pair.reference.words.tobytes()
        raw = tool(delta_compressed_type="byte").decompress(encoded[0], delta_second_data=old)
        return [np.frombuffer(raw, pair.new.words.dtype)]

    def compress(words: Words) -> bytes:
        return bytes(tool().compress(words.tobytes()))

    def decompress(data: bytes, like: Words) -> Words:
        return np.frombuffer(tool().decompress(data), like.dtype)

    if form != "keyframe":
        yield Contender(ZIPNN, "own", "zipnn", encode, decode)
    yield _on_words("zipnn", form, "zipnn", compress, decompress)


ZIPNN = "zipnn's delta"
"""The contender that speeds are given against."""


def _pcodec(dtype: DType, form: str) -> Iterator[Contender]:
    from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

    def decompress(data: bytes, like: Words) -> Words:
        found: Words = np.asarray(standalone.simple_decompress(data)).view(like.dtype)
        return found

    for level in (8, 12):
        config = ChunkConfig(
            compression_level=level,
            mode_spec=ModeSpec.classic(),  # what it chooses on these by itself, at half the speed
            delta_spec=DeltaSpec.no_op(),
            paging_spec=PagingSpec.equal_pages_up_to(1 << 16),
        )

        def compress(words: Words, config: Any = config) -> bytes:
            return bytes(standalone.simple_compress(words, config))

        yield _on_words(f"pcodec {level}", form, "pcodec", compress, decompress, by_tensor=form != "keyframe")
    if form == "keyframe" and dtype is DType.F32:

        def as_floats(words: Words) -> bytes:
            return bytes(standalone.simple_compress(words.view("<f4"), ChunkConfig(compression_level=8)))

        yield _on_words("pcodec 8, floats", form, "pcodec", as_floats, decompress)


def _openzl(dtype: DType, form: str) -> Iterator[Contender]:
    import openzl.ext as zl

    def contender(name: str, build: Callable[[Any], Any]) -> Contender:
        compressor = zl.Compressor()
        compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
        compressor.select_starting_graph(build(compressor))

        def compress(words: Words) -> bytes:
            context = zl.CCtx()
            context.ref_compressor(compressor)
            return bytes(context.compress([zl.Input(zl.Type.Numeric, words)]))

        def decompress(data: bytes, like: Words) -> Words:
            return np.frombuffer(zl.DCtx().decompress(data)[0].content.as_bytes(), like.dtype)

        return _on_words(f"openzl {name}", form, "openzl", compress, decompress)

    graphs, nodes = zl.graphs, zl.nodes

    def on_planes(graph: Any) -> Callable[[Any], Any]:
        return lambda c: nodes.ConvertNumToStructLE()(c, nodes.TransposeSplit()(c, graph()(c)))

    yield contender("entropy on byte planes", on_planes(graphs.Entropy))
    yield contender("fse on byte planes", on_planes(graphs.Fse))
    split = {DType.F32: nodes.Float32Deconstruct, DType.BF16: nodes.BFloat16Deconstruct}.get(dtype)
    if form == "keyframe" and split is not None:
        yield contender(
            "fse on float parts",
            lambda c: split()(c, sign_frac=graphs.Compress()(c), exponent=graphs.Fse()(c)),
        )


def _blosc2(dtype: DType, form: str) -> Iterator[Contender]:
    import blosc2

    blosc2.set_nthreads(1)
    filters = blosc2.Filter
    for name, kind, level in (("shuffle", filters.SHUFFLE, 1), ("shuffle", filters.SHUFFLE, 5)):
        options = blosc2.CParams(
            codec=blosc2.Codec.ZSTD, clevel=level, filters=[kind], filters_meta=[0], typesize=dtype.size, nthreads=1
        )

        def compress(words: Words, options: Any = options) -> bytes:
            chunks = blosc2.SChunk(chunksize=1 << 24, data=words, cparams=options, dparams=blosc2.DParams(nthreads=1))
            return bytes(chunks.to_cframe())

        def decompress(data: bytes, like: Words) -> Words:
            chunks = blosc2.schunk_from_cframe(data)
            chunks.dparams = blosc2.DParams(nthreads=1)
            return np.frombuffer(chunks[:], like.dtype)

        yield _on_words(f"blosc2 {name}, zstd {level}", form, "blosc2", compress, decompress)


def _glyd(dtype: DType, form: str) -> Iterator[Contender]:
    import glyd

    def encode(pair: Pair) -> list[bytes]:
        assert pair.reference is not None
        return [glyd.compress_with_base(pair.reference.words.tobytes(), pair.new.words.tobytes())]

    def decode(encoded: list[bytes], pair: Pair) -> list[Words]:
        assert pair.reference is not None
        raw = glyd.decompress_with_base(pair.reference.words.tobytes(), encoded[0])
        return [np.frombuffer(bytes(raw), pair.new.words.dtype)]

    def compress(words: Words) -> bytes:
        return bytes(glyd.compress(transforms.planes(words).tobytes(), threads=1))

    def decompress(data: bytes, like: Words) -> Words:
        return transforms.undo_planes(np.frombuffer(bytes(glyd.decompress(data)), np.uint8), like)

    def compress_plainly(words: Words) -> bytes:
        return bytes(glyd.compress(words.tobytes(), threads=1))

    def decompress_plainly(data: bytes, like: Words) -> Words:
        return np.frombuffer(bytes(glyd.decompress(data)), like.dtype)

    if form == "keyframe":
        yield _on_words("glyd", form, "glyd", compress_plainly, decompress_plainly)
    else:
        yield Contender("glyd's base", "own", "glyd", encode, decode)
    yield _on_words("glyd on byte planes", form, "glyd", compress, decompress)


_PACKAGES: dict[str, Callable[[DType, str], Iterator[Contender]]] = {
    "modelvault": _modelvault,
    "zipnn": _zipnn,
    "zstandard": _zstandard,
    "pcodec": _pcodec,
    "openzl": _openzl,
    "blosc2": _blosc2,
    "glyd": _glyd,
}
