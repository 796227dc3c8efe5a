"""Are storages named and shaped by the tensors that use them, whatever shape the object tree has?"""

from __future__ import annotations

import time

import pytest

from modelvault.checkpoint import torch_objects
from modelvault.checkpoint.layout import MAX_NAME
from modelvault.checkpoint.pickle_symbols import Call, Global, Mapping, PersistentId
from modelvault.checkpoint.torch_objects import StorageUse, storage_uses
from modelvault.tensors import DType


def storage(key: str, kind: str = "FloatStorage") -> PersistentId:
    return PersistentId(("storage", Global("torch", kind), key, "cpu", 6))


def tensor(key: str, sizes: object = (6,), strides: object = (1,), offset: object = 0) -> Call:
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage(key), offset, sizes, strides, False, None))


def names(root: object) -> dict[str, str]:
    return {key: use.name for key, use in storage_uses(root).items()}


def test_names_are_the_keys_on_the_way() -> None:
    root = Mapping(
        [
            ("model", Mapping([("w", tensor("0")), ("list", [tensor("1"), (None, tensor("2"))])])),
            ("optimizer", Mapping([("state", Mapping([(0, Mapping([("exp_avg", tensor("3"))]))]))])),
            ((1, "x"), tensor("4")),
        ]
    )
    assert names(root) == {
        "0": "model.w",
        "1": "model.list.0",
        "2": "model.list.1.1",
        "3": "optimizer.state.0.exp_avg",
        "4": "#2",
    }


def test_wrappers_leave_no_trace_in_names() -> None:
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor("0"), True, None))
    subclass = Call(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        (
            Global("torch._utils", "_rebuild_tensor_v2"),
            Global("my", "Tensor"),
            tensor("1").args,
            Mapping([("extra", tensor("2"))]),
        ),
    )
    module = Call(Global("my", "Module"), (), state=Mapping([("_parameters", Mapping([("w", tensor("3"))]))]))
    ordered = Call(Global("collections", "OrderedDict"), (), pairs=[("k", tensor("4"))])
    root = Mapping([("p", parameter), ("s", subclass), ("m", module), ("o", ordered)])
    assert names(root) == {"0": "p", "1": "s", "2": "s.extra", "3": "m._parameters.w", "4": "o.k"}


def test_the_first_name_wins() -> None:
    shared = tensor("0", (2, 3), (3, 1))
    uses = storage_uses(
        Mapping([("view", tensor("1", (2,), (1,), 4)), ("a", shared), ("b", shared), ("c", tensor("1"))])
    )
    assert {key: (use.name, use.shape(24)) for key, use in uses.items()} == {
        "1": ("view", (6,)),
        "0": ("a", (2, 3)),
    }


@pytest.mark.parametrize(
    ("offset", "sizes", "strides", "shape"),
    [
        (0, (2, 3), (3, 1), (2, 3)),
        (0, (2, 1, 3), (3, 99, 1), (2, 1, 3)),
        (0, (3, 2), (1, 3), (6,)),
        (0, (2, 2), (3, 1), (6,)),
        (1, (2, 3), (3, 1), (6,)),
        (0, (6, 1 << 62), (1, 1), (6,)),
        (0, (2, 3), (3,), (6,)),
        (0, (2, -3), (3, 1), (6,)),
        (0, [2, 3], (3, 1), (6,)),
        ("0", (2, 3), (3, 1), (6,)),
        (0, (1,) * 65 + (6,), (1,) * 66, (6,)),
    ],
)
def test_a_shape_counts_only_if_it_covers_the_storage(
    offset: object, sizes: object, strides: object, shape: tuple[int, ...]
) -> None:
    assert storage_uses(tensor("0", sizes, strides, offset))["0"].shape(24) == shape


def test_a_scalar_has_no_dimensions() -> None:
    assert storage_uses(tensor("0", (), ()))["0"].shape(4) == ()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("HalfStorage", DType.F16),
        ("UntypedStorage", DType.U8),
        ("cuda.FloatStorage", DType.F32),
        ("X", DType.BYTES),
    ],
)
def test_dtypes_come_from_storage_classes(kind: str, dtype: DType) -> None:
    assert storage_uses([storage("0", kind)]) == {"0": StorageUse("0", dtype, None, dtype)}


def test_version_3_names_its_dtype() -> None:
    args = (storage("0", "UntypedStorage"), 0, (3,), (1,), False, None, Global("torch", "uint16"))
    assert storage_uses(Call(Global("torch._utils", "_rebuild_tensor_v3"), args))["0"].dtype is DType.U16


@pytest.mark.parametrize(
    "odd",
    [
        None,
        "text",
        PersistentId(None),
        PersistentId(("storage",)),
        PersistentId(("storage", 1, 2, 3, 4)),
        PersistentId(("module", Global("torch", "FloatStorage"), "0", "cpu", 1)),
        Call(Global("torch._utils", "_rebuild_tensor_v2"), None),
        Call(Global("torch._utils", "_rebuild_tensor_v2"), ()),
        Call(Global("torch._utils", "_rebuild_qtensor"), (1, 2, 3, 4, 5)),
        Call(Global("torch._utils", "_rebuild_sparse_tensor"), (None, (1, 2))),
        Call(Global("torch._tensor", "_rebuild_from_type_v2"), ()),
        Call("no function", ["list"], items=[None], pairs=[(None, None)]),
    ],
    ids=repr,
)
def test_what_is_not_as_torch_writes_it_is_passed_over(odd: object) -> None:
    assert storage_uses(odd) == {}


def test_cycles_end() -> None:
    loop: list[object] = [tensor("0")]
    loop += [loop, Mapping([("again", loop)])]
    assert names(loop) == {"0": "0"}


def test_shared_containers_are_visited_once() -> None:
    """Thirty lists that each hold the next one twice are 2**30 ways to one tensor."""
    value: object = [tensor("0")]
    for _ in range(30):
        value = [value, value]
    start = time.process_time()
    assert len(storage_uses(value)) == 1
    assert time.process_time() - start < 1


@pytest.mark.parametrize(("levels", "found"), [(torch_objects.MAX_DEPTH, 1), (torch_objects.MAX_DEPTH + 1, 0)])
def test_depth_and_names_are_bounded(levels: int, found: int) -> None:
    value: object = tensor("0")
    for _ in range(levels):
        value = Mapping([("key" * 1000, value)])
    uses = storage_uses(value)
    assert len(uses) == found
    assert all(len(use.name) == MAX_NAME for use in uses.values())


def test_a_million_levels_are_no_recursion() -> None:
    value: object = tensor("0")
    for _ in range(1_000_000):
        value = [value]
    assert storage_uses(value) == {}
