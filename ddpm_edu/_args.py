"""Refuse what cannot be honoured, in words: the argument's name, its value, and what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def as_steps(t, T: int, name: str = "t", low: int = 1) -> Tensor:
    """Time steps as an int64 tensor on the CPU (0-dim for one step, (B,) for a batch), each in low..T.

    The tables of a schedule live on the CPU in float64, on every machine; so do the indices into them.
    Negative numbers would silently wrap in a table, hence the range check at every call.
    """
    if isinstance(t, bool) or not isinstance(t, (int, Tensor)):
        raise TypeError(f"{name} must be an int or an integer tensor, got {type(t).__name__}: {t!r}")
    if isinstance(t, int) and not low <= t <= T:
        raise ValueError(f"{name} = {t} is outside {low}..{T}")
    steps = torch.as_tensor(t)
    if steps.dtype == torch.bool or steps.is_floating_point() or steps.is_complex():
        raise TypeError(f"{name} must hold integers {low}..{T}, got a tensor of dtype {steps.dtype}")
    if steps.ndim > 1:
        raise ValueError(f"{name} must be one step or one step per batch entry, shape (B,); got shape {tuple(steps.shape)}")
    steps = _valued(steps, name).to("cpu", torch.int64)
    if steps.numel() and not (low <= int(steps.min()) and int(steps.max()) <= T):
        seen = int(steps) if steps.ndim == 0 else f"values from {int(steps.min())} to {int(steps.max())}"
        raise ValueError(f"{name} = {seen} is outside {low}..{T}")
    return steps


def whole_numbers(values: Iterable, name: str) -> list[int]:
    """A list of ints, from anything that holds whole numbers (2.0 is none, and neither is a string)."""
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(f"{name} must be an int or a list of ints, got {type(values).__name__}: {values!r}") from None


def floating(x, name: str) -> Tensor:
    """`x` if it is a floating tensor; its values are not looked at."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; diffusion works on floating values, images scaled to [-1, 1]")
    return x


class NotFinite(ValueError):
    """A tensor holds NaN or infinity: bad data, or a network that has diverged."""


def real(x, name: str) -> Tensor:
    """`x` if it is a floating tensor without NaN or infinity, else an error that names it.

    On an accelerator the values are not looked at: the check would wait for the device at every call. The training
    loop watches its loss instead.
    """
    floating(_valued(x, name), name)
    # A NaN or an infinity survives in the sum, which is five times cheaper than asking every value; a sum that overflows asks.
    if x.device.type == "cpu" and not math.isfinite(x.detach().sum().item()) and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise NotFinite(f"{name} holds {bad} value(s) that are NaN or infinite (shape {tuple(x.shape)}); all must be finite")
    return x


def start(x, name: str, **called: Callable | None) -> Tensor:
    """`x` if a sampler can start from it, (B, ...), and if what it will call later is None or can be called."""
    if real(x, name).ndim < 1:
        raise ValueError(f"{name} must have a batch axis, got a 0-dim tensor")
    for what, function in called.items():
        if not (callable(function) or (function is None and what == "sigma2")):
            raise TypeError(f"{what} must be a function, got {type(function).__name__}: {function!r}")
    return x


def instance(value, name: str, *kinds: type):
    """`value` if it is of one of the kinds, else a TypeError that names it."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be a {wanted}, got {type(value).__name__}: {value!r:.100}")
    return value


def numbers(value, name: str, like: Tensor | None = None) -> Tensor:
    """A number, or numbers, as a tensor: in float64, or in the dtype and on the device of `like`."""
    dtype, device = (torch.float64, None) if like is None else (like.dtype, like.device)
    try:
        return torch.as_tensor(value, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, a list of numbers or a tensor, got {value!r:.100}") from None


def finite(value, name: str, like: Tensor | None = None) -> Tensor:
    """`numbers`, without NaN or infinity."""
    return real(numbers(value, name, like), name)


def device_of(name) -> torch.device:
    """The torch device of that name."""
    try:
        return torch.device(instance(name, "device", str, torch.device))
    except RuntimeError:
        raise ValueError(f"device = {name!r} is not a device; cpu, cuda, cuda:0, mps … are") from None


def common_shape(**tensors: Tensor) -> torch.Size:
    """The shape that the named tensors broadcast to, or an error that names them all."""
    try:
        return torch.broadcast_shapes(*(x.shape for x in tensors.values()))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"shapes do not broadcast: {shapes}") from None


def _valued(x, name: str):
    if isinstance(x, Tensor) and x.is_meta:
        raise ValueError(f"{name} is a tensor on the device meta, of shape {tuple(x.shape)}: it has no values; use cpu or cuda")
    return x


def number(value, name: str, low: float, high: float, *, closed: str = "") -> float:
    """A finite float inside (low, high); `closed` names the ends that are allowed too: "low", "high" or both."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}")
    above = value >= low if "low" in closed else value > low
    below = value <= high if "high" in closed else value < high
    if not (above and below):
        left, right = "[" if "low" in closed else "(", "]" if "high" in closed else ")"
        raise ValueError(f"{name} = {value} is outside {left}{low}, {high}{right}")
    return float(value)


def count(value, name: str, low: int = 1) -> int:
    """An int of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}: {value!r}")
    if value < low:
        raise ValueError(f"{name} = {value} is too small; it must be at least {low}")
    return value
