"""Templates kept and found: each file leans on one template, at most by a patch (a star, never a chain)."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from modelvault import codec, wire
from modelvault.errors import CorruptError
from modelvault.objects import template as template_module
from modelvault.objects.recipe import Recipe
from modelvault.objects.template import Template
from modelvault.store.base import MAX_VALUE_BYTES, ReadTransaction, WriteTransaction

_PATCH_SHARE = 4
"""A patch longer than one in so many bytes of the packed template is not worth leaning on it: the next file of this
shape would pay for it again. ShuffleNet: template 9.8 KB packed, patch under 60 bytes."""


class Shape(NamedTuple):
    """What a recipe needs of the template side.

    Attributes:
        number: the template it leans on, or 0 if it brings a new one.
        patch: what turns that template into its own, b"" if nothing.
        packed: the new template's value, or b"".
        key: where table `latest` remembers the newest template of this shape.
    """

    number: int
    patch: bytes
    packed: bytes
    key: bytes


def read_template_bytes(txn: ReadTransaction, number: int) -> bytes:
    """Return a template's bytes, unpacked.

    Raises:
        CorruptError: it is missing or damaged.
    """
    data = txn.get("templates", wire.sortable(number))
    if data is None:
        raise CorruptError(f"template {number} is missing", hint="run modelvault fsck")
    try:
        packed = wire.unseal(data, template_module.KIND, template_module.VERSION)
        return codec.unpack(packed, MAX_VALUE_BYTES)
    except CorruptError as error:
        raise CorruptError(f"template {number} is damaged: {error}", hint="run modelvault fsck") from None


def load_template(txn: ReadTransaction, recipe: Recipe) -> Template:
    """Return the template of one file: the one its recipe leans on, patched, and checked against the recipe.

    Raises:
        CorruptError: it is missing or damaged, or does not fit the recipe.
    """
    data = read_template_bytes(txn, recipe.template)
    if recipe.patch:
        data = codec.unpack(recipe.patch, MAX_VALUE_BYTES, data)
    template = Template.from_bytes(data)
    if template.slots != len(recipe.tensors):
        raise CorruptError(
            f"template {recipe.template} has {template.slots} slots, its recipe {len(recipe.tensors)} tensors",
            hint="run modelvault fsck",
        )
    return template


def shape_of(txn: ReadTransaction, template: Template, parent: Recipe | None) -> Shape:
    """Find a template to lean on: the last one stored with these tensors, or the parent's."""
    data = template.to_bytes()
    key = _shape_key(template)
    known = txn.get("latest", key)
    numbers = [wire.read_sortable(known)] if known is not None else []
    if parent is not None:
        numbers.append(parent.template)
    for number in dict.fromkeys(numbers):
        stored = txn.view("templates", wire.sortable(number))
        if stored is None:
            continue
        limit = len(stored) // _PATCH_SHARE
        del stored
        try:
            base = read_template_bytes(txn, number)
        except CorruptError:
            continue  # damaged: not something to build on
        if base == data:
            return Shape(number, b"", b"", key)
        patch = codec.pack(data, base)
        if len(patch) <= limit and codec.unpack(patch, MAX_VALUE_BYTES, base) == data:
            return Shape(number, patch, b"", key)
    packed = codec.pack(data)
    if codec.unpack(packed, MAX_VALUE_BYTES) != data:
        raise CorruptError("a file's skeleton did not survive packing; nothing was committed")
    return Shape(0, b"", wire.seal(template_module.KIND, template_module.VERSION, packed), key)


def place(txn: WriteTransaction, shape: Shape, number: int) -> None:
    """Store a new template under a number of its own."""
    txn.put("templates", wire.sortable(number), shape.packed)
    txn.put("latest", shape.key, wire.sortable(number))


def _shape_key(template: Template) -> bytes:
    """Return a key under which files with the same tensors in the same order meet."""
    digest = blake2b(digest_size=8)
    digest.update(repr((template.format, template.kinds)).encode())
    for segment in template.segments:
        digest.update(repr((segment.length, segment.slot, segment.dtype.code, segment.name)).encode())
    return b"T" + digest.digest()
