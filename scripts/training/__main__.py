"""Train what scripts/histories was asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from training.runs import all_runs, optimizer_runs
from training.sources import SourceError


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/histories", description="Train small networks, keep every snapshot.")
    parser.add_argument("place", metavar="DIR", type=Path, help="where the histories go")
    parser.add_argument("--full", action="store_true", help="twice the snapshots")
    parser.add_argument("--optimizers", action="store_true", help="instead: one network with other optimizers")
    parser.add_argument("--only", metavar="NAME", action="append", help="this run; may be repeated")
    parser.add_argument("--images", metavar="DIR", type=Path, help="the IDX files of Fashion-MNIST")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="of torch; the default is 1")
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    place = words.place.absolute()
    usual, others = list(all_runs(place, words.images, words.full)), list(optimizer_runs(place, words.images))
    runs = others if words.optimizers else usual
    unknown = set(words.only or ()) - {run.name for run in runs}
    if unknown:
        parser.error(f"no run is called {', '.join(sorted(unknown))}: there are {', '.join(run.name for run in runs)}")
    words.place.mkdir(parents=True, exist_ok=True)
    lines = [f"{name:32} {about}" for run in (*usual, *others) for name, about in run.histories().items()]
    (words.place / "README").write_text(
        "Files of each directory in the order of their names; history.json beside them says loss and accuracy.\n\n"
        + "\n".join(lines) + "\n"
    )  # fmt: skip
    try:
        for run in runs:
            if not words.only or run.name in words.only:
                run.train(place, lambda line: print(line, flush=True))
    except SourceError as error:
        print(f"scripts/histories: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
