"""The planner beside the rules that others store versions by, on the same measured costs.

Each snapshot is coded whole, alone and against every other snapshot of its history, by the vault's codec: that is the
edge matrix. Every rule plans on it, and ours plans thrice for each: the fewest bytes at the depth that the rule needed,
the fewest at its dearest restore, and the least work of all restores within its bytes. Restoring is told in the work
units of the cost model (bytes read and decoded), as seconds of its rate. Lossless; no second references.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from peers import series

from modelvault import codec
from modelvault.planner import Edge, Graph, Limits, Plan, bound, solve
from modelvault.planner.arborescence import least_bytes, least_work
from modelvault.repository.cost import seconds
from modelvault.repository.threads import in_order
from modelvault.tensors import CHUNK_BYTES

_WINDOW, _GIT_DEPTH = 10, 50
"""git's defaults for pack.window and pack.depth."""


class Row(NamedTuple):
    """One rule on one history, and ours at each of its bounds."""

    history: str
    versions: int
    rule: str
    bytes: int
    depth: int
    max_s: float
    mean_s: float
    planning_s: float
    ours_at_depth: int
    ours_at_max_s: int
    ours_mean_s_at_bytes: float


def coded_bytes(new: series.Snapshot, reference: series.Snapshot | None) -> int:
    """Return the bytes that a snapshot's tensors take, coded as a commit would."""
    total = 0
    for place, tensor in enumerate(new.tensors):
        raw = tensor.words.tobytes()
        against = reference.tensors[place].words.tobytes() if reference else None
        fitted = codec.Parameters(new.dtype)
        if against is not None:
            fitted = codec.fit(new.dtype, [(raw, against)], row=tensor.row)
        word = codec.word_bytes(new.dtype)
        for at in range(0, len(raw), CHUNK_BYTES):
            references = [against[at : at + CHUNK_BYTES]] if against is not None else []
            frame = codec.encode_chunk(raw[at : at + CHUNK_BYTES], fitted, references, row=tensor.row, start=at // word)
            total += len(frame)
    return total


def matrix(history: Path) -> list[list[int]]:
    """Return bytes by version and reference, both from 0; keyframes stand on the diagonal. It is kept beside them."""
    kept = history / "edges.json"
    if kept.exists():
        found: list[list[int]] = json.loads(kept.read_text())
        return found
    shots = [series.read(file) for file in series.files(history)]
    if any(shot.shape != shots[0].shape for shot in shots):
        raise SystemExit(f"{history}: its snapshots do not hold the same tensors")
    pairs = [(one, other) for one in range(len(shots)) for other in range(len(shots))]
    costs = list(
        in_order(lambda pair: coded_bytes(shots[pair[0]], shots[pair[1]] if pair[0] != pair[1] else None), pairs)
    )
    found = [costs[at : at + len(shots)] for at in range(0, len(costs), len(shots))]
    kept.write_text(json.dumps(found))
    return found


def graph_of(costs: list[list[int]], raw: int) -> Graph:
    """Return the graph of all edges; the work of each is the bytes read and the bytes decoded."""
    return Graph(
        len(costs),
        (
            Edge(one + 1, 0 if one == other else other + 1, 0, nbytes, nbytes + raw)
            for one, line in enumerate(costs)
            for other, nbytes in enumerate(line)
        ),
    )


def _edge(graph: Graph, version: int, base: int) -> Edge:
    found = graph.edge(version, base)
    assert found is not None  # every pair was measured
    return found


def _by_bases(graph: Graph, bases: list[int]) -> Plan:
    return Plan([graph.keyframe[0], *(_edge(graph, version, base) for version, base in enumerate(bases, start=1))])


def git_window(graph: Graph) -> Plan:
    """Return what `git repack` would choose: newest first, the best of a window, small deltas on shallow bases."""
    bases, depth, size = [0] * graph.versions, [0] * (graph.versions + 1), [0] * (graph.versions + 1)
    window: list[int] = []
    for version in range(graph.versions, 0, -1):
        size[version] = graph.keyframe[version].nbytes
        for base in window:
            if depth[base] >= _GIT_DEPTH:
                continue
            most = size[version] * (_GIT_DEPTH - depth[base]) / (_GIT_DEPTH - (depth[version] or 1) + 1)
            edge = _edge(graph, version, base)
            if edge.nbytes < most:
                bases[version - 1], size[version], depth[version] = base, edge.nbytes, depth[base] + 1
        window = [version, *window][:_WINDOW]
    return _by_bases(graph, bases)


def lmg(graph: Graph, share: float) -> Plan:
    """Return the plan of Local Move Greedy (Bhattacherjee et al., VLDB 2015, section 4.1).

    From the least arborescence, while the budget lasts, the edge of the tree of least work that takes most work off all
    restores for each byte it adds.
    """
    plan, cheapest = least_bytes(graph), least_work(graph)
    budget = plan.nbytes * share
    while True:
        best: tuple[float, Edge] | None = None
        for edge in cheapest.edges[1:]:
            now = plan.edges[edge.version]
            added = edge.nbytes - now.nbytes
            if edge == now or plan.nbytes + added > budget or edge.version in (edge.base, *plan.chain(edge.base)):
                continue
            saved = (plan.work[edge.version] - plan.work[edge.base] - edge.work) * (
                1 + sum(1 for _ in plan.below(edge.version))
            )
            gain = saved / max(1, added)
            if saved > 0 and (best is None or gain > best[0]):
                best = gain, edge
        if best is None:
            return plan
        plan.change(best[1])


def rules(graph: Graph, parents: list[int]) -> Iterator[tuple[str, Callable[[], Plan]]]:
    """Yield every rule that is compared."""
    count = graph.versions
    stars = [[0 if one == centre else centre for one in range(1, count + 1)] for centre in range(1, count + 1)]
    yield "star, first", lambda: _by_bases(graph, stars[0])
    yield "star, best", lambda: min((_by_bases(graph, star) for star in stars), key=lambda plan: plan.nbytes)
    yield "chain", lambda: _by_bases(graph, parents)
    for every in (4, 8, 16):
        bases = [0 if place % every == 0 else parent for place, parent in enumerate(parents)]
        yield f"keyframe every {every}", lambda bases=bases: _by_bases(graph, bases)  # type: ignore[misc]
    yield "git's window", lambda: git_window(graph)
    for share in (1.02, 1.1, 1.5):
        yield f"LMG, {share:g} of the least", lambda share=share: lmg(graph, share)  # type: ignore[misc]
    yield "MST", lambda: least_bytes(graph)
    yield "SPT", lambda: least_work(graph)


def compare(history: Path) -> tuple[list[Row], Graph]:
    """Return a row for each rule."""
    files = series.files(history)
    raw = sum(tensor.words.nbytes for tensor in series.read(files[0]).tensors)
    graph = graph_of(matrix(history), raw)
    said = json.loads((history / "parents.json").read_text()) if (history / "parents.json").exists() else {}
    place = {file.name: at for at, file in enumerate(files, start=1)}
    parents = [place.get(said.get(file.name) or "", at) for at, file in enumerate(files)]  # else what came before
    count, stretch = graph.versions, [list(range(1, graph.versions + 1))]

    def ours(depth: int | None = None, work: int | None = None, budget: int | None = None) -> Plan:
        return solve(graph, Limits.uniform(count, depth, work), budget=budget, stretches=stretch)

    rows = []

    def row(name: str, plan: Plan, spent: float) -> None:
        rows.append(
            Row(
                history.name, count, name, plan.nbytes, plan.max_depth, seconds(plan.max_work),
                seconds(plan.total_work // count), spent, ours(depth=plan.max_depth).nbytes,
                ours(work=plan.max_work).nbytes, seconds(ours(budget=plan.nbytes).total_work // count),
            )
        )  # fmt: skip

    for name, make in rules(graph, parents):
        start = time.process_time()
        plan = make()
        row(name, plan, time.process_time() - start)
    for depth in (1, 3, 7, 16):
        start = time.process_time()
        plan = ours(depth=depth)
        row(f"modelvault, depth {depth}", plan, time.process_time() - start)
    return rows, graph


def curve(graph: Graph) -> list[tuple[float, int]]:
    """Return (seconds of the dearest restore, bytes) of our plans, from the tightest bound to none."""
    low, high = least_work(graph).max_work, solve(graph, Limits.uniform(graph.versions)).max_work
    found = []
    for step in range(13):
        work = int(low * (high / low) ** (step / 12))
        plan = solve(graph, Limits.uniform(graph.versions, None, work))
        found.append((seconds(plan.max_work), plan.nbytes))
    return found


def picture(panels: list[tuple[str, list[Row], list[tuple[float, int]], int]], file: Path) -> None:
    """Draw bytes over the dearest restore: ours as a line, each rule as a dot."""
    wide, high, left, low = 420, 300, 58, 40
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide * len(panels)}" height="{high}"'
        ' font-family="sans-serif" font-size="10">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, (name, rows, line, least) in enumerate(panels):
        dots = [(row.max_s, row.bytes / least, row.rule) for row in rows if not row.rule.startswith("modelvault")]
        top, right = 1.3, max(x for x, _, _ in dots) * 1.05
        start = place * wide

        def at(x: float, y: float, start: int = start, right: float = right, top: float = top) -> tuple[float, float]:
            spread = (min(y, top) - 0.99) / (top - 0.99)
            return start + left + x / right * (wide - left - 20), high - low - spread * (high - low - 30)

        out.append(f'<text x="{start + left}" y="16" font-size="12">{name}, {rows[0].versions} versions</text>')
        for share in (1.0, 1.1, 1.2, 1.3):
            x, y = at(0, share)
            out.append(f'<line x1="{x}" y1="{y:.1f}" x2="{start + wide - 20}" y2="{y:.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{x - 6}" y="{y + 3:.1f}" text-anchor="end">{share:.1f}</text>')
        path = " ".join("{:.1f},{:.1f}".format(*at(x, nbytes / least)) for x, nbytes in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="#c33" stroke-width="1.5"/>')
        for x, y, rule in dots:
            dot = at(x, y)
            beyond = f" ({y:.2f})" if y > top else ""
            out.append(f'<circle cx="{dot[0]:.1f}" cy="{dot[1]:.1f}" r="3" fill="#36a"/>')
            out.append(f'<text x="{dot[0] + 4:.1f}" y="{dot[1] - 3:.1f}" font-size="7">{rule}{beyond}</text>')
        out.append(
            f'<text x="{start + wide // 2}" y="{high - 8}" text-anchor="middle">dearest restore, up to'
            f" {right:.2f} s; bytes by those of the least tree</text>"
        )
    file.write_text("\n".join([*out, "</svg>", ""]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench/planner", description=__doc__.split("\n", 1)[0])
    parser.add_argument("place", metavar="DIR", type=Path, help="histories, one in each directory")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw an SVG there")
    words = parser.parse_args()
    every, panels, beaten = list[Row](), [], 0
    for history in series.histories(words.place):
        rows, graph = compare(history)
        every += rows
        panels.append((history.name, rows, curve(graph), bound(graph)))
        for row in rows:
            better = row.bytes < row.ours_at_depth or row.bytes < row.ours_at_max_s
            beaten += better or row.mean_s < row.ours_mean_s_at_bytes * (1 - 1e-9)
            print(
                f"{row.history:12} {row.rule:22} {row.bytes:11,} depth {row.depth:2} max {row.max_s:.3f} s"
                f" mean {row.mean_s:.3f} s planned in {row.planning_s:.3f} s; ours at this depth"
                f" {row.ours_at_depth / row.bytes:.4f}, at this max {row.ours_at_max_s / row.bytes:.4f} of the bytes,"
                f" within the bytes {row.ours_mean_s_at_bytes / row.mean_s:.4f} of the mean",
                flush=True,
            )
    print(f"{beaten} of {len(every)} rows are better than ours at one of their bounds")
    if words.csv:
        with words.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Row._fields)
            writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in every)
    if words.plot:
        picture(panels, words.plot)
    return 1 if beaten else 0


if __name__ == "__main__":
    sys.exit(main())
