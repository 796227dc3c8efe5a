"""The index of a bundle: commits, and what their files need beyond files that the receiver has.

A bundle is a file: eight bytes that say what it is and one of version, then frames of tensors one after the other, then
this index, packed, then its length and the SHA-256 of all before that. Tensors are numbered from 1: those that the
receiver has come first, then those that are sent, each of which may lean on one with a lower number. So a bundle needs
nothing of the vault it was made in, and nothing of how the receiving one keeps its tensors.

Whatever is wrong with an index is found when it is read: numbers that lead nowhere, lengths that do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelvault import ids, wire
from modelvault.ids import CommitId, FileId, TensorId
from modelvault.objects.commit import Commit
from modelvault.objects.lossy import Lossy
from modelvault.objects.template import EventKind, Template
from modelvault.tensors import CHUNK_BYTES

MAGIC = b"\x89MVB\r\n\x1a\n"
"""First bytes of a bundle: no text, and damaged by whatever takes it for one."""

VERSION = 1

EXACT, LOSSY, WITHOUT_BYTES = 0, 1, 2
"""How a commit comes: as it was committed, as stand-ins, or with what it says alone."""

_MAX_TEXT = 1 << 16
_MAX_STEM = 1 << 20


class BaseFile(NamedTuple):
    """A file that the receiver has.

    Attributes:
        path: where its commit has it.
        file_id: its SHA-256.
        size: its length in bytes.
        template: the number of its template, from 0.
        stem: its stem.
    """

    path: str
    file_id: FileId
    size: int
    template: int
    stem: bytes


class BaseTensor(NamedTuple):
    """A tensor that the receiver has: in slot `slot` of base file number `file`, from 0."""

    tensor_id: TensorId
    nbytes: int
    file: int
    slot: int


class SentTensor(NamedTuple):
    """A tensor that is sent.

    Attributes:
        tensor_id: digest of its raw bytes.
        nbytes: length of its raw bytes.
        parameters: what the codec needs for every chunk of it.
        base: number of the tensor it leans on, 0 if on none.
        lengths: of its frames, in chunk order.
    """

    tensor_id: TensorId
    nbytes: int
    parameters: bytes
    base: int
    lengths: tuple[int, ...]


class SentFile(NamedTuple):
    """How one file is rebuilt: its template by number, its stem, and the numbers of the tensors that fill its slots."""

    file_id: FileId
    size: int
    template: int
    stem: bytes
    tensors: tuple[int, ...]


class SentCommit(NamedTuple):
    """One commit: its canonical bytes, how it comes (`EXACT`, `LOSSY`, `WITHOUT_BYTES`), and what is lossy of it."""

    data: bytes
    mode: int
    lossy: Lossy | None = None

    @property
    def commit_id(self) -> CommitId:
        """Its id."""
        return ids.commit_id(self.data)


class Bundle(NamedTuple):
    """The index.

    Attributes:
        templates: bytes of templates.
        base_files: files that the receiver has.
        base_tensors: those of their tensors that something leans on or is made of.
        tensors: tensors that are sent.
        files: files that can be rebuilt.
        commits: what is sent, parents before children; the last one is what it is all for.
        refs: (full name, place among the commits) of branches and tags.
    """

    templates: tuple[bytes, ...]
    base_files: tuple[BaseFile, ...]
    base_tensors: tuple[BaseTensor, ...]
    tensors: tuple[SentTensor, ...]
    files: tuple[SentFile, ...]
    commits: tuple[SentCommit, ...]
    refs: tuple[tuple[str, int], ...]

    def tensor(self, number: int) -> BaseTensor | SentTensor:
        """Return a tensor by its number."""
        if number <= len(self.base_tensors):
            return self.base_tensors[number - 1]
        return self.tensors[number - len(self.base_tensors) - 1]

    def to_bytes(self) -> bytes:
        """Return its bytes, to be packed."""
        out = wire.Writer()
        out.uint(len(self.templates))
        for template in self.templates:
            out.blob(template)
        out.uint(len(self.base_files))
        for base in self.base_files:
            out.text(base.path)
            out.fixed(base.file_id)
            out.uint(base.size)
            out.uint(base.template)
            out.blob(base.stem)
        out.uint(len(self.base_tensors))
        for given in self.base_tensors:
            out.fixed(given.tensor_id)
            out.uint(given.nbytes)
            out.uint(given.file)
            out.uint(given.slot)
        out.uint(len(self.tensors))
        for tensor in self.tensors:
            out.fixed(tensor.tensor_id)
            out.uint(tensor.nbytes)
            out.blob(tensor.parameters)
            out.uint(tensor.base)
            for length in tensor.lengths:
                out.uint(length)
        out.uint(len(self.files))
        for file in self.files:
            out.fixed(file.file_id)
            out.uint(file.size)
            out.uint(file.template)
            out.blob(file.stem)
            for number in file.tensors:
                out.uint(number)
        out.uint(len(self.commits))
        for commit in self.commits:
            out.blob(commit.data)
            out.uint(commit.mode)
            if commit.lossy is not None:
                commit.lossy.write(out)
                out.float64(commit.lossy.optimizer)
        out.uint(len(self.refs))
        for name, place in self.refs:
            out.text(name)
            out.uint(place)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Read an index and check that everything in it fits.

        Raises:
            WireError: not an index, or one that contradicts itself.
            NewerFormatError: a commit of a later version.
        """
        record = wire.Reader(data)
        templates = tuple(record.blob() for _ in range(record.count()))
        read = [Template.from_bytes(template) for template in templates]
        lengths = [_slot_lengths(template) for template in read]
        base_files = tuple(_read_base_file(record, len(read)) for _ in range(record.count(ids.ID_BYTES + 4)))
        for base in base_files:
            _check_size(read[base.template], base.stem, base.size)
        base_tensors = []
        for _ in range(record.count(ids.ID_BYTES + 3)):
            tensor_id, nbytes = TensorId(record.fixed(ids.ID_BYTES)), record.uint()
            given = BaseTensor(tensor_id, nbytes, record.uint(), record.uint())
            slots = lengths[base_files[given.file].template] if given.file < len(base_files) else []
            if given.slot >= len(slots) or slots[given.slot] != nbytes:
                raise wire.WireError("a bundle takes a tensor from where its base has none")
            base_tensors.append(given)
        sizes = [given.nbytes for given in base_tensors]
        tensors = []
        for _ in range(record.count(ids.ID_BYTES + 3)):
            tensors.append(_read_tensor(record, sizes))
            sizes.append(tensors[-1].nbytes)
        files = tuple(_read_file(record, read, lengths, sizes) for _ in range(record.count(ids.ID_BYTES + 3)))
        known = {file.file_id for file in files}
        commits: dict[CommitId, SentCommit] = {}
        parents: set[CommitId] = set()
        for _ in range(record.count(2)):
            sent = _read_commit(record, known)
            if sent.commit_id in parents or sent.commit_id in commits:
                raise wire.WireError("commits of a bundle are out of order")
            parents.update(Commit.from_bytes(sent.data).parents)
            commits[sent.commit_id] = sent
        if not commits:
            raise wire.WireError("a bundle without a commit")
        names = tuple((record.text(_MAX_TEXT), record.uint(len(commits) - 1)) for _ in range(record.count(2)))
        record.end()
        return cls(templates, base_files, tuple(base_tensors), tuple(tensors), files, tuple(commits.values()), names)


def kept_files(commit: Commit, lossy: Lossy | None) -> Iterator[FileId]:
    """Yield the ids under which a commit's files come: of those that a stand-in was taken for, the stand-in's."""
    stand_ins = dict(lossy.stand_ins) if lossy is not None else {}
    for entry in commit.files:
        yield stand_ins.get(entry.file_id, entry.file_id)


def _slot_lengths(template: Template) -> list[int]:
    lengths = [0] * template.slots
    for segment in template.segments:
        lengths[segment.slot] += segment.length
    return lengths


def _check_size(template: Template, stem: bytes, size: int) -> None:
    written = sum(segment.length for segment in template.segments) + len(template.skeleton)
    written += template.kinds.count(EventKind.STEM) * len(stem) + 4 * len(template.checks)
    if written != size:
        raise wire.WireError(f"a file of a bundle is said to have {size} bytes, its template writes {written}")


def _read_base_file(record: wire.Reader, templates: int) -> BaseFile:
    path, file_id, size = record.text(_MAX_TEXT), FileId(record.fixed(ids.ID_BYTES)), record.uint()
    return BaseFile(path, file_id, size, _template(record, templates), record.blob(_MAX_STEM))


def _template(record: wire.Reader, templates: int) -> int:
    number = record.uint()
    if number >= templates:
        raise wire.WireError(f"template {number} of a bundle with {templates}")
    return number


def _read_tensor(record: wire.Reader, sizes: list[int]) -> SentTensor:
    tensor_id, nbytes, parameters, base = (
        TensorId(record.fixed(ids.ID_BYTES)),
        record.uint(),
        record.blob(),
        record.uint(len(sizes)),
    )
    if base and sizes[base - 1] != nbytes:
        raise wire.WireError(f"a tensor of {nbytes} bytes leans on one of {sizes[base - 1]}")
    chunks = -(-nbytes // CHUNK_BYTES)
    if chunks > record.remaining:
        raise wire.WireError(f"a tensor of {chunks} chunks in a bundle with {record.remaining} bytes left")
    return SentTensor(tensor_id, nbytes, parameters, base, tuple(record.uint() for _ in range(chunks)))


def _read_file(record: wire.Reader, templates: list[Template], lengths: list[list[int]], sizes: list[int]) -> SentFile:
    file_id, size, template = FileId(record.fixed(ids.ID_BYTES)), record.uint(), _template(record, len(templates))
    stem = record.blob(_MAX_STEM)
    _check_size(templates[template], stem, size)
    numbers = []
    for length in lengths[template]:
        number = record.uint(len(sizes))
        if not number or sizes[number - 1] != length:
            raise wire.WireError("a slot of a bundle's file and the tensor for it have different lengths")
        numbers.append(number)
    return SentFile(file_id, size, template, stem, tuple(numbers))


def _read_commit(record: wire.Reader, known: set[FileId]) -> SentCommit:
    data, mode = record.blob(), record.uint(WITHOUT_BYTES)
    lossy = Lossy.read(record)._replace(optimizer=record.float64()) if mode == LOSSY else None
    commit = Commit.from_bytes(data)
    if commit.to_bytes() != data:
        raise wire.WireError("a commit of a bundle is not in its canonical form")
    if mode != WITHOUT_BYTES and not known.issuperset(kept_files(commit, lossy)):
        raise wire.WireError("a bundle lacks a file of one of its commits")
    return SentCommit(data, mode, lossy)
