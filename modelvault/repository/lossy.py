"""Stand-ins made for a lossy commit, with a bound that was given or that a search found.

Stand-ins are files in a temporary directory (`TMPDIR` says where) under the originals' names, so that an evaluator sees
what a checkout will give. What is committed is then read from them as any file is read; only the commit itself, whose
id names what the user had, is told of the originals.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from modelvault.checkpoint import FileSource, Source
from modelvault.codec import Bound
from modelvault.errors import FileChangedError, InputError, NoSpaceError, UsageError
from modelvault.objects.commit import FileEntry
from modelvault.objects.lossy import Lossy, Trial
from modelvault.objects.recipe import Recipe
from modelvault.objects.template import SegmentHint, Template
from modelvault.repository import bound_search
from modelvault.repository.assemble import segment_places
from modelvault.repository.candidates import Key
from modelvault.repository.checkout import rebuild
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.collect import Named
from modelvault.repository.config import BoundName, LossyPolicy
from modelvault.repository.dissect import Dissection, dissect
from modelvault.repository.estimate import Reference, of_vault, stored_bytes
from modelvault.repository.evaluator import DEFAULT_TIMEOUT, Evaluate, command
from modelvault.repository.proposal import Proposal
from modelvault.repository.repository import Repository
from modelvault.repository.stand_in import Anchor, Measured, Rounding, write_stand_in
from modelvault.repository.worktree import file_id, open_regular, write_error

Progress = Callable[[str, int, int], None]

Parents = Mapping[str, tuple[Template, Recipe]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How a bound is judged.

    Attributes:
        evaluate: gives a file's metric, higher is better.
        name: what is recorded of it: the command, or the function's name.
        max_drop: by what share of the original's metric a stand-in's may be lower.
        alpha: the weight of the ratio in the score of a bound; that of the metric is 1 - alpha.
        bounds: what is tried, where no bound is given.
    """

    evaluate: Evaluate
    name: str
    max_drop: float
    alpha: float = bound_search.DEFAULT_ALPHA
    bounds: Sequence[float] = bound_search.bounds_between(*bound_search.DEFAULT_RANGE)

    def check(self) -> None:
        """Check the numbers.

        Raises:
            UsageError: one makes no sense.
        """
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise UsageError(f"a drop of {self.max_drop:g} makes no sense", hint="a share such as 0.002 for 0.2 %")
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"a weight of {self.alpha:g} makes no sense", hint="0 <= ALPHA <= 1")


@dataclass(frozen=True, slots=True)
class LossyRequest:
    """What the user wants of a lossy commit.

    Attributes:
        eps: the bound, None if it is to be searched for.
        bound: what it is measured by.
        vectors: the relative bound of one-dimensional tensors, 0 to keep them exactly.
        evaluation: how bounds are judged; None only where one is given.
        optimizer: what share of its unit a number of optimizer state may differ by, 0 to keep it exactly.
        proposal: what to take in place of what rounding gives, within the bounds.
    """

    eps: float | None
    bound: Bound = Bound.ABS
    vectors: float = 0.0
    evaluation: Evaluation | None = None
    optimizer: float = 0.0
    proposal: Proposal | None = None

    def check(self) -> None:
        """Check that it makes sense.

        Raises:
            UsageError: it does not.
        """
        if self.eps is None and self.evaluation is None:
            raise UsageError("no bound and nothing to find one with", hint="--lossy 0.001, or --eval CMD --max-drop X")
        self.rounding(self.eps if self.eps is not None else 1.0).check()
        if self.evaluation is not None:
            self.evaluation.check()

    def rounding(self, eps: float) -> Rounding:
        """Return how to round with this bound."""
        return Rounding(eps, self.bound, self.vectors, self.optimizer, self.proposal)


class Said(NamedTuple):
    """What was said of rounding, None where nothing was: a bound, what it is, those of parts, how it is judged."""

    eps: float | None = None
    bound: BoundName | None = None
    vectors: float | None = None
    optimizer: float | None = None
    evaluation: Evaluation | None = None


def lossy_request(policy: LossyPolicy | None, said: Said) -> LossyRequest | None:
    """Return what is wanted, from what was said and what the vault's policy is for whatever was not said.

    Raises:
        UsageError: something was said of a bound, and there is none.
    """
    eps, evaluation = said.eps, said.evaluation
    if eps is None and evaluation is None:
        if policy is None:
            if said != Said():
                raise UsageError("nothing is to be rounded", hint="--lossy 0.001")
            return None
        eps, evaluation = policy.eps, _judged(policy)
    rest = policy or LossyPolicy()
    return LossyRequest(
        eps,
        Bound[(said.bound or rest.bound).upper()],
        rest.vectors if said.vectors is None else said.vectors,
        evaluation,
        rest.optimizer if said.optimizer is None else said.optimizer,
    )


def _judged(policy: LossyPolicy) -> Evaluation | None:
    """Return how a policy has bounds judged."""
    if policy.eval is None:
        return None
    return Evaluation(
        command(policy.eval, DEFAULT_TIMEOUT if policy.eval_timeout is None else policy.eval_timeout),
        policy.eval,
        policy.max_drop,
        bound_search.DEFAULT_ALPHA if policy.alpha is None else policy.alpha,
        bound_search.bounds_between(*(policy.range or bound_search.DEFAULT_RANGE)),
    )


class StandIns(NamedTuple):
    """Files to commit in the place of others.

    Attributes:
        named: what to read, in the order of what was named.
        originals: the file of each path as the user has it.
        lossy: what to record, None if no number was changed.
    """

    named: list[Named]
    originals: Mapping[str, FileEntry]
    lossy: Lossy | None


class _File(NamedTuple):
    item: Named
    entry: FileEntry
    cut: Dissection
    state: tuple[int, int]  # length and time of change when it was cut
    anchor: Anchor | None = None


@contextlib.contextmanager
def stand_ins(
    repository: Repository, named: Sequence[Named], request: LossyRequest, parents: Parents, progress: Progress
) -> Iterator[StandIns]:
    """Make a stand-in for each file; they are gone when the block ends.

    Raises:
        InputError: a file cannot be read or changed, the evaluator failed, or every bound loses too much.
        UsageError: something is to be measured and there are several files.
        NoSpaceError: the temporary directory has no room for them.
    """
    if (request.evaluation is not None or request.proposal is not None) and len(named) != 1:
        raise UsageError(f"{len(named)} files are named, what is measured is one", hint="commit them one by one")
    files = [_cut(item) for item in named]
    with tempfile.TemporaryDirectory(prefix="modelvault-") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        if request.bound is Bound.PAPER:
            files = [
                file._replace(anchor=_anchor(repository, parents[file.entry.path], root / "before", stack))
                if file.entry.path in parents
                else file
                for file in files
            ]
        eps, trials, original = request.eps, list[Trial](), 0.0
        if request.evaluation is not None:
            eps, trials, original = _search(repository, files[0], request, parents, root, progress)
        assert eps is not None  # `check` saw to it
        measured = Measured()
        replaced, pairs = [], []
        for file in files:
            target = root / "made" / file.item.path
            measured.add(_write(file, request.rounding(eps), target, progress))
            found = file_id(target)
            assert found is not None
            replaced.append(file.item._replace(on_disk=target))
            if found != file.entry.file_id:
                pairs.append((file.entry.file_id, found))
        lossy = Lossy(
            int(request.bound),
            eps,
            request.vectors,
            measured.max_abs,
            measured.max_rel,
            measured.changed,
            tuple(sorted(set(pairs))),
            optimizer=request.optimizer,
        )
        if request.evaluation is not None:
            evaluation = request.evaluation
            lossy = lossy._replace(
                evaluator=evaluation.name,
                original_metric=original,
                max_drop=evaluation.max_drop,
                alpha=evaluation.alpha,
                trials=tuple(trials),
            )
        if request.proposal is not None:
            if not measured.proposed:
                raise UsageError(
                    "the file has none of the model's tensors as they are now",
                    hint="commit the state of the very model that is given",
                )
            stored = _stored_bytes(repository, replaced[0].on_disk, _references(repository, files[0], parents))
            trial = Trial(eps, files[0].cut.size / max(1, stored), request.proposal.metric, 1.0)
            lossy = lossy._replace(
                evaluator=request.proposal.measure,
                original_metric=1.0,
                max_drop=request.proposal.max_drop,
                trials=(trial,),
            )
        yield StandIns(replaced, {file.entry.path: file.entry for file in files}, lossy if pairs else None)


def _cut(item: Named) -> _File:
    with open_regular(item.on_disk) as descriptor:
        before = os.fstat(descriptor)
        cut = dissect(FileSource(descriptor))
    entry = FileEntry(item.path, cut.size, bool(before.st_mode & stat.S_IXUSR), cut.file_id)
    return _File(item, entry, cut, (before.st_size, before.st_mtime_ns))


def _anchor(
    repository: Repository, parent: tuple[Template, Recipe], target: Path, stack: contextlib.ExitStack
) -> Anchor | None:
    """Return the tensors of the parent's file as a checkout gives them: what the paper counts its multiples from."""
    template, recipe = parent
    if not recipe.is_whole:
        return None
    try:
        with (
            contextlib.closing(rebuild(ChunkReader(repository.store), template, recipe.stem, recipe.tensors)) as pieces,
            target.open("wb") as out,
        ):
            out.writelines(pieces)
    except OSError as error:
        raise no_room(error, target) from None
    source = FileSource(stack.enter_context(open_regular(target)))
    target.unlink()
    known = {
        (segment.name, segment.dtype, segment.shape, segment.length): offset
        for segment, offset in segment_places(template, recipe.stem)
    }

    def anchor(segment: SegmentHint) -> tuple[Source, int] | None:
        offset = known.get((segment.name, segment.dtype, segment.shape, segment.length))
        return None if offset is None else (source, offset)

    return anchor


def _write(file: _File, rounding: Rounding, target: Path, progress: Progress) -> Measured:
    """Write one stand-in.

    Raises:
        FileChangedError: the original is not what it was when it was cut.
    """
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("rounding", done, file.cut.size)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(file.item.on_disk) as descriptor, target.open("wb") as out:
            source = FileSource(descriptor)
            measured = write_stand_in(source, file.cut.template, file.cut.stem, rounding, out, advance, file.anchor)
            after = os.fstat(descriptor)
        target.chmod(0o700 if file.entry.executable else 0o600)
    except OSError as error:
        raise no_room(error, target) from None
    if (after.st_size, after.st_mtime_ns) != file.state:
        raise FileChangedError(
            f"{file.item.path}: the file changed while it was read; nothing was committed",
            hint="commit it when nothing writes to it",
        )
    return measured


def no_room(error: OSError, target: Path) -> InputError | NoSpaceError:
    """Return what to raise where a file cannot be written to the temporary directory."""
    found = write_error(error, str(target))
    assert isinstance(found, (InputError, NoSpaceError))
    if isinstance(found, NoSpaceError):
        found.hint = "free some space, or let TMPDIR name a directory with room for a copy of the files"
    return found


def _search(
    repository: Repository, file: _File, request: LossyRequest, parents: Parents, root: Path, progress: Progress
) -> tuple[float, list[Trial], float]:
    """Return the bound to take, all that were tried, and the original's metric."""
    evaluation = request.evaluation
    assert evaluation is not None
    bounds = [request.eps] if request.eps is not None else list(evaluation.bounds)
    progress("evaluating", 0, len(bounds) + 1)
    original = evaluation.evaluate(file.item.on_disk)
    references = _references(repository, file, parents)
    trials = []
    for place, eps in enumerate(bounds):
        progress("evaluating", place + 1, len(bounds) + 1)
        target = root / "tried" / file.item.path
        _write(file, request.rounding(eps), target, lambda *_: None)
        metric = evaluation.evaluate(target)
        stored = _stored_bytes(repository, target, references)
        trials.append(Trial(eps, file.cut.size / max(1, stored), metric, 0.0))
        target.unlink(missing_ok=True)
    chosen, scored = bound_search.best_trial(trials, original, evaluation.max_drop, evaluation.alpha)
    return chosen.eps, scored, original


def _references(repository: Repository, file: _File, parents: Parents) -> dict[Key, Reference]:
    """Return what a file's tensors may lean on: of the parents' files the one of its path first."""
    own = [parents[file.item.path]] if file.item.path in parents else []
    return of_vault(repository.store, own + [parents[path] for path in parents if path != file.item.path])


def _stored_bytes(repository: Repository, target: Path, references: Mapping[Key, Reference]) -> int:
    with open_regular(target) as descriptor:
        source = FileSource(descriptor)
        return stored_bytes(repository.store, source, dissect(source), references)
