"""Which stored tensors might be a good reference for a new one.

The parent's tensor of the same name in the same file, and the tensor that was last stored anywhere under that name:
other branches, other files, other runs. The last comes from table `latest`, which holds one entry for each name, dtype
and size ever stored and can be thrown away at any time. What these lean on, and what is alike without a name, is for
`bases` to find.
"""

from __future__ import annotations

from collections.abc import Container
from hashlib import blake2b

from modelvault import wire
from modelvault.errors import CorruptError
from modelvault.objects.recipe import Recipe
from modelvault.objects.template import Template
from modelvault.repository.chunks import read_tensor
from modelvault.store.base import ReadTransaction, WriteTransaction
from modelvault.tensors import DType

_WRAPPERS = frozenset(
    {
        "model",
        "module",
        "state_dict",
        "model_state_dict",
        "net",
        "network",
        "weights",
        "params",
        "_orig_mod",
        "ema",
    }
)
"""Leading parts of a name that say how a trainer wrapped the model, not which tensor it is."""

Key = tuple[str, DType, int]


def bare_name(name: str) -> str:
    """Return a tensor's name without what wrapped the model.

    >>> bare_name("model.module.conv1.weight")
    'conv1.weight'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        del parts[0]
    return ".".join(parts)


def slot_keys(template: Template) -> list[Key]:
    """Return (name, dtype, length) of each slot of a template: what makes slots of two files comparable.

    A slot that several segments share is a group; it goes by a name that no tensor has.
    """
    keys: list[Key | None] = [None] * template.slots
    for segment in template.segments:
        known = keys[segment.slot]
        if known is None:
            keys[segment.slot] = (bare_name(segment.name), segment.dtype, segment.length)
        else:
            name = known[0] if known[0].startswith("\0") else "\0" + known[0]
            keys[segment.slot] = (name, segment.dtype, known[2] + segment.length)
    return [key for key in keys if key is not None]


class Candidates:
    """Finds references for the slots of one file.

    Args:
        parent: template and recipe of the parent's file of the same path, or None.
        others: those of the parent's other files.
        avoid: tensors that are about to go, while old commits are rewritten. What was last stored under a name is
            newer than these then, and not looked at.
    """

    def __init__(
        self,
        parent: tuple[Template, Recipe] | None,
        others: list[tuple[Template, Recipe]],
        avoid: Container[int] | None = None,
    ) -> None:
        self._avoid = avoid
        self._known: list[dict[Key, int]] = [
            dict(zip(slot_keys(template), recipe.tensors, strict=True))
            for template, recipe in ([parent] if parent else []) + others
        ]

    def of(self, txn: ReadTransaction, key: Key) -> tuple[int, ...]:
        """Return tensor numbers to try for a slot, the likeliest first, none twice."""
        found: list[int] = []
        for known in self._known:
            if known.get(key):  # 0 where the part was given up
                found.append(known[key])
                break
        if self._avoid is not None:
            found = [number for number in found if number not in self._avoid]
        elsewhere = txn.get("latest", _latest_key(key)) if self._avoid is None else None
        if elsewhere is not None:
            found.append(wire.read_sortable(elsewhere))
        return tuple(number for number in dict.fromkeys(found) if _is_usable(txn, number, key))


def remember(txn: WriteTransaction, template: Template, recipe: Recipe) -> None:
    """Note where each slot's tensor was last stored."""
    for key, number in zip(slot_keys(template), recipe.tensors, strict=True):
        entry, value = _latest_key(key), wire.sortable(number)
        if txn.get("latest", entry) != value:
            txn.put("latest", entry, value)


def _latest_key(key: Key) -> bytes:
    name, dtype, nbytes = key
    text = f"{dtype.code}\0{nbytes}\0{name}".encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=8).digest()


def _is_usable(txn: ReadTransaction, number: int, key: Key) -> bool:
    try:
        return read_tensor(txn, number).nbytes == key[2]
    except CorruptError:
        return False  # dead or damaged: not something to build on
