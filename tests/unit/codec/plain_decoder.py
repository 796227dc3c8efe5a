"""A second decoder, written from docs/format/codecs.md alone: plain Python and zstd, slow, nothing of modelvault."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence

import zstandard

WORD_BYTES = [1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 1, 1, 1, 1, 1, 2, 4, 8]
FLOAT_ORDER = {10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22}
FORMATS = {10: "f16", 11: "bf16", 12: "f32", 20: "f16", 21: "f32"}
MANTISSA = {"f32": 23, "bf16": 7, "f16": 10}
BITS = {"f32": 32, "bf16": 16, "f16": 16}
WEIGHTS = [
    0, 16, 19, 23, 27, 32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181, 215, 256, 304, 362, 431, 512, 609, 724, 861,
    1024, 1218, 1448, 1722, 2048, 2435, 2896, 3444, 4096, 4871, 5793, 6889, 8192, 9742, 11585, 13777, 16384, 19484,
    23170, 27554, 32768,
]  # fmt: skip


def decode(frame: bytes, size: int, parameters: bytes, references: Sequence[bytes]) -> bytes:
    codec, checksum, body = frame[0], int.from_bytes(frame[1:5], "little"), frame[5:]
    assert zlib.crc32(frame[:1] + body) == checksum
    dtype, predictors = read_parameters(parameters)
    width = WORD_BYTES[dtype]
    if codec == 0:
        raw = body
    elif codec == 1:
        words, tail = from_planes(body, size, width)
        raw = joined(words, width) + tail
    elif codec == 5:
        raw = tokens_decoded(body, size, FORMATS[dtype], None, [])
    elif codec == 16:
        raw = from_lattice(body, size, dtype, None)
    elif codec == 20:
        raw = from_pieces(body, size, dtype, None)
    elif codec == 19:
        assert predictors
        assert len(references[0]) == size
        raw = from_pieces(body, size, dtype, references[0])
    elif codec == 17:
        assert predictors
        assert len(references[0]) == size
        raw = from_lattice(body, size, dtype, references[0])
    elif codec == 18:
        assert predictors
        assert len(references[0]) == size
        raw = from_steps(body, size, dtype, references[0])
    elif codec == 21:
        assert predictors
        assert len(references[0]) == size
        assert FORMATS[dtype] == "f32"
        raw = from_strides(body, size, references[0])
    elif codec == 22:
        raw = from_factors(body, size, FORMATS[dtype], None, [])
    elif codec == 23:
        assert predictors
        assert all(len(reference) == size for reference in references)
        raw = from_factors(body, size, FORMATS[dtype], predictors, references)
    else:
        assert predictors
        assert all(len(reference) == size for reference in references)
        if codec == 3:
            assert body == b""
            raw = references[0]
        elif codec == 4:
            raw = tokens_decoded(body, size, FORMATS[dtype], predictors, references)
        else:
            assert codec == 2
            residuals, tail = from_planes(body, size, width)
            words = [
                following(r, unzigzag(z), 8 * width, dtype in FLOAT_ORDER)
                for r, z in zip(words_of(references[0], width), residuals, strict=True)
            ]
            raw = joined(words, width) + tail
    assert len(raw) == size
    return raw


def from_planes(body: bytes, size: int, width: int) -> tuple[list[int], bytes]:
    count = size // width
    compressed, at = body[0], 1
    assert compressed >> width == 0
    lengths = []
    for plane in range(width):
        length = count
        if compressed >> plane & 1:
            length, at = varint(body, at)
        lengths.append(length)
    words = [0] * count
    for plane, length in enumerate(lengths):
        data, at = body[at : at + length], at + length
        if compressed >> plane & 1:
            data = zstandard.ZstdDecompressor().decompress(data)
        assert len(data) == count
        words = [word | byte << (8 * plane) for word, byte in zip(words, data, strict=True)]
    return words, body[at:]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def words_of(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data) // width * width, width)]


def joined(words: list[int], width: int) -> bytes:
    return b"".join(word.to_bytes(width, "little") for word in words)


def unzigzag(z: int) -> int:
    return z >> 1 if z % 2 == 0 else -((z + 1) >> 1)


def following(r: int, difference: int, bits: int, float_order: bool) -> int:
    top, ones = 1 << (bits - 1), (1 << bits) - 1
    if not float_order:
        return (r + difference) & ones
    place = r ^ ones if r & top else r ^ top
    place = (place + difference) & ones
    return place ^ top if place & top else place ^ ones


# Parameters and predictions


def read_parameters(data: bytes) -> tuple[int, list[tuple[object, ...]]]:
    predictors = list[tuple[object, ...]]()
    at = 2

    def float64() -> float:
        nonlocal at
        at += 8
        value: float = struct.unpack("<d", data[at - 8 : at])[0]
        assert math.isfinite(value)
        return value

    for _ in range(data[1]):
        kind, at = data[at], at + 1
        if kind == 2:
            count, at = varint(data, at)
            runs = []
            for _ in range(count):
                c = float64()
                steps, at = varint(data, at)
                runs.append((c, steps))
            predictors.append((2, tuple(runs)))
        elif kind == 3:
            a = float64()
            count, at = varint(data, at)
            assert 1 <= count <= 4
            terms = []
            for _ in range(count):
                term, reference, at = data[at], data[at + 1], at + 2
                assert term <= 2
                assert 1 <= reference <= (6 if term == 2 else 7)
                terms.append((term, reference, float64(), float64() if term == 2 else 0.0))
            predictors.append((3, a, tuple(terms)))
        else:
            assert kind < 2
            predictors.append((kind, *(float64() for _ in range(kind))))
    assert at == len(data)
    return data[0], predictors


def level(word: int, name: str) -> int:
    return word >> MANTISSA[name] & ((1 << (BITS[name] - 1 - MANTISSA[name])) - 1)


def special(word: int, name: str) -> bool:
    return level(word, name) in (0, (1 << (BITS[name] - 1 - MANTISSA[name])) - 1)


def value_of(word: int, name: str) -> float:
    if name == "f16":
        half: float = struct.unpack("<e", word.to_bytes(2, "little"))[0]
        return half
    single: float = struct.unpack("<f", (word << (32 - BITS[name])).to_bytes(4, "little"))[0]
    return single


def rounded(y: float, name: str) -> int:
    """A word; one of the highest level stands for all that are special."""
    unfit = ((1 << (BITS[name] - 1 - MANTISSA[name])) - 1) << MANTISSA[name]
    try:
        single = struct.pack("<f", y)
        if name == "f16":
            return int.from_bytes(struct.pack("<e", struct.unpack("<f", single)[0]), "little")
    except OverflowError:
        return unfit
    word = int.from_bytes(single, "little")
    if name == "f32":
        return word
    return unfit if math.isnan(y) else (word + 0x7FFF + (word >> 16 & 1)) >> 16 & 0xFFFF


def prediction(predictor: tuple[object, ...], words: Sequence[int], name: str) -> int:
    kind, *constants = predictor
    if kind == 0 or special(words[0], name):
        return words[0]
    found = words[0]
    if kind == 2:
        for c, steps in constants[0]:  # type: ignore[attr-defined]
            for _ in range(steps):
                found = rounded(value_of(found, name) * c, name)
                if special(found, name):
                    return words[0]
        return found
    numbers = [value_of(word, name) if level(word, name) else 0.0 for word in words]
    y = float(constants[0]) * numbers[0]  # type: ignore[arg-type]
    for term, reference, factor, epsilon in constants[1] if kind == 3 else ():  # type: ignore[attr-defined]
        c = numbers[reference]
        if term == 1:
            c = c * c
        elif term == 2:
            c = moved(c, numbers[reference + 1], epsilon)
        y += factor * c
    found = rounded(y, name)
    return words[0] if special(found, name) else found


def moved(m: float, v: float, e: float) -> float:
    if v < 0 or math.isnan(v):
        return math.nan
    divisor = math.sqrt(v) + e
    return m / divisor if divisor else math.nan if m == 0 else math.copysign(math.inf, m)


# Codecs 4 and 5


class Bits:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def uint(self, width: int) -> int:
        value = 0
        for place in range(width):
            value |= (self.data[self.at >> 3] >> (self.at & 7) & 1) << place
            self.at += 1
        return value

    def golomb(self, k: int) -> int:
        zeros = 0
        while not self.uint(1):
            zeros += 1
        assert zeros <= 24
        high = (1 << zeros) + self.uint(zeros) - 1
        return (high << k) + self.uint(k)

    def rest(self) -> bytes:
        while self.at & 7:
            assert not self.uint(1)
        return self.data[self.at >> 3 :]


def read_table(bits: Bits, alphabet: int) -> list[int]:
    """Frequencies of all tokens."""
    low, count = bits.uint(8), bits.uint(8) + 1
    assert low + count <= alphabet
    found = [0] * alphabet
    if count == 1:
        found[low] = 2048
        return found
    code, weights = 20, []
    for _ in range(count):
        code += unzigzag(bits.golomb(1))
        assert 0 <= code <= 45
        weights.append(WEIGHTS[code])
    assert weights[0]
    assert weights[-1]
    for at, weight in enumerate(weights):
        found[low + at] = max(1, 2048 * weight // sum(weights)) if weight else 0
    largest = low + weights.index(max(weights))
    found[largest] = 2048 - sum(found) + found[largest]
    assert found[largest] > 0
    return found


def tokens_decoded(
    body: bytes, size: int, name: str, predictors: list[tuple[object, ...]] | None, references: Sequence[bytes]
) -> bytes:
    width, mantissa = BITS[name] // 8, MANTISSA[name]
    n, tail_bytes = divmod(size, width)
    flags, shift = body[0], body[1]
    lanes, subnormals = 1 << (flags & 7), flags >> 3
    assert flags & 7 <= 5
    assert subnormals <= (predictors is None)
    assert shift <= mantissa
    length, at = varint(body, 2)
    first, at = varint(body, at)
    assert 1 <= first <= length <= max(n, 1)
    bits = Bits(body[at:])

    # Blocks: what each word is expected to be, and the scale of those that are coded.
    expected, scales = [0] * n, [0] * n
    others = [words_of(reference, width) for reference in references]
    k = bits.uint(3) if n else 0
    scale = start = 0
    while start < n:
        stop = min(start + (length if start else first), n)
        if predictors is not None:
            selector = bits.uint([0, 0, 1, 2, 2][len(predictors)])
            for i in range(start, stop):
                expected[i] = prediction(predictors[selector], [words[i] for words in others], name)
        value = bits.golomb(k)
        if value:
            scale += unzigzag(value - 1)
            assert 1 <= scale <= 1023
            scales[start:stop] = [scale] * (stop - start)
        start = stop
    coded = [i for i in range(n) if scales[i]]
    if not coded:
        rest = bits.rest()
        assert len(rest) == tail_bytes
        return joined(expected, width) + rest

    alphabet = 2 * BITS[name] if predictors is not None else 1 << (BITS[name] - 1 - mantissa)
    origin = bits.uint(10) if predictors is None else 0
    relative = [scales[i] - 1 - origin - (2 * level(expected[i], name) if predictors is not None else 0) for i in coded]
    tokens, data = read_tokens(bits, alphabet, lanes, [min(max(context, 0), 63) for context in relative])
    bits = Bits(data)

    for token, i in zip(tokens, coded, strict=True):
        if predictors is None:
            tail = bits.uint(mantissa + 1 - shift) if token or subnormals else 0
            sign, fraction = tail >> (mantissa - shift), tail & ((1 << (mantissa - shift)) - 1)
            expected[i] = sign << (BITS[name] - 1) | token << mantissa | fraction << shift
        else:
            z = token
            if token >= 4:
                high = token // 2
                z = 1 << high | (token & 1) << (high - 1) | bits.uint(high - 1)
            moved_to = following(expected[i], unzigzag(z) << shift, BITS[name], True)
            expected[i] = moved_to >> shift << shift
    rest = bits.rest()
    assert len(rest) == tail_bytes
    return joined(expected, width) + rest


def read_tokens(bits: Bits, alphabet: int, lanes: int, contexts: list[int]) -> tuple[list[int], bytes]:
    """Return the tokens behind their tables, and what follows them."""
    count = bits.uint(4) + 1
    bounds = [bits.uint(6) for _ in range(count - 1)]
    assert sorted(set(bounds) - {0}) == bounds
    tables = [read_table(bits, alphabet) for _ in range(count)]
    data = bits.rest()
    states = words_of(data[: 4 * lanes], 4)
    assert all(1 << 15 <= state < 1 << 31 for state in states)
    count, at = varint(data, 4 * lanes)
    stream = words_of(data[at : at + 2 * count], 2)

    used, tokens = 0, []
    for j, context in enumerate(contexts):
        frequencies = tables[sum(bound <= context for bound in bounds)]
        x = states[j % lanes]
        slot, token, below = x % 2048, 0, 0
        while slot >= below + frequencies[token]:
            below += frequencies[token]
            token += 1
        x = frequencies[token] * (x >> 11) + slot - below
        if x < 1 << 15:
            x, used = x << 16 | stream[used], used + 1
        states[j % lanes] = x
        tokens.append(token)
    assert states == [1 << 15] * lanes
    assert used == len(stream)
    return tokens, data[at + 2 * count :]


def from_strides(body: bytes, size: int, reference: bytes) -> bytes:
    a, s, odd = struct.unpack("<ddB", body[:17])
    assert math.isfinite(a)
    assert math.isfinite(s)
    assert odd <= 1
    length, at = varint(body, 17)
    numbers, rest = body[at : at + length], body[at + length :]
    if numbers[0] > 5:
        assert 17 <= numbers[0] <= 24
        packed = Bits(numbers[1:])
        tokens, left = [packed.uint(numbers[0] - 16) for _ in range(size // 4)], packed.rest()
    else:
        tokens, left = read_tokens(Bits(numbers[1:]), 256, 1 << numbers[0], [0] * (size // 4))
    assert not left
    assert tokens
    expected = []
    for word, token in zip(words_of(reference, 4), tokens, strict=True):
        found = word
        if not special(word, "f32"):
            found = rounded(a * value_of(word, "f32") + s * (unzigzag(token) + odd / 2), "f32")
        expected.append(word if special(found, "f32") else found)
    return tokens_decoded(rest, size, "f32", [(0,)], [joined(expected, 4)])


def from_factors(
    body: bytes, size: int, name: str, predictors: list[tuple[object, ...]] | None, references: Sequence[bytes]
) -> bytes:
    width, at = BITS[name] // 8, 0
    n = size // width
    assert n
    known = [0] * n
    if predictors is not None:
        at, others = 1, [words_of(reference, width) for reference in references]
        predictor = predictors[body[0] - 1] if body[0] else (0,)
        known = [prediction(predictor, [words[i] for words in others], name) for i in range(n)]
    (s,) = struct.unpack("<f", body[at : at + 4])
    assert math.isfinite(s)
    columns, at = varint(body, at + 4)
    first, at = varint(body, at)
    directions, at = varint(body, at)
    length, at = varint(body, at)
    assert 1 <= columns <= min(n, 1 << 16)
    assert first < columns
    rows = -(-(first + n) // columns)
    count = directions * (rows + columns)
    assert 1 <= directions <= 255
    assert count <= n
    told, rest = body[at : at + length], body[at + length :]
    words = words_of(tokens_decoded(told, 4 * count, "f32", [(0,)], [bytes(4 * count)]), 4)
    factors = [-(word - (1 << 31)) if word >> 31 else word for word in words]
    assert all(abs(factor) <= 32767 for factor in factors)
    expected = []
    for i, word in enumerate(known):
        row, column = divmod(first + i, columns)
        q = 0
        for start in range(0, count, rows + columns):
            q += factors[start + row] * factors[start + rows + column]
        q = (q + (1 << 31)) % (1 << 32) - (1 << 31)
        found = rounded(single(value_of(word, name) + single(s * single(q))), name)
        expected.append(word if special(found, name) else found)
    return tokens_decoded(rest, size, name, [(0,)], [joined(expected, width)])


def single(value: float) -> float:
    """The binary32 nearest to a value."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def from_lattice(body: bytes, size: int, dtype: int, reference: bytes | None) -> bytes:
    count = size // WORD_BYTES[dtype]
    zigzag, at = varint(body, 0)
    step = unzigzag(zigzag)
    scale = 1.0
    if reference is not None:
        (scale,) = struct.unpack("<d", body[at : at + 8])
        at += 8
    on, at = read_runs(body, at)
    assert len(on) == count
    length, at = varint(body, at)
    inside, rest = body[at : at + length], body[at + length :]

    predictions, points, sides = [], [], []
    for i in range(count):
        if not on[i]:
            continue
        p = 0.0 if reference is None else on_lattice(reference, i, dtype, step, scale)
        q, side, kind = leaning(p)
        predictions.append((8 - (kind if reference is not None else 0) << 23) + (1 << 22))
        points.append(q)
        sides.append(side)
    beside = joined(predictions, 4)
    found = decode(inside, len(beside), bytes((12, 1, 0)), [beside])
    numbers = iter(
        q + (int.from_bytes(found[4 * i : 4 * i + 4], "little") - p) * side
        for i, (p, q, side) in enumerate(zip(predictions, points, sides, strict=True))
    )
    words = [bits_of(scaled(float(value), step), dtype) for value in numbers]
    return with_others(words, on, rest, size, dtype, reference)


def read_runs(body: bytes, at: int) -> tuple[list[bool], int]:
    on: list[bool] = []
    count, at = varint(body, at)
    for place in range(count):
        length, at = varint(body, at)
        on += [place % 2 == 0] * length
    return on, at


def on_lattice(reference: bytes, i: int, dtype: int, step: int, scale: float) -> float:
    width = WORD_BYTES[dtype]
    p = scaled(number(reference[i * width : (i + 1) * width], dtype) * scale, -step)
    return p if abs(p) < 1 << 22 else 0.0


def leaning(p: float) -> tuple[int, int, int]:
    """The nearest integer, the side on which the next is nearer, the class."""
    q = round(p)  # ties to even
    distance = p - q
    kind = sum(abs(distance) * 256 >= bound for bound in (32, 64, 96, 112, 120, 124, 126))
    return q, -1 if distance < 0 else 1, kind


def with_others(
    words: list[bytes], on: list[bool], rest: bytes, size: int, dtype: int, reference: bytes | None
) -> bytes:
    """All words in order: those given, and those that are on no lattice from a frame; then the tail."""
    width = WORD_BYTES[dtype]
    tail = size - len(on) * width
    off = b""
    if not all(on) or tail:
        others = None
        if reference is not None:
            clear, rest = rest[0], rest[1:]
            beside_words = [reference[i * width : (i + 1) * width] for i in range(len(on)) if not on[i]]
            others = b"".join(
                (int.from_bytes(word, "little") >> clear << clear).to_bytes(width, "little") for word in beside_words
            ) + bytes(tail)
        parameters = bytes((dtype, 0) if others is None else (dtype, 1, 0))
        off = decode(rest, on.count(False) * width + tail, parameters, [] if others is None else [others])
    else:
        assert rest == b""
    raw, position, given = b"", 0, iter(words)
    for is_on in on:
        if is_on:
            raw += next(given)
        else:
            raw += off[position : position + width]
            position += width
    return raw + off[position:]


# Codec 18

MIDDLES = (16, 48, 80, 104, 116, 122, 125, 127, -128, 0)
POWERS = [round(65536 * 2 ** (-i / 32)) for i in range(32)]


def shares(scale: int, kind: int) -> list[int]:
    """Frequencies of the residuals -16 to 16, and of an escape."""

    def below(edge: int) -> int:
        far = (abs(edge) * ((8192, 5793)[scale % 2] * 2048 >> scale // 2)) >> 16
        value = (1 << 32) // (65536 + (POWERS[far % 32] >> far // 32))
        return (65536 - value if edge < 0 else value) + 16 >> 5

    found = [below(256 * r + 128 - MIDDLES[kind]) - below(256 * r - 128 - MIDDLES[kind]) for r in range(-16, 17)]
    found.append(2048 - sum(found))
    if not found[-1]:
        found[found.index(max(found))] -= 1
        found[-1] = 1
    return found


def from_integers(data: bytes, kinds: list[int]) -> list[int]:
    n, lanes_log = len(kinds), data[0]
    assert lanes_log <= 8
    length, at = varint(data, 1)
    first, at = varint(data, at)
    assert 1 <= first <= length <= n
    bits = Bits(data[at:])
    k, scale, start, scales = bits.uint(3), 12, 0, [0] * n
    while start < n:
        stop = min(start + (length if start else first), n)
        value = bits.golomb(k)
        if value:
            scale += unzigzag(value - 1)
            assert 1 <= scale <= 63
            scales[start:stop] = [scale] * (stop - start)
        start = stop
    data = bits.rest()
    coded = [i for i in range(n) if scales[i]]
    if not coded:
        assert data == b""
        return scales
    found = with_widths(data, 1 << lanes_log, [scales[i] for i in coded], [kinds[i] for i in coded])
    residuals = [0] * n
    for i, value in zip(coded, found, strict=True):
        residuals[i] = value
    return residuals


def with_widths(data: bytes, lanes: int, scales: list[int], kinds: list[int]) -> list[int]:
    """States, stream, escapes and low bits of residuals with a scale and a class each."""
    states = words_of(data[: 4 * lanes], 4)
    assert len(states) == lanes
    assert all(1 << 15 <= state < 1 << 31 for state in states)
    count, at = varint(data, 4 * lanes)
    stream = words_of(data[at : at + 2 * count], 2)
    bits = Bits(data[at + 2 * count :])
    low = [max(0, scale - 22) // 2 for scale in scales]
    used, tokens = 0, []
    for j, (scale, kind) in enumerate(zip(scales, kinds, strict=True)):
        frequencies = shares(scale - 2 * low[j], 8 if low[j] else kind)
        x = states[j % lanes]
        slot, token, under = x % 2048, 0, 0
        while slot >= under + frequencies[token]:
            under += frequencies[token]
            token += 1
        x = frequencies[token] * (x >> 11) + slot - under
        if x < 1 << 15:
            x, used = x << 16 | stream[used], used + 1
        states[j % lanes] = x
        tokens.append(token)
    assert states == [1 << 15] * lanes
    assert used == len(stream)
    found = [unzigzag(bits.golomb(4)) if token == 33 else token - 16 for token in tokens]
    bits = Bits(bits.rest())
    residuals = [(value << some) + bits.uint(some) for value, some in zip(found, low, strict=True)]
    assert all(abs(residual) < 1 << 22 for residual in residuals)
    assert bits.rest() == b""
    return residuals


def from_steps(body: bytes, size: int, dtype: int, reference: bytes) -> bytes:
    width = WORD_BYTES[dtype]
    mantissa = body[0]
    zigzag, at = varint(body, 1)
    exponent = unzigzag(zigzag)
    scale = 1.0
    if not mantissa:
        (scale,) = struct.unpack("<d", body[at : at + 8])
        at += 8
    on, at = read_runs(body, at)
    on = on or [True] * (size // width)
    assert len(on) == size // width
    length, at = varint(body, at)
    inside, rest = body[at : at + length], body[at + length :]

    place, word_at = along(dtype, mantissa, exponent)

    leans = [
        leaning(place(reference, i) if mantissa else on_lattice(reference, i, dtype, exponent, scale))
        for i, is_on in enumerate(on)
        if is_on
    ]
    residuals = from_integers(inside, [kind for _, _, kind in leans]) if leans else []
    assert leans or inside == b""
    words = [word_at(q + r * side) for r, (q, side, _) in zip(residuals, leans, strict=True)]
    return with_others(words, on, rest, size, dtype, reference)


def along(dtype: int, mantissa: int, exponent: int) -> tuple[Callable[[bytes, int], float], Callable[[int], bytes]]:
    """Where a reference's word falls between steps, and which word stands on one."""
    width = WORD_BYTES[dtype]
    top, first, shift = 1 << (8 * width - 1), 0, 0
    if mantissa:
        name = FORMATS[dtype]
        assert mantissa <= MANTISSA[name]
        shift = MANTISSA[name] - mantissa
        bias = (1 << (BITS[name] - 2 - MANTISSA[name])) - 1
        assert exponent + mantissa + bias >= 1
        first = min(exponent + mantissa + bias << MANTISSA[name], top)
        if exponent + mantissa > bias:
            first = top

    def place(reference: bytes, i: int) -> float:
        word = int.from_bytes(reference[i * width : (i + 1) * width], "little")
        magnitude, negative = word % top, word >= top
        if magnitude < first:
            p = magnitude / 2**shift
        else:
            p = abs(scaled(number(reference[i * width : (i + 1) * width], dtype), -exponent))
            p += (first >> shift) - (1 << mantissa)
        p = -1.0 - p if negative else p
        return p if abs(p) < 1 << 31 else 0.0

    def word_at(place: int) -> bytes:
        if not mantissa:
            return bits_of(scaled(float(place), exponent), dtype)
        count = -1 - place if place < 0 else place
        assert count < 1 << 31
        if count < first >> shift:
            word = count << shift
        else:
            assert first < top
            far = scaled(float(count - (first >> shift) + (1 << mantissa)), exponent)
            word = int.from_bytes(bits_of(far, dtype), "little")
        return (word + (top if place < 0 else 0)).to_bytes(width, "little")

    return place, word_at


# Codecs 19 and 20

SPREADS = (23, 20, 17, 14)


def from_pieces(body: bytes, size: int, dtype: int, reference: bytes | None) -> bytes:
    assert dtype in FORMATS
    width = WORD_BYTES[dtype]
    n = size // width
    bits = Bits(body)
    grids = []
    for _ in range(bits.uint(3)):
        kind = bits.uint(2)
        if kind == 2:
            (step,) = struct.unpack("<d", struct.pack("<II", bits.uint(32), bits.uint(32)))
            assert math.isfinite(step)
            assert step > 0
            grids.append((kind, 0, 0, step))
        else:
            assert kind < 2
            mantissa = bits.uint(5) if kind else 0
            exponent = unzigzag(bits.golomb(4))
            assert abs(exponent) <= 200
            assert mantissa or not kind
            grids.append((kind, mantissa, exponent, 1.0))
    pieces = []
    words, number, left, count = 0, 2, n, bits.golomb(0) + 1
    for place in range(count):
        if place == count - 1:
            words = left
        elif bits.uint(1):
            words = bits.golomb(6) + 1
        left -= words
        assert left >= 0
        assert words or not n
        if bits.uint(1):
            number = bits.uint((len(grids) + 1).bit_length())
        assert number < len(grids) + 2
        assert number != 1 or reference is not None
        assert number < 2 or words
        factor = 1.0
        if number > 1 and grids[number - 2][0] == 0 and reference is not None and bits.uint(1):
            factor += unzigzag(bits.golomb(8)) / 65536
        pieces.append((words, number, factor))
    rest = bits.rest()
    marks, at = read_runs(rest, 0)
    length, at = varint(rest, at)
    core, rest = rest[at : at + length], rest[at + length :]

    leans, makers, on, start = [], [], [], 0
    for words, number, factor in pieces:
        for i in range(start, start + words):
            if number < 2:
                on.append(number == 1)
                continue
            on.append(True)
            kind, mantissa, exponent, step = grids[number - 2]
            between, word_at = along(dtype, mantissa, exponent)
            if reference is None or kind == 2:
                leans.append((0, 1, 9))
            elif kind == 1:
                leans.append(leaning(between(reference, i)))
            else:
                leans.append(leaning(on_lattice(reference, i, dtype, exponent, factor)))
            if kind == 2:
                anchor = 0.0 if reference is None else number_of(reference, i, dtype)
                makers.append(anchored_at(anchor if math.isfinite(anchor) else 0.0, step, dtype))
            else:
                makers.append(word_at)
        start += words
    lengths = [words for words, number, _ in pieces if number > 1]
    residuals = from_spreads(core, [kind for _, _, kind in leans], lengths)
    counted = [make(q + r * side) for make, r, (q, side, _) in zip(makers, residuals, leans, strict=True)]
    assert not marks or len(marks) == len(counted)
    kept, taken, given = [], iter(counted), iter(marks)
    start = 0
    for words, number, _ in pieces:
        for i in range(start, start + words):
            if number == 1:
                assert reference is not None
                kept.append(reference[i * width : (i + 1) * width])
            elif number > 1:
                word = next(taken)
                on[i] = next(given) if marks else True
                if on[i]:
                    kept.append(word)
        start += words
    return with_others(kept, on, rest, size, dtype, reference)


def number_of(reference: bytes, i: int, dtype: int) -> float:
    width = WORD_BYTES[dtype]
    return number(reference[i * width : (i + 1) * width], dtype)


def anchored_at(anchor: float, step: float, dtype: int) -> Callable[[int], bytes]:
    return lambda multiple: bits_of(anchor + multiple * step, dtype)


def from_spreads(data: bytes, kinds: list[int], lengths: list[int]) -> list[int]:
    if not kinds:
        assert data == b""
        return []
    bits = Bits(data)
    lanes_log = bits.uint(3)
    assert lanes_log <= 5

    def told(count: int) -> tuple[int, list[int]]:
        order = bits.uint(2)
        if order < 3:
            return 0, [unzigzag(bits.golomb(order)) for _ in range(count)]
        return SPREADS[bits.uint(2)], [0] * count

    layouts = []
    for words in lengths:
        length, first = words, 0
        if bits.uint(1):
            length, first = bits.golomb(5) + 1, bits.golomb(0)
            assert first < length
            steps = told((first + words - 1) // length + 1)
        else:
            steps = 0, [unzigzag(bits.golomb(1))]
        row, column, at, corrections = 0, 1, 0, (0, list[int]())
        if bits.uint(1):
            row, column, at = bits.golomb(5) + 1, bits.golomb(0) + 1, bits.golomb(0)
            assert row <= words
            assert at < row
            corrections = told(-(-row // column))
        layouts.append((words, length, first, steps, row, column, at, corrections))
    data = bits.rest()
    coded = [some for layout in layouts for some in (layout[3], layout[7]) if some[0]]
    if coded:
        size, at = varint(data, 0)
        inside, data = data[at : at + size], data[at + size :]
        spreads = [spread for spread, some in coded for _ in some]
        found = iter(with_widths(inside, 1, spreads, [9] * len(spreads)))
        for _, some in coded:
            some[:] = [next(found) for _ in some]
    before, scales = 12, []
    for words, length, first, (_, differences), row, column, at, (_, more) in layouts:
        widths = []
        for step in differences:
            before += step
            assert 1 <= before <= 63
            widths.append(before)
        corrections_, sum_ = [], 0
        for step in more:
            sum_ += step
            assert -8 <= sum_ <= 7
            corrections_.append(sum_)
        for i in range(words):
            scale = widths[(i + first) // length]
            if row:
                scale = min(max(scale + corrections_[(i + at) % row // column], 1), 63)
            scales.append(scale)
    return with_widths(data, 1 << lanes_log, scales, kinds)


def scaled(value: float, exponent: int) -> float:
    if math.isinf(value) or math.isnan(value):
        return value
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def number(word: bytes, dtype: int) -> float:
    value: float
    if dtype == 11:
        (value,) = struct.unpack("<f", b"\0\0" + word)
    else:
        (value,) = struct.unpack({2: "<e", 4: "<f", 8: "<d"}[len(word)], word)
    return value


def bits_of(value: float, dtype: int) -> bytes:
    if dtype == 11:
        bits = int.from_bytes(struct.pack("<f", value), "little")
        return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) % (1 << 16)).to_bytes(2, "little")
    return struct.pack({2: "<e", 4: "<f", 8: "<d"}[WORD_BYTES[dtype]], value)
