"""All codecs on the same pairs of snapshots in one run: ratio, then CPU time against ZipNN's delta.

Each pair is read once; then every contender encodes it, decodes it and is compared with the input, in rounds, in an
order that is turned each time. CPU seconds of this process and its children, the best of the rounds: they say little by
themselves, and their ratios within a pair a good deal.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from peers import stages
from peers.codecs import ZIPNN, Contender, contenders
from peers.pareto import OURS, plot
from peers.series import Pair, histories, pairs
from peers.stores import store_contenders

_SLOW = 5
"""Who takes so many times as long as ZipNN is measured once: what its clock says does not hang on a few percent."""


@dataclass
class Row:
    """One contender on one pair; times are CPU seconds, `*_vs_zipnn` how many times as fast as ZipNN's delta."""

    history: str
    dtype: str
    snapshot: str
    reference: str
    codec: str
    form: str
    package: str
    raw_bytes: int
    encoded_bytes: int
    ratio: float
    encode_s: float
    decode_s: float
    encode_vs_zipnn: float = field(default=float("nan"))
    decode_vs_zipnn: float = field(default=float("nan"))


class Altered(Exception):
    """A contender did not give back what it got."""


def cpu() -> float:
    """Return CPU seconds of this process and of the children it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def is_base(row: Row) -> bool:
    """Return whether speeds are given against this row: ZipNN's own delta, or ZipNN where there is no reference."""
    return row.codec == (ZIPNN if row.reference else "zipnn")


def available(pair: Pair) -> tuple[list[Contender], list[str]]:
    """Return the contenders for a pair, and the packages that are not installed."""
    keyframe = pair.reference is None
    found, missing = list[Contender](), list[str]()
    for source in (contenders, store_contenders):
        for package, some in source(pair.new.dtype, keyframe):
            found += some
            if not some:
                missing.append(package)
    return found, missing


def measure(history: str, pair: Pair, chosen: list[Contender], rounds: int) -> list[Row]:
    """Return a row for each contender.

    Raises:
        Altered: what came back differs.
    """
    rows = dict[tuple[str, str], Row]()
    order = list(chosen)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for contender in order:
            try:
                contender.prepare(pair)
                begun = cpu()
                encoded = contender.encode(pair)
                made = cpu()
                back = contender.decode(encoded, pair)
                done = cpu()
                if not np.array_equal(np.concatenate(back), pair.new.words):
                    raise Altered(f"{contender.name} ({contender.form}) altered {pair.new.file}")
                size = contender.size(encoded)
            finally:
                contender.clear()
            key = contender.name, contender.form
            if key not in rows:
                rows[key] = Row(
                    history,
                    pair.new.dtype.name.lower(),
                    pair.new.file.stem,
                    "" if pair.reference is None else pair.reference.file.stem,
                    contender.name,
                    contender.form,
                    f"{contender.distribution} {contender.version}",
                    pair.nbytes,
                    size,
                    round(pair.nbytes / size, 4),
                    made - begun,
                    done - made,
                )
            row = rows[key]
            row.encode_s, row.decode_s = min(row.encode_s, made - begun), min(row.decode_s, done - made)
        base = next((row for row in rows.values() if is_base(row)), None)
        if base is not None:
            order = [one for one in order if rows[one.name, one.form].encode_s < _SLOW * base.encode_s]
    for row in rows.values():
        if base is not None:
            row.encode_vs_zipnn = round(base.encode_s / max(row.encode_s, 1e-6), 3)
            row.decode_vs_zipnn = round(base.decode_s / max(row.decode_s, 1e-6), 3)
    for row in rows.values():
        row.encode_s, row.decode_s = round(row.encode_s, 4), round(row.decode_s, 4)
    return sorted(rows.values(), key=lambda row: -row.ratio)


def measured(
    places: list[Path], snapshots: int | None, keyframes: bool, rounds: int, only: list[str], missing: set[str]
) -> Iterator[Row]:
    """Yield the rows of all histories, and collect the packages that are not installed."""
    for history in places:
        for pair in pairs(history, snapshots):
            if pair.reference is None and not keyframes:
                continue
            chosen, absent = available(pair)
            missing.update(absent)
            wanted = [one for one in chosen if any(text in one.name for text in only)]
            yield from measure(history.name, pair, wanted, rounds)


_Group = dict[tuple[str, str], list[Row]]
"""The rows of each codec in each form."""


def grouped(rows: list[Row]) -> dict[tuple[str, bool], _Group]:
    """Return the rows by history and whether they are keyframes."""
    groups = dict[tuple[str, bool], _Group]()
    for row in rows:
        groups.setdefault((row.history, not row.reference), {}).setdefault((row.codec, row.form), []).append(row)
    return groups


def ratio_of(rows: list[Row]) -> float:
    """Return raw bytes by encoded bytes, over all rows."""
    return sum(row.raw_bytes for row in rows) / sum(row.encoded_bytes for row in rows)


def overview(rows: list[Row]) -> Iterator[str]:
    """Yield lines of two Markdown tables, deltas and keyframes: ours beside the best ratio of the others and ZipNN."""
    for keyframes in (False, True):
        what = "keyframe" if keyframes else "history"
        yield f"| {what} | dtype | ours | best other | by it | by ZipNN | encode | decode | encode by the best's |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for (history, keyframe), codecs in grouped(rows).items():
            base = next((found for found in codecs.values() if is_base(found[0])), None)
            mine = next((found for (codec, _), found in codecs.items() if codec == OURS), None)
            others = {codec: found for codec, found in codecs.items() if not codec[0].startswith(OURS)}
            if keyframe is not keyframes or base is None or mine is None:
                continue
            name, best = max(others.items(), key=lambda item: ratio_of(item[1]))
            encode, decode = (times(base, name) / times(mine, name) for name in ("encode_s", "decode_s"))
            yield f"| {history} | {mine[0].dtype} | **{ratio_of(mine):.3f}** | {ratio_of(best):.3f} {name[0]} | " + (
                f"{ratio_of(mine) / ratio_of(best):.2f} | {ratio_of(mine) / ratio_of(base):.2f} | "
                f"{encode:.2f} | {decode:.2f} | {times(best, 'encode_s') / times(mine, 'encode_s'):.2f} |"
            )
        yield ""


def times(rows: list[Row], name: str) -> float:
    """Return the seconds of all rows."""
    return float(max(1e-6, sum(getattr(row, name) for row in rows)))


def summary(rows: list[Row]) -> Iterator[str]:
    """Yield lines of a Markdown table for each history: sums over its pairs, best ratio first."""
    for (history, keyframe), codecs in grouped(rows).items():
        some = next(iter(codecs.values()))
        what = "a keyframe" if keyframe else f"{len(some)} deltas"
        yield f"### {history}: {what}, {some[0].dtype}, {some[0].raw_bytes / 1e6:.1f} MB each"
        yield ""
        yield "| codec | form | ratio | encode | decode |"
        yield "|---|---|---|---|---|"
        base = max((found for found in codecs.values() if is_base(found[0])), key=len, default=some)
        lines = []
        for (codec, form), found in codecs.items():
            speeds = [times(base, name) / times(found, name) for name in ("encode_s", "decode_s")]
            ratio = ratio_of(found)
            lines.append((ratio, f"| {codec} | {form} | {ratio:.3f} | {speeds[0]:.2f} | {speeds[1]:.2f} |"))
        yield from (line for _, line in sorted(lines, reverse=True))
        yield ""


def keep_stages(places: list[Path], rounds: int, file: Path) -> int:
    """Measure the stages of the newest pair of each history, write a row for each, and print their table."""
    found = list[stages.Row]()
    for place in places:
        for pair in pairs(place, 2):
            if pair.reference is not None:
                found += stages.measured(place.name, pair, rounds)
    with file.open("w", newline="") as table:
        writer = csv.DictWriter(table, [one.name for one in fields(stages.Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in found)
    print("\n".join(stages.summary(found)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/lossless", description=__doc__.splitlines()[0])
    parser.add_argument("place", metavar="DIR", type=Path, help="what scripts/histories made, or one history")
    parser.add_argument("--only", metavar="NAME", action="append", help="this history; may be repeated")
    parser.add_argument(
        "--codec", metavar="TEXT", action="append", help="only codecs whose name contains this; may be repeated"
    )
    parser.add_argument("--snapshots", metavar="N", type=int, help="the newest N of each history")
    parser.add_argument("--no-keyframes", action="store_true", help="deltas only")
    parser.add_argument("--rounds", metavar="N", type=int, default=3, help="the best of so many; 1 where ratios do")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write a row for each pair and codec")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write ratio over speed, as SVG")
    parser.add_argument(
        "--stages",
        metavar="FILE",
        type=Path,
        help="instead: where the newest pair of each history spends our time, stage by stage, as CSV",
    )
    words = parser.parse_args()
    places = [place for place in histories(words.place) if not words.only or place.name in words.only]
    if not places:
        parser.error(f"{words.place} holds no history: directories of snapshots, as scripts/histories makes them")
    if words.stages:
        return keep_stages(places, words.rounds, words.stages)
    missing = set[str]()
    rows = list[Row]()
    table = words.csv.open("w", newline="") if words.csv else None
    try:
        for row in measured(
            places, words.snapshots, not words.no_keyframes, words.rounds, words.codec or [""], missing
        ):
            print(f"{row.history} {row.snapshot} {row.codec} ({row.form}) {row.ratio}", file=sys.stderr)
            if table:
                writer = csv.DictWriter(table, list(asdict(row)))
                if not rows:
                    writer.writeheader()
                writer.writerow(asdict(row))
                table.flush()
            rows.append(row)
    finally:
        if table:
            table.close()
    print(f"Not installed: {', '.join(sorted(missing)) or 'nothing is missing'}.\n")
    print("\n".join([*overview(rows), *summary(rows)]))
    if words.plot:
        plot(rows, words.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
