"""Which storages a torch pickle refers to, and as what: dtype, shape and name of each.

Works on the symbols of `pickle_symbols` and knows how torch pickles its objects: the `_rebuild_*` functions,
storage classes, parameters and modules. A storage that several tensors share (tied weights, views) is
described by the first that refers to it in the order of the pickle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TypeGuard

from modelvault.checkpoint.layout import MAX_NAME
from modelvault.checkpoint.pickle_symbols import Call, Global, Mapping, PersistentId
from modelvault.tensors import DType

MAX_DEPTH = 200
"""Containers within containers that are followed. Python itself refuses to pickle about 300 levels."""
_MAX_DIMENSIONS = 64

_DTYPES = {
    "bool": DType.BOOL,
    "uint8": DType.U8,
    "int8": DType.I8,
    "uint16": DType.U16,
    "int16": DType.I16,
    "uint32": DType.U32,
    "int32": DType.I32,
    "uint64": DType.U64,
    "int64": DType.I64,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "float32": DType.F32,
    "float64": DType.F64,
    "float8_e4m3fn": DType.F8_E4M3,
    "float8_e5m2": DType.F8_E5M2,
    "float8_e4m3fnuz": DType.F8_E4M3FNUZ,
    "float8_e5m2fnuz": DType.F8_E5M2FNUZ,
    "float8_e8m0fnu": DType.F8_E8M0,
    "float4_e2m1fn_x2": DType.F4X2,
    "complex32": DType.C32,
    "complex64": DType.C64,
    "complex128": DType.C128,
}
_STORAGE_CLASSES = {
    "BoolStorage": DType.BOOL,
    "ByteStorage": DType.U8,
    "CharStorage": DType.I8,
    "ShortStorage": DType.I16,
    "IntStorage": DType.I32,
    "LongStorage": DType.I64,
    "HalfStorage": DType.F16,
    "BFloat16Storage": DType.BF16,
    "FloatStorage": DType.F32,
    "DoubleStorage": DType.F64,
    "ComplexFloatStorage": DType.C64,
    "ComplexDoubleStorage": DType.C128,
    "QInt8Storage": DType.I8,
    "QUInt8Storage": DType.U8,
    "QInt32Storage": DType.I32,
    "QUInt4x2Storage": DType.U8,  # two or four packed values a byte
    "QUInt2x4Storage": DType.U8,
    "UntypedStorage": DType.U8,  # as torch loads it when no tensor says better
}

# All take (storage, offset, sizes, strides, ...).
_REBUILD_TENSOR = frozenset(f"torch._utils._rebuild_{kind}" for kind in ("tensor", "tensor_v2", "tensor_v3", "qtensor"))
_REBUILD_V3 = "torch._utils._rebuild_tensor_v3"  # the seventh argument is the dtype
_REBUILD_QTENSOR = "torch._utils._rebuild_qtensor"  # the fifth is (scheme, scales, zero points, axis)
_REBUILD_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"  # (function, type, arguments, state)
_REBUILD_SPARSE = "torch._utils._rebuild_sparse_tensor"  # (layout, what the layout consists of)
# What the arguments of other functions are called within the object; "" is the object itself.
_ARGUMENT_NAMES = {
    "torch._utils._rebuild_parameter": ("",),
    "torch._utils._rebuild_parameter_with_state": ("",),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": ("",),
    "torch._utils._rebuild_nested_tensor": ("values", "sizes", "strides", "offsets"),
    "torch.jit._pickle.restore_type_tag": ("",),
    "collections.OrderedDict": ("",),
}
_FOLLOWED = (Mapping, Call, PersistentId, list, tuple)


@dataclass(slots=True)
class StorageUse:
    """How a pickle refers to one storage.

    `view` is (offset, sizes, strides) of its first tensor, if any. `unit` is the dtype that the storage's own
    class counts in, which is not always the tensor's; BYTES if the class is not known.
    """

    name: str
    dtype: DType
    view: tuple[int, tuple[int, ...], tuple[int, ...]] | None
    unit: DType = DType.BYTES

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the first tensor's shape if it covers all `length` bytes in order, or a flat one."""
        elements = length // self.dtype.size
        if self.view is not None:
            offset, sizes, strides = self.view
            if offset == 0 and prod(sizes) == elements and _in_order(sizes, strides):
                return sizes
        return (elements,)


def storage_uses(root: object, name: str = "") -> dict[str, StorageUse]:
    """Return how the storages are used, by the key under which the archive holds them.

    Names are the keys on the way to a tensor, joined by dots and after `name`: `optimizer.state.0.exp_avg`.
    """
    uses: dict[str, StorageUse] = {}
    seen: dict[int, object] = {}  # by id; holding the objects keeps the ids theirs
    ways: list[Iterator[tuple[str, object]]] = [iter((("", root),))]
    names = [name]
    while ways:
        step = next(ways[-1], None)
        if step is None:
            ways.pop()
            names.pop()
            continue
        key, value = step
        path = names[-1]
        if key:
            path = f"{path}.{key}"[:MAX_NAME] if path else key[:MAX_NAME]
        if isinstance(value, PersistentId):
            _add(uses, path, value, None, None)
            continue
        if isinstance(value, Call) and value.function_name in _REBUILD_TENSOR:
            _add_tensor(uses, path, value)
            if value.function_name != _REBUILD_QTENSOR:
                continue
        if id(value) not in seen and len(ways) <= MAX_DEPTH:
            seen[id(value)] = value
            ways.append(_children(value))
            names.append(path)
    return uses


def _children(value: object) -> Iterator[tuple[str, object]]:
    """Yield what is worth following within a value, each with its key ("" for what is the value itself)."""
    if isinstance(value, Mapping):
        yield from _pairs(value.pairs)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if isinstance(item, _FOLLOWED):
                yield str(index), item
    elif isinstance(value, Call):
        yield from _parts(value)


def _pairs(pairs: list[tuple[object, object]]) -> Iterator[tuple[str, object]]:
    """Yield the values of a mapping, and its keys where tensors may hide in them."""
    for index, (key, value) in enumerate(pairs):
        if isinstance(key, _FOLLOWED):
            yield f"#{index}", key
        if isinstance(value, _FOLLOWED):
            # An int is checked last: a bool is one too, and either reads well.
            yield key if isinstance(key, str) else str(key) if isinstance(key, int) else f"#{index}", value


def _parts(call: Call) -> Iterator[tuple[str, object]]:
    """Yield what an object is made from."""
    function = call.function_name
    if function == _REBUILD_QTENSOR:
        quantizer = call.argument(4)
        if isinstance(quantizer, tuple) and len(quantizer) > 2:
            yield "scales", quantizer[1]
            yield "zero_points", quantizer[2]
        return
    if function == _REBUILD_FROM_TYPE:
        yield "", Call(call.argument(0), call.argument(2))
        yield "", call.argument(3)
    elif function == _REBUILD_SPARSE:
        parts = call.argument(1)
        if isinstance(parts, tuple) and len(parts) > 2:
            compressed = isinstance(parts[2], Call) and parts[2].function_name in _REBUILD_TENSOR
            of = ("compressed_indices", "plain_indices", "values") if compressed else ("indices", "values")
            yield from zip(of, parts, strict=False)
    elif isinstance(call.args, tuple):
        known = _ARGUMENT_NAMES.get(function, ())
        for index, argument in enumerate(call.args):
            if isinstance(argument, _FOLLOWED):
                yield known[index] if index < len(known) else str(index), argument
    if call.items is not None:
        yield "", call.items
    if call.pairs is not None:
        yield from _pairs(call.pairs)
    yield "", call.state


def _add_tensor(uses: dict[str, StorageUse], name: str, call: Call) -> None:
    """Note the storage of a tensor that the pickle would rebuild."""
    storage, offset, sizes, strides = (call.argument(index) for index in range(4))
    if not isinstance(storage, PersistentId):
        return
    view = None
    if isinstance(offset, int) and _dimensions(sizes) and _dimensions(strides) and len(sizes) == len(strides):
        view = (offset, sizes, strides)
    dtype = None
    if call.function_name == _REBUILD_V3 and isinstance(named := call.argument(6), Global):
        dtype = _DTYPES.get(named.name.removeprefix("torch."))
    _add(uses, name, storage, dtype, view)


def _add(
    uses: dict[str, StorageUse],
    name: str,
    storage: PersistentId,
    dtype: DType | None,
    view: tuple[int, tuple[int, ...], tuple[int, ...]] | None,
) -> None:
    """Note a storage unless it is known; its persistent id is ("storage", class, key, device, elements)."""
    match storage.value:
        case ("storage", kind, str(key), *_) if key not in uses:
            unit = DType.BYTES
            if isinstance(kind, Global):
                unit = _STORAGE_CLASSES.get(kind.name.rpartition(".")[2], DType.BYTES)
            uses[key] = StorageUse(name, dtype or unit, view, unit)


def _dimensions(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether a value is a plausible tuple of sizes or strides."""
    return (
        isinstance(value, tuple)
        and len(value) <= _MAX_DIMENSIONS
        and all(isinstance(size, int) and size >= 0 for size in value)
    )


def _in_order(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a view's elements stand in memory in their own order, without gaps."""
    expected = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
