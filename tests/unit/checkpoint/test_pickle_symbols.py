"""Does reading a pickle as data see what unpickling would, without doing what it would do?"""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.checkpoint import pickle_symbols
from modelvault.checkpoint.pickle_symbols import (
    OPAQUE,
    Call,
    Global,
    Mapping,
    PersistentId,
    PickleError,
    read_pickle,
)

TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text() | st.floats() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=30,
)  # fmt: skip


def symbolic(value: object) -> object:
    """What the reader makes of a plain value (as nested tuples with tags, which compare by value)."""
    match value:
        case None | bool():
            return value
        case int():
            return value if value.bit_length() < 64 else "big"
        case str():
            return value
        case list():
            return ["list", *map(symbolic, value)]
        case tuple():
            return ("tuple", *map(symbolic, value))
        case dict():
            return ["dict", *((symbolic(k), symbolic(v)) for k, v in value.items())]
        case Mapping():
            return ["dict", *((symbolic(k), symbolic(v)) for k, v in value.pairs)]
    return "opaque"


def without_big(value: object) -> object:
    """Integers of more than 64 bits may come as themselves or as OPAQUE, by how they were spelled."""
    if isinstance(value, list):
        return [without_big(item) for item in value]
    if isinstance(value, tuple):
        return tuple(without_big(item) for item in value)
    return "opaque" if value == "big" else value


@given(TREES, st.sampled_from([3, 4, 5]))  # earlier ones spell bytes as a call
def test_plain_values_are_read_as_they_are(value: object, protocol: int) -> None:
    seen = read_pickle(pickle.dumps(value, protocol))
    assert without_big(symbolic(seen)) == without_big(symbolic(value))


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_spells_the_same(protocol: int) -> None:
    value = {
        "a": [1, -5, 70_000, 1 << 40, -(1 << 60)],
        "b": (True, False, None, "ü\n'"),
        3: ((), (1,), (1, 2, 3, 4)),
    }
    assert symbolic(read_pickle(pickle.dumps(value, protocol))) == symbolic(value)


def test_the_opcode_table_is_complete() -> None:
    assert set(pickle_symbols._OPCODES) | {ord(".")} == {ord(op.code) for op in pickletools.opcodes}


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda op: op.name)
def test_each_opcode_takes_the_bytes_it_should(opcode: pickletools.OpcodeInfo) -> None:
    # Three values and a mark below, so that every opcode finds what it takes off the stack.
    argument = b""
    if opcode.arg is not None:
        n = opcode.arg.n
        argument = {
            pickletools.UP_TO_NEWLINE: b"a\nb\n" if opcode.name in ("GLOBAL", "INST") else b"5\n",
            pickletools.TAKEN_FROM_ARGUMENT1: b"\x02ab",
            pickletools.TAKEN_FROM_ARGUMENT4: b"\x02\0\0\0ab",
            pickletools.TAKEN_FROM_ARGUMENT4U: b"\x02\0\0\0ab",
            pickletools.TAKEN_FROM_ARGUMENT8U: b"\x02\0\0\0\0\0\0\0ab",
        }.get(n, b"\x05" + bytes(n - 1) if n > 0 else b"")
    machine = pickle_symbols._Machine(argument)
    machine.stack = [Mapping(), [], "a", "b"]
    machine.outer = [[[], "below"]]
    machine.memo = {5: "kept"}
    if opcode.name != "STOP":
        pickle_symbols._OPCODES[ord(opcode.code)](machine)
        assert machine.at == len(argument)


def test_objects_become_symbols() -> None:
    data = b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R}X\x01\0\0\0kK\x01sb."
    call = read_pickle(data)
    assert isinstance(call, Call)
    assert call.function_name == "os.system"
    assert call.args == ("true",)
    assert isinstance(call.state, Mapping)
    assert call.state.pairs == [("k", 1)]


def test_persistent_ids_are_kept() -> None:
    by_value = read_pickle(b"\x80\x02X\x01\0\0\0a\x85Q.")
    by_line = read_pickle(b"Pkey\n.")
    assert isinstance(by_value, PersistentId)
    assert by_value.value == ("a",)
    assert isinstance(by_line, PersistentId)
    assert by_line.value == "key"


def test_items_and_keys_of_objects_are_kept() -> None:
    call = read_pickle(b"cm\nf\n)R(K\x01K\x02e(K\x03K\x04u.")
    assert isinstance(call, Call)
    assert (call.items, call.pairs) == ([1, 2], [(3, 4)])


@pytest.mark.parametrize(
    "attack",
    [
        b"cos\nsystem\n(S'touch %s'\ntR.",
        b"(S'touch %s'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch %s'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93(S'touch %s'\nt\x81.",
        b"\x80\x04cposix\nsystem\n(S'touch %s'\nt}\x92.",
        b"c__builtin__\nexec\n(S'import os; os.system(\"touch %s\")'\ntR.",
    ],
)
def test_nothing_is_ever_run(attack: bytes, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    read_pickle(attack.replace(b"%s", os.fsencode(victim)))
    assert not victim.exists()


def test_modules_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mv_trap.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    trap = read_pickle(b"cmv_trap\nname\n.")
    assert isinstance(trap, Global)
    assert trap.name == "mv_trap.name"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"N",
        b".",
        b"\x80",
        b"\xff.",
        b"0.",
        b"t.",
        b"\x86.",
        b"N\x86.",
        b"h\x05.",
        b"g7\n.",
        b"gx\n.",
        b"px\n.",
        b"J\x01.",
        b"cos\nsystem",
        b"X\xff\xff\xff\xffabc.",
        b"T\xff\xff\xff\xffabc.",
        b"\x8b\xff\xff\xff\xff.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"B\xff\xff\xff\x7f.",
        b"]a.",
        b"(K\x01u.",
    ],
    ids=repr,
)
def test_damaged_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(PickleError):
        read_pickle(data)


def test_every_truncation_is_refused() -> None:
    data = pickle.dumps({"a": [1, 2.5, "x" * 300, (None, True)], "b": 1 << 80}, 2)
    for length in range(len(data)):
        with pytest.raises(PickleError):
            read_pickle(data[:length])


def test_long_strings_and_integers_are_opaque() -> None:
    assert read_pickle(pickle.dumps("x" * 10_000)) is OPAQUE
    assert read_pickle(pickle.dumps(1 << 10_000)) is OPAQUE
    assert read_pickle(b"I" + b"9" * 5000 + b"\n.") is OPAQUE


def deep(levels: int) -> dict[str, bytes]:
    """Pickles that nest `levels` deep, in each way there is."""
    return {
        "list": b"]" * levels + b"a" * (levels - 1) + b".",
        "tuple": b")" + b"\x85" * levels + b".",
        "dict": b"}K\x01" * levels + b"N" + b"s" * levels + b".",
        "call": b"cm\nf\n" + b"K\x01R" * levels + b".",
        "mark": b"(" * levels + b"t" * levels + b".",
        "key": b"}" + b")" + b"\x85" * levels + b"Ns.",
        "persistent": b"N" + b"Q" * levels + b".",
        "state": b"cm\nf\n)R" * levels + b"b" * (levels - 1) + b".",
    }


@pytest.mark.parametrize("kind", deep(1))
def test_nesting_costs_no_stack(kind: str) -> None:
    """Reading it, and letting go of it, must not recurse."""
    value = read_pickle(deep(300_000)[kind])
    del value  # a crash, if it recursed


def test_self_references_are_read() -> None:
    value = read_pickle(b"]q\x00h\x00a.")
    assert isinstance(value, list)
    assert value[0] is value


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_symbols, "MAX_OPCODES", 100)
    assert read_pickle(b"]" * 99 + b".") == []
    with pytest.raises(PickleError, match="more than 100 opcodes"):
        read_pickle(b"]" * 100 + b".")
