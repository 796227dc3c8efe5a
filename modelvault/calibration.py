"""Numbers for a network that are cheap to keep and with which its outputs for some inputs stay what they are.

The measure is the mean KL divergence of the outputs (logits along their last axis) from the original's. Close to the
original it is a quadratic form in what the numbers differ by: half the mean of (g . e)^2, e being the difference and g
the gradient of the outputs along a random direction in which KL has curvature 1. One backward pass an input gives g,
and with it, without any labels,

    of a tensor of two dimensions and more: (g . e)^2 of the very error e that rounding to a step makes of it, for every
    step, so that errors of neighbours that add up are seen to;

    of each number of a smaller tensor: its own g^2. Running statistics of a BatchNorm have no gradient, but shift and
    scale what the norm's bias and weight do, so theirs follows from those.

Bits and KL are then weighed against each other, with one price for all. Each tensor of weights gets the step that comes
cheapest; small ones share a length of mantissas, as they share chunks, and of their numbers those that matter less than
they cost stay where the predecessor's are. The price is the lowest with which the KL, measured, is within what is
allowed.

This is where torch computes. Bounds are the repository's to keep (`repository.proposal`), whatever is proposed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from modelvault.errors import InputError, UsageError
from modelvault.repository.proposal import Proposal, Proposed
from modelvault.repository.stand_in import Rounding, hold, round_weights, step_exponent
from modelvault.tensors import DType

Progress = Callable[[str, int, int], None]

_DTYPES = {
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.float32: DType.F32,
    torch.float64: DType.F64,
}

_STEPS = 10
"""Octaves of steps that a tensor may choose from, from the largest that the bound allows. Within eps 0.1 and 1 % of KL
ShuffleNet's tensors chose steps from 2^-12 to 2^-3."""

_LENGTHS = 18
"""Lengths of mantissas likewise."""

_HELD_BITS, _MOVED_BITS, _EXACT_BITS = 0.3, 3.0, 24.0
"""About what a number costs that stays where the predecessor's is; one that does not, besides how far it goes; an exact
one."""

_BLOCK = 16
"""Numbers that are coded by one width: a single one that goes far makes its neighbours dear."""

_SAMPLED = 1 << 18
"""Numbers of a tensor that its bits are estimated from."""

_TRIALS = 8
"""How often the network is run on all inputs to find the price."""

_MISS = 1.25
"""Of what a price is at least raised by after another miss, when nothing is within the limit yet: 512 times after all
trials. By what the KL says alone, a ShuffleNet was still 5 % over it after eight."""

_CLOSE = 0.9
"""The search ends with a KL between this share of what is allowed and all of it: bytes differ by less than 3 % then."""


def propose(
    model: Any,
    samples: Iterable[Any],
    rounding: Rounding,
    before: Mapping[str, tuple[DType, bytes]],
    max_drop: float,
    progress: Progress = lambda *_: None,
) -> Proposal:
    """Return numbers for a network's tensors.

    Args:
        model: a module, which is not changed. What it returns for a batch are logits, or has them as `logits`.
        samples: batches, each a tensor, a tuple of arguments or a mapping of named ones; inputs along the first axis.
        rounding: the bounds.
        before: dtype and bytes of the predecessor's tensors by the names that the model has for them, as far as known.
        max_drop: 1 - exp(-KL) is at most that.
        progress: told how far it is.

    Raises:
        UsageError: there are no samples, or what is allowed makes no sense.
        InputError: the network gives no finite logits for them.
    """
    if not 0 < max_drop < 1:
        raise UsageError(f"a drop of {max_drop:g} makes no sense", hint="a share such as 0.001 for 0.1 %")
    network = _Network(model, samples)
    with network.evaluating():
        gradients = _Gradients(network, rounding, progress)
        choice = _Choice(network, gradients, rounding, before)
        found, kl = _within(network, choice, -math.log1p(-max_drop), progress)
    tensors = {}
    for name, tensor in network.tensors.items():
        if name in found:
            proposed = Proposed(_bytes(tensor), found[name])
            tensors.update(dict.fromkeys(network.names(name), proposed))
    return Proposal(tensors, f"exp(-KL) of the outputs on {network.inputs} samples", math.exp(-kl), max_drop)


def _within(network: _Network, choice: _Choice, limit: float, progress: Progress) -> tuple[dict[str, bytes], float]:
    """Return the cheapest choice whose measured KL is within a limit, and that; everything exact if none is found.

    Errors of different tensors may add up, which is not foretold: until something is within the limit, each miss is
    taken as a sign that much more is needed than it says.
    """
    price, dear, cheap = choice.price(limit), math.inf, 0.0  # `dear` is known to be within, `cheap` not to be
    best = {name: _bytes(tensor) for name, tensor in network.tensors.items()}, 0.0
    for trial in range(_TRIALS):
        progress("trying", trial, _TRIALS)
        found = choice.tensors(price)
        kl = network.kl(found)
        if kl <= limit:
            best, dear = (found, kl), price
            if kl > _CLOSE * limit:
                break
        else:
            cheap = price
        by = min(max(kl / (0.96 * limit), 1 / 16), 16.0)  # KL falls with 1 / price
        guess = price * (by if dear < math.inf else max(by, _MISS**trial))
        price = guess if cheap < guess < dear else math.sqrt(cheap * dear) if cheap and dear < math.inf else guess
    return best


class _Network:
    """A model with its inputs; it can be run with other numbers than its own."""

    def __init__(self, model: Any, samples: Iterable[Any]) -> None:
        if not isinstance(model, torch.nn.Module):
            raise UsageError(f"a {type(model).__name__} is no torch module", hint="model=net, a torch.nn.Module")
        self.model = model
        self._batches = [_arguments(batch) for batch in samples]
        self._names: dict[Any, list[str]] = {}
        self.tensors: dict[str, Any] = {}
        for name, tensor in model.state_dict().items():
            if tensor.numel():
                same = self._names.setdefault((tensor.data_ptr(), tensor.shape, tensor.dtype), [])
                same.append(name)
                if len(same) == 1:  # tied weights have several names
                    self.tensors[name] = tensor.detach()
        self.inputs = sum(_length(batch) for batch in self._batches)
        if not self.inputs:
            raise UsageError("there are no samples", hint="samples=[inputs], a list of batches")
        self._original: list[Any] = []

    def names(self, name: str) -> list[str]:
        """Return all names of a tensor."""
        tensor = self.tensors[name]
        return self._names[tensor.data_ptr(), tensor.shape, tensor.dtype]

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let the model be in its evaluation mode, and as it was afterwards."""
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            with torch.no_grad():
                self._original = [self.logits(batch, {}) for batch in self._batches]
            if not all(bool(logits.isfinite().all()) for logits in self._original):
                raise InputError("the model gives outputs for the samples that are not finite")
            yield
        finally:
            for module in training:
                module.training = True

    def logits(self, batch: tuple[tuple[Any, ...], dict[str, Any]], tensors: Mapping[str, Any]) -> Any:
        """Return what the model gives for a batch with these tensors in place of its own, (rows, classes)."""
        args, named = batch
        out = torch.func.functional_call(self.model, dict(tensors), args, named)
        out = getattr(out, "logits", out)
        if not isinstance(out, torch.Tensor) or not out.ndim or not out.is_floating_point():
            raise InputError("the model returns no tensor of logits, nor what has one as `logits`")
        return out.reshape(-1, out.shape[-1])

    def singles(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Yield the inputs one by one, each as a batch."""
        for args, named in self._batches:
            for place in range(_length((args, named))):
                one = slice(place, place + 1)
                yield (
                    tuple(value[one] if isinstance(value, torch.Tensor) else value for value in args),
                    {name: value[one] if isinstance(value, torch.Tensor) else value for name, value in named.items()},
                )

    def kl(self, found: Mapping[str, bytes]) -> float:
        """Return the mean KL divergence of the outputs with other numbers from the model's own."""
        tensors = {name: _tensor(raw, self.tensors[name]) for name, raw in found.items()}
        total, rows = 0.0, 0
        with torch.no_grad():
            for batch, original in zip(self._batches, self._original, strict=True):
                p, q = (torch.log_softmax(each.double(), -1) for each in (original, self.logits(batch, tensors)))
                total += float((p.exp() * (p - q)).sum())
                rows += len(p)
        return total / rows if math.isfinite(total) else math.inf


class _Gradients:
    """What one backward pass for each input tells of the quadratic form.

    Attributes:
        steps: for each tensor of weights, the KL that it costs to round it alone, step by step, coarse ones first.
        squares: for each smaller tensor, the mean square of each number's derivative.
    """

    def __init__(self, network: _Network, rounding: Rounding, progress: Progress) -> None:
        trained = dict(network.model.named_parameters())
        leaves = {
            name: tensor.clone().requires_grad_()
            for name, tensor in network.tensors.items()
            if name in trained and tensor.dtype in _DTYPES and rounding.bounds(tensor.ndim)
        }
        errors = {
            name: torch.stack(
                [_tensor(raw, leaf).flatten() - leaf.detach().flatten() for raw in _rounded(leaf, rounding)]
            )
            for name, leaf in leaves.items()
            if leaf.ndim > 1
        }
        self.steps = {name: torch.zeros(len(error), dtype=torch.float64) for name, error in errors.items()}
        self.squares = {
            name: torch.zeros_like(leaf, dtype=torch.float64) for name, leaf in leaves.items() if leaf.ndim < 2
        }
        random = torch.Generator().manual_seed(0)  # the same commit twice is the same
        rows = 0
        for place, single in enumerate(network.singles()):
            progress("calibrating", place, network.inputs)
            logits = network.logits(single, leaves)
            rows += len(logits)
            found = torch.autograd.grad(
                (logits * _direction(logits.detach(), random)).sum(), list(leaves.values()), allow_unused=True
            )
            for name, gradient in zip(leaves, found, strict=True):
                if gradient is None:
                    continue
                if name in errors:
                    self.steps[name] += (errors[name] @ gradient.flatten()).double().cpu() ** 2 / 2
                else:
                    self.squares[name] += gradient.double() ** 2
        for each in (self.steps, self.squares):
            for total in each.values():
                total /= rows
        self._add_statistics(network)

    def _add_statistics(self, network: _Network) -> None:
        for prefix, module in network.model.named_modules():
            name = {
                kind: f"{prefix}.{kind}" if prefix else kind
                for kind in ("weight", "bias", "running_mean", "running_var")
            }
            if not isinstance(module, torch.nn.modules.batchnorm._BatchNorm) or module.running_var is None:
                continue
            if name["weight"] not in self.squares or name["bias"] not in self.squares:
                continue  # without them there is nothing to follow from; its statistics stay exact
            weight = network.tensors[name["weight"]].double()
            variance = network.tensors[name["running_var"]].double() + module.eps
            self.squares[name["running_mean"]] = self.squares[name["bias"]] * weight**2 / variance
            self.squares[name["running_var"]] = self.squares[name["weight"]] * (weight / (2 * variance)) ** 2


class _Length(NamedTuple):
    """All smaller tensors end to end, with mantissas of one length, in binary64.

    Attributes:
        near: each number rounded to the nearest.
        near_kl: the KL that costs.
        moves: how many steps that is from the predecessor's number.
        held: the predecessor's number rounded, where the bounds allow that; elsewhere as `near`.
        held_kl: the KL that costs.
    """

    near: Any
    near_kl: Any
    moves: Any
    held: Any
    held_kl: Any


class _Point(NamedTuple):
    """What the smaller tensors become: numbers in binary64, the KL that they cost, and about how many bits."""

    values: Any
    kl: float
    bits: float


class _Choice:
    """Which numbers are best at some price."""

    def __init__(
        self, network: _Network, gradients: _Gradients, rounding: Rounding, before: Mapping[str, tuple[DType, bytes]]
    ) -> None:
        self._network, self._rounding, self._before = network, rounding, before
        self._steps = {
            name: (self._bits(name), torch.cat([kl, torch.zeros(1, dtype=torch.float64)]))
            for name, kl in gradients.steps.items()
        }
        self._small = [name for name in network.tensors if name in gradients.squares]
        self._lengths = [self._length(gradients.squares, place) for place in range(_LENGTHS if self._small else 0)]
        exact = [network.tensors[name].detach().double().flatten().cpu() for name in self._small]
        values = torch.cat(exact) if exact else torch.zeros(0)
        self._exact = _Point(values, 0.0, _EXACT_BITS * len(values))

    def price(self, limit: float) -> float:
        """Return the lowest price, in bits a unit of KL, at which the KL should be within a limit."""
        low, high = -10.0, 100.0
        while high - low > 0.1:
            middle = (low + high) / 2
            low, high = (low, middle) if self._expected(2.0**middle) <= limit else (middle, high)
        return float(2.0**high)

    def tensors(self, price: float) -> dict[str, bytes]:
        """Return the bytes of all tensors that are not to stay exact."""
        found = {}
        for name, place in self._places(price).items():
            if place < _STEPS:
                tensor = self._network.tensors[name]
                found[name] = round_weights(
                    _bytes(tensor), _DTYPES[tensor.dtype], tensor.ndim, _step(self._rounding, place)
                )
        if self._small:
            sizes = [self._network.tensors[name].numel() for name in self._small]
            for name, part in zip(self._small, self._best(price).values.split(sizes), strict=True):
                found[name] = _bytes(part.to(self._network.tensors[name].dtype))
        return found

    def _expected(self, price: float) -> float:
        places = self._places(price)
        total = sum(float(self._steps[name][1][place]) for name, place in places.items())
        return total + (self._best(price).kl if self._small else 0.0)

    def _places(self, price: float) -> dict[str, int]:
        """Return which step each tensor of weights gets; `_STEPS` is none."""
        return {name: int(torch.argmin(bits + price * kl)) for name, (bits, kl) in self._steps.items()}

    def _best(self, price: float) -> _Point:
        """Return what is best for the smaller tensors: a length, with numbers that are held or without."""
        points = [self._exact, *(point for length in self._lengths for point in _points(length, price))]
        return min(points, key=lambda point: point.bits + price * point.kl)

    def _bits(self, name: str) -> Any:
        """Return about how many bits a tensor of weights takes with each step, and exactly."""
        tensor = self._network.tensors[name]
        every = -(-tensor.numel() // _SAMPLED)
        some = tensor.double().flatten()[::every].cpu()
        before = self._reference(name)
        beside = torch.zeros_like(some)
        if before is not None:
            beside = _tensor(before, tensor).double().flatten()[::every].cpu()
            energy = float(beside @ beside)
            scale = float(some @ beside) / energy if energy else 1.0
            beside = beside * scale if 0.5 < scale < 2 else beside  # weights decay
        bits = []
        for place in range(_STEPS):
            step = 2.0 ** step_exponent(_step(self._rounding, place).eps)
            moved = torch.round(some / step) - torch.round(beside / step)
            shares = torch.unique(moved, return_counts=True)[1].double() / len(moved)
            bits.append(-float((shares * shares.log2()).sum()) * tensor.numel())
        return torch.tensor([*bits, _EXACT_BITS * tensor.numel()], dtype=torch.float64)

    def _length(self, squares: Mapping[str, Any], place: int) -> _Length:
        """Return what the smaller tensors are with a length of mantissas."""
        rounding, length = _shortened(self._rounding, place)
        columns: list[list[Any]] = [[], [], [], [], []]
        for name in self._small:
            tensor = self._network.tensors[name]
            raw, dtype = _bytes(tensor), _DTYPES[tensor.dtype]
            old, price = tensor.double().flatten().cpu(), squares[name].flatten().cpu() / 2
            near = _tensor(round_weights(raw, dtype, 1, rounding), tensor).double().flatten().cpu()
            moves, held = torch.full_like(old, 2.0**length), near
            before = self._reference(name)
            if before is not None:
                point = round_weights(before, dtype, 1, rounding)
                target, free = (
                    _tensor(each, tensor).double().flatten().cpu()
                    for each in (point, hold(raw, point, dtype, 1, self._rounding))
                )
                step = torch.exp2(torch.floor(torch.log2(old.abs())) - length)
                moves = torch.nan_to_num((near - target).abs() / step, 0.0, 0.0)
                held = torch.where(free == target, target, near)
            for column, part in zip(
                columns, (near, price * (near - old) ** 2, moves, held, price * (held - old) ** 2), strict=True
            ):
                column.append(part)
        return _Length(*(torch.cat(column) for column in columns))

    def _reference(self, name: str) -> bytes | None:
        """Return the bytes of the predecessor's tensor, if it is one of the same kind."""
        tensor = self._network.tensors[name]
        for known in self._network.names(name):
            dtype, raw = self._before.get(known, (None, b""))
            if dtype is _DTYPES[tensor.dtype] and len(raw) == tensor.numel() * tensor.element_size():
                return raw
        return None


def _points(length: _Length, price: float) -> Iterator[_Point]:
    """Yield the smaller tensors with a length of mantissas: all numbers moved, and only those that are worth it."""
    moved = 2 * torch.log2(1 + length.moves) + torch.where(length.moves > 0, _MOVED_BITS, 0.0)
    for held in (torch.zeros_like(moved, dtype=torch.bool), price * (length.held_kl - length.near_kl) < moved):
        moves = torch.where(held & (length.held != length.near), 0.0, length.moves)
        blocks = torch.nn.functional.pad(moves, (0, -len(moves) % _BLOCK)).reshape(-1, _BLOCK).mean(1)
        bits = _BLOCK * float((torch.log2(1 + blocks) + _HELD_BITS / (1 + blocks) + 1.5 * (blocks > 0)).sum())
        kl = float(torch.where(held, length.held_kl, length.near_kl).sum())
        yield _Point(torch.where(held, length.held, length.near), kl, bits)


def _direction(logits: Any, random: Any) -> Any:
    """Return a random vector for each row with which gradients have the curvature of KL for their mean square.

    That curvature is diag(p) - p p', the square of diag(u) (1 - u u') with u the root of p.
    """
    u = torch.softmax(logits.double(), -1).sqrt()
    signs = torch.randint(0, 2, u.shape, generator=random).to(u) * 2 - 1
    return (u * (signs - u * (u * signs).sum(-1, keepdim=True))).to(logits.dtype)


def _rounded(tensor: Any, rounding: Rounding) -> Iterator[bytes]:
    """Yield a tensor of weights rounded to each step, the coarsest first."""
    raw = _bytes(tensor)
    for place in range(_STEPS):
        yield round_weights(raw, _DTYPES[tensor.dtype], tensor.ndim, _step(rounding, place))


def _step(rounding: Rounding, place: int) -> Rounding:
    """Return what rounds weights to the step that is so many octaves below the largest one."""
    if not place:
        return rounding
    return replace(rounding, eps=math.expm1(2.0 ** (step_exponent(rounding.eps) - place - 1)) * (1 + 1e-9))


def _shortened(rounding: Rounding, place: int) -> tuple[Rounding, int]:
    """Return what leaves so many bits more of a mantissa than the bound needs, and how many those are."""
    length = max(0, math.ceil(-math.log2(rounding.vectors)) - 1) + place
    return replace(rounding, vectors=min(rounding.vectors, 2.0 ** -(length + 1))), length


def _bytes(tensor: Any) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy())


def _tensor(raw: bytes, like: Any) -> Any:
    """Return bytes as a tensor of the kind of another."""
    return torch.frombuffer(bytearray(raw), dtype=like.dtype).reshape(like.shape).to(like.device)


def _arguments(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)), {}


def _length(batch: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    args, named = batch
    return next((len(value) for value in (*args, *named.values()) if isinstance(value, torch.Tensor)), 0)
