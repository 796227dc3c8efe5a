"""What a file would take in the vault, found out without storing it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Container, Iterable, Mapping

from modelvault import codec
from modelvault.checkpoint import Source
from modelvault.errors import CorruptError
from modelvault.ids import TensorId
from modelvault.objects.recipe import Recipe
from modelvault.objects.template import Template
from modelvault.repository.bases import Work, read_range
from modelvault.repository.candidates import Key, slot_keys
from modelvault.repository.chunks import ChunkReader
from modelvault.repository.dissect import Dissection
from modelvault.repository.encode import find_tensor
from modelvault.repository.samples import fit_pieces
from modelvault.repository.threads import in_order
from modelvault.store.base import Store
from modelvault.tensors import CHUNK_BYTES

Reference = Callable[[int], bytes]
"""Gives the chunk at a place of what a tensor might lean on."""

References = Mapping[Key, Reference]
"""What tensors might lean on, by what makes them comparable."""


def of_vault(store: Store, files: Iterable[tuple[Template, Recipe]]) -> dict[Key, Reference]:
    """Return the tensors of files that are kept as references."""
    reader = ChunkReader(store)
    found: dict[Key, Reference] = {}
    for template, recipe in files:
        for key, number in zip(slot_keys(template), recipe.tensors, strict=True):
            if number:  # 0 where the part was given up
                found.setdefault(key, functools.partial(reader.chunk, number))
    return found


def of_file(source: Source, cut: Dissection) -> dict[Key, Reference]:
    """Return the tensors of a file on disk as references, as long as its source is open."""
    found: dict[Key, Reference] = {}
    for slot, key in zip(cut.slots, slot_keys(cut.template), strict=True):
        found.setdefault(key, functools.partial(_chunk, Work(slot, source, ())))
    return found


def stored_bytes(
    store: Store,
    source: Source,
    cut: Dissection,
    references: References,
    held: Container[TensorId] = (),
) -> int:
    """Return how many bytes of frames a file would add to the vault; nothing is stored.

    Args:
        store: what it holds already costs nothing.
        source: the file.
        cut: how it is cut up.
        references: what its tensors might lean on.
        held: more tensors that cost nothing.
    """
    works: dict[bytes, tuple[Work, codec.Parameters, Reference | None]] = {}
    with store.read() as txn:
        new = [
            (slot, references.get(key))
            for slot, key in zip(cut.slots, slot_keys(cut.template), strict=True)
            if slot.tensor_id not in held and find_tensor(txn, slot.tensor_id, slot.nbytes) is None
        ]
    for slot, reference in new:
        work = Work(slot, source, ())
        parameters = codec.Parameters(slot.dtype)
        if reference is not None:
            with contextlib.suppress(CorruptError):  # what is damaged is nothing to build on
                parameters = _fit(work, reference)
        works[slot.tensor_id] = work, parameters, reference if parameters.references else None

    def frame_bytes(job: tuple[Work, codec.Parameters, Reference | None, int]) -> int:
        work, parameters, reference, place = job
        beside = [reference(place)] if reference is not None else []
        slot, start = work.slot, place * CHUNK_BYTES
        raw, first = _chunk(work, place), start // codec.word_bytes(slot.dtype)
        runs = slot.runs(start, start + len(raw))
        return len(codec.encode_chunk(raw, parameters, beside, row=slot.row, start=first, runs=runs))

    jobs = ((*one, place) for one in works.values() for place in range(-(-one[0].slot.nbytes // CHUNK_BYTES)))
    return sum(in_order(frame_bytes, jobs))


def _fit(work: Work, reference: Reference) -> codec.Parameters:
    slot = work.slot
    pairs, seen = [], 0
    for piece in fit_pieces(slot.nbytes, slot.dtype, slot.row):
        raw = read_range(work, piece.place * CHUNK_BYTES + piece.start, piece.size)
        pairs.append((raw, reference(piece.place)[piece.start : piece.start + len(raw)]))
        seen += len(raw)
    return codec.fit(slot.dtype, pairs, row=slot.row, share=seen / slot.nbytes)


def _chunk(work: Work, place: int) -> bytes:
    return read_range(work, place * CHUNK_BYTES, CHUNK_BYTES)
