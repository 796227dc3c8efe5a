"""What a lossy commit promises, and what was measured when it was made: a section of its payload record."""

from __future__ import annotations

from typing import NamedTuple

from modelvault import ids, wire
from modelvault.ids import FileId

BOUNDS = {1: "abs", 2: "rel", 3: "paper"}
"""What a bound is measured by: `abs` and `paper` are |a - a'| <= log(1 + eps), `rel` is |a - a'| <= eps |a|."""

_MAX_TEXT = 1 << 16
_TRIAL_BYTES = 32


class Trial(NamedTuple):
    """One bound that was tried: its eps, raw bytes by stored bytes with it, what was measured, and its score."""

    eps: float
    ratio: float
    metric: float
    score: float


class Lossy(NamedTuple):
    """How the files of a commit were rounded.

    Attributes:
        bound: what `eps` is measured by, a code of `BOUNDS`.
        eps: the bound that holds for every float.
        vectors: the relative bound that tensors of one dimension keep besides, 0 where they are exact.
        max_abs: the largest difference there is, optimizer state aside.
        max_rel: the largest as a share of the original's magnitude, likewise.
        changed: how many numbers are not the original ones.
        stand_ins: (id of the committed file, id of the file that checkout gives for it), for each that differs.
        evaluator: what measured a file, "" if nothing did.
        original_metric: what it gave for the original, 0 if nothing was measured.
        max_drop: by what share of that a trial may have been worse.
        alpha: the weight of the ratio in a score; that of the metric is 1 - alpha.
        trials: the bounds that were tried.
        optimizer: what share of its unit a number of the optimizer's state differs by at most, 0 where it is exact.
    """

    bound: int
    eps: float
    vectors: float
    max_abs: float
    max_rel: float
    changed: int
    stand_ins: tuple[tuple[FileId, FileId], ...]
    evaluator: str = ""
    original_metric: float = 0.0
    max_drop: float = 0.0
    alpha: float = 0.0
    trials: tuple[Trial, ...] = ()
    optimizer: float = 0.0

    @property
    def is_absolute(self) -> bool:
        """Whether one bound holds for all numbers, log(1 + eps), whatever their magnitude."""
        return BOUNDS[self.bound] != "rel"

    def __str__(self) -> str:
        return f"lossy {BOUNDS[self.bound]} {self.eps:g}"

    def write(self, out: wire.Writer) -> None:
        """Write the section, all but the optimizer's bound, which not every record has."""
        out.uint(self.bound)
        for number in (self.eps, self.vectors, self.max_abs, self.max_rel):
            out.float64(number)
        out.uint(self.changed)
        out.uint(len(self.stand_ins))
        for original, stand_in in self.stand_ins:
            out.fixed(original)
            out.fixed(stand_in)
        out.text(self.evaluator)
        for number in (self.original_metric, self.max_drop, self.alpha):
            out.float64(number)
        out.uint(len(self.trials))
        for trial in self.trials:
            for number in trial:
                out.float64(number)

    @classmethod
    def read(cls, record: wire.Reader) -> Lossy:
        """Read what `write` wrote.

        Raises:
            WireError: a bound of no known kind, or whatever a reader finds.
        """
        bound = record.uint(max(BOUNDS))
        if bound not in BOUNDS:
            raise wire.WireError(f"unknown kind of bound {bound}")
        eps, vectors, max_abs, max_rel = (record.float64() for _ in range(4))
        changed = record.uint()
        stand_ins = tuple(
            (FileId(record.fixed(ids.ID_BYTES)), FileId(record.fixed(ids.ID_BYTES)))
            for _ in range(record.count(2 * ids.ID_BYTES))
        )
        evaluator = record.text(_MAX_TEXT)
        original_metric, max_drop, alpha = (record.float64() for _ in range(3))
        trials = tuple(Trial(*(record.float64() for _ in range(4))) for _ in range(record.count(_TRIAL_BYTES)))
        return cls(
            bound,
            eps,
            vectors,
            max_abs,
            max_rel,
            changed,
            stand_ins,
            evaluator,
            original_metric,
            max_drop,
            alpha,
            trials,
        )
