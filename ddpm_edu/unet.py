"""The U-Net that predicts ε from (x_t, t) [Ho 2020, Appendix B]: one block after the other, each on one screen.

Going down, every block's output is kept; going up, each is handed to its mirror image, so fine detail need not pass
through the narrow middle. The step t enters every residual block as a vector that is added to the features; a class, where the
network knows classes, is added to that vector.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._args import as_steps, count, floating, instance, number, whole_numbers


def time_embedding(t: Tensor, dim: int, shift: int = 1) -> Tensor:
    """sin(t ω_i), then cos(t ω_i), with ω_i = 10000^(-i/(d-shift)), i = 0..d-1, d = dim/2 [Vaswani 2017, Sec. 3.5].

    Slow and fast waves together tell neighbouring steps apart without saying that step 500 is 500 times step 1.
    `shift` is 1 in the paper's network and 0 in several later ones. t (B,) gives shape (B, dim), float32. Raises
    ValueError for an odd `dim` or one below 4.
    """
    if count(dim, "dim", low=4) % 2:
        raise ValueError(f"dim = {dim} must be even: half sines, half cosines")
    if instance(t, "t", Tensor).ndim != 1:
        raise ValueError(f"t must have shape (B,), one step for each image; got {tuple(t.shape)}")
    i = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * i / (dim // 2 - shift))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def step_of_each(t: Tensor, x_t: Tensor) -> None:
    """Refuse a t that is not whole steps, one for each entry of x_t."""
    if not isinstance(t, Tensor) or t.is_floating_point() or t.shape != x_t.shape[:1]:
        got = f"{t.dtype} of shape {tuple(t.shape)}" if isinstance(t, Tensor) else f"{type(t).__name__}: {t!r}"
        raise TypeError(f"t must be an int64 tensor of shape ({len(x_t)},), a step for each entry of x_t; got {got}")


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-6) -> nn.GroupNorm:
    """GroupNorm with `groups` groups; by default the largest fitting number up to 32, each of at least four channels.

    A group of one channel would subtract the time embedding, which is constant over the image, and with it all
    knowledge of t.
    """
    if count(channels, "channels") % count(1 if groups is None else groups, "groups"):
        raise ValueError(f"groups = {groups} must divide channels = {channels}")
    if groups is None:
        groups = max(g for g in range(1, 33) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels, eps=eps)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with weights and bias set to 0: the branch it ends starts as "no change"."""
    for p in instance(layer, "layer", nn.Module).parameters():
        nn.init.zeros_(p)
    return layer


Norm = Callable[[int], nn.Module]  # the normalisation of that many channels


class ResBlock(nn.Module):
    """h + f(h, time): norm, SiLU, conv, add the time, norm, SiLU, dropout, conv (which starts at 0).

    With `scale_shift` the time multiplies and shifts what the second norm gives, instead of being added before it.
    """

    def __init__(self, channels: int, out_channels: int, time_dim: int, dropout: float, norm: Norm, scale_shift: bool):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, (1 + scale_shift) * out_channels)
        self.norm2 = norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        time = self.time(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + time)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Every pixel looks at every other: h + W softmax(q kᵀ / √d) v, the output W starting at 0."""

    def __init__(self, channels: int, heads: int, norm: Norm):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, pixels, channels per head)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(B, C, H, W))


class Block(nn.Module):
    """A residual block, followed by attention where `heads` is not 0."""

    def __init__(
        self, channels: int, out_channels: int, time_dim: int, dropout: float, heads: int, norm: Norm, scale_shift: bool
    ):
        super().__init__()
        self.res = ResBlock(channels, out_channels, time_dim, dropout, norm, scale_shift)
        self.attention = Attention(out_channels, heads, norm) if heads else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.res(x, time))


class Downsample(nn.Module):
    """Half the side, by a convolution of stride 2: padded right and below as in the paper's network, or all around."""

    def __init__(self, channels: int, pad_all: bool = False):
        super().__init__()
        self.padding = (1, 1, 1, 1) if pad_all else (0, 1, 0, 1)  # left, right, top, bottom
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Twice the side: every pixel four times, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """ε_θ(x_t, t) for images (B, channels, size, size) and t an int64 tensor (B,) [Ho 2020, Appendix B].

    `base` channels at full resolution, `base * multipliers[k]` after k halvings, `blocks` residual blocks per level on
    the way down (one more on the way up), attention where the image's side is in `attention` and in the middle, with
    `heads` heads (or heads of `head_channels` channels). The defaults are the paper's CIFAR-10 network: 35.7 million
    parameters. It starts as ε̂ = 0; what does not start at 0 is drawn as torch does, where the authors take a uniform law of
    variance 2 / (inputs + outputs).

    `classes` > 0 makes it ε_θ(x_t, t, y): y int64 (B,) in 0..classes-1, or `classes` for "not told", which is also what
    leaving y out means [Ho & Salimans 2022]. `learned_variance` doubles the output to (B, 2·channels, size, size): ε̂,
    then v [Nichol & Dhariwal 2021, Eq. 15]. `checkpointing` keeps only the blocks' inputs for the backward pass and
    computes the rest again: less memory, a third more time.
    `groups`, `norm_eps`, `shift`, `scale_shift`, `pad_all` are what other published networks do differently, and
    (t - 1 + first_t) · t_scale is the number by which they know step t: most count from 0. t is 1..T here all the same;
    imported weights set these (`weights.from_diffusers`, `weights.from_openai`).
    Raises ValueError for a size that cannot be halved often enough, an input of another shape, y without classes or (on the
    CPU) a y that is no class.
    """

    def __init__(
        self,
        size: int = 32,
        channels: int = 3,
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        heads: int = 1,
        classes: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        head_channels: int | None = None,
        groups: int | None = None,
        norm_eps: float = 1e-6,
        shift: int = 1,
        scale_shift: bool = False,
        pad_all: bool = False,
        first_t: int = 1,
        t_scale: float = 1.0,
    ):
        super().__init__()
        multipliers, attention = whole_numbers(multipliers, "multipliers"), whole_numbers(attention, "attention")
        given = dict(locals())
        self.config: dict[str, Any] = {name: given[name] for name in inspect.signature(UNet).parameters}
        _validate(**self.config)
        widths, time_dim = [base * m for m in multipliers], 4 * base
        norm = partial(group_norm, groups=groups, eps=norm_eps)

        def block(channels: int, out_channels: int, attend: bool) -> Block:
            of_all = (out_channels // head_channels) if head_channels else heads
            return Block(channels, out_channels, time_dim, dropout, of_all if attend else 0, norm, scale_shift)

        self.time = nn.Sequential(nn.Linear(base, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.first = nn.Conv2d(channels, base, 3, padding=1)

        self.down, kept, width, side = nn.ModuleList(), [base], base, size
        for level, level_width in enumerate(widths):
            if level:
                self.down.append(Downsample(width, pad_all))
                kept.append(width)
                side //= 2
            for _ in range(blocks):
                self.down.append(block(width, level_width, side in attention))
                width = level_width
                kept.append(width)

        self.middle = nn.ModuleList([block(width, width, attend) for attend in (True, False)])

        self.up = nn.ModuleList()
        for level, level_width in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(block(width + kept.pop(), level_width, side in attention))
                width = level_width
            if level:
                self.up.append(Upsample(width))
                side *= 2

        out_channels = (1 + learned_variance) * channels
        self.last = nn.Sequential(norm(width), nn.SiLU(), zero(nn.Conv2d(width, out_channels, 3, padding=1)))
        self.classes = nn.Embedding(classes + 1, time_dim) if classes else None

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        config = self.config
        if floating(x_t, "x_t").shape[1:] != (config["channels"], config["size"], config["size"]):
            want = "(B, {channels}, {size}, {size})".format(**config)
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}; this network takes {want}")
        step_of_each(t, x_t)
        if y is not None and self.classes is None:
            raise ValueError("y was given to a network without classes: classes = 0")
        if y is not None and y.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere, looking would wait
            y = as_steps(y, config["classes"], "y", low=0)
            if y.shape != t.shape:
                raise ValueError(f"y has shape {tuple(y.shape)}; wanted one class for each image, ({len(x_t)},)")
        known_as = (t + (config["first_t"] - 1)).float() * config["t_scale"]
        time = self.time(time_embedding(known_as, config["base"], config["shift"]).to(self.first.weight.dtype))
        if self.classes is not None:
            time = time + self.classes(torch.full_like(t, config["classes"]) if y is None else y)
        time = F.silu(time)
        device = x_t.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):  # the steps of bfloat16 near ±1 are as large as the noise of x_1
                h = self.first(x_t.to(self.first.weight.dtype)).to(torch.get_autocast_dtype(device))
        else:
            h = self.first(x_t)
        kept = [h]
        for block in self.down:
            h = self._run(block, h, time)
            kept.append(h)
        for block in self.middle:
            h = self._run(block, h, time)
        for block in self.up:
            h = self._run(block, h if isinstance(block, Upsample) else torch.cat([h, kept.pop()], dim=1), time)
        return self.last(h)

    def _run(self, block: nn.Module, h: Tensor, time: Tensor) -> Tensor:
        if self.config["checkpointing"] and torch.is_grad_enabled():
            return checkpoint(block, h, time, use_reentrant=False)
        return block(h, time)


def _validate(
    size, channels, base, multipliers, blocks, attention, dropout, heads, classes, learned_variance, checkpointing,
    head_channels, groups, norm_eps, shift, scale_shift, pad_all, first_t, t_scale
) -> None:  # fmt: skip
    count(size, "size"), count(channels, "channels"), count(base, "base", low=4)
    count(blocks, "blocks"), count(heads, "heads"), count(classes, "classes", low=0), count(shift, "shift", low=0)
    number(dropout, "dropout", 0, 1, closed="low"), number(norm_eps, "norm_eps", 0, 1)
    for name, switch in (
        ("learned_variance", learned_variance),
        ("checkpointing", checkpointing),
        ("scale_shift", scale_shift),
        ("pad_all", pad_all),
    ):
        instance(switch, name, bool)
    count(first_t, "first_t", low=0), number(t_scale, "t_scale", 0, math.inf)
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers = {multipliers} must be a list of integers >= 1, one per resolution")
    halvings = len(multipliers) - 1
    if size % 2**halvings:
        raise ValueError(f"size = {size} cannot be halved {halvings} time(s), as multipliers = {multipliers} asks for")
    sides = [size >> k for k in range(halvings + 1)]
    if not set(attention) <= set(sides):
        raise ValueError(f"attention = {attention} names a side that does not occur; this network has the sides {sides}")
    per_head = heads if head_channels is None else count(head_channels, "head_channels")
    if base % 2 or any(base * m % per_head for m in multipliers):
        asked = f"heads = {heads}" if head_channels is None else f"head_channels = {head_channels}"
        raise ValueError(f"base = {base} must be even and every level's width divisible by {asked}")
    if groups is not None and any(base * m % count(groups, "groups") for m in [1, *multipliers]):
        raise ValueError(f"groups = {groups} must divide the width of every level, base = {base} times {multipliers}")
