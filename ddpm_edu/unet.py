"""The U-Net that predicts ε from (x_t, t) [Ho 2020, Appendix B]: one block after the other, each on one screen.

Going down, every block's output is kept; going up, each is handed to its mirror image, so fine detail need not pass
through the narrow middle. The step t enters every residual block as a vector that is added to the features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._args import count, number


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """sin(t ω_i), then cos(t ω_i), with ω_i = 10000^(-i/(d-1)), i = 0..d-1, d = dim/2 [Vaswani 2017, Sec. 3.5].

    Slow and fast waves together tell neighbouring steps apart without saying that step 500 is 500 times step 1.
    t (B,) gives shape (B, dim), float32. Raises ValueError for an odd `dim` or one below 4.
    """
    if count(dim, "dim", low=4) % 2:
        raise ValueError(f"dim = {dim} must be even: half sines, half cosines")
    i = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(-math.log(10000) * i / (dim // 2 - 1))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """GroupNorm with the largest fitting number of groups up to `groups`, each of at least four channels.

    A group of one channel would subtract the time embedding, which is constant over the image, and with it all
    knowledge of t.
    """
    fitting = max(g for g in range(1, groups + 1) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(fitting, channels, eps=1e-6)


def zero(layer: nn.Module) -> nn.Module:
    """The layer with weights and bias set to 0: the branch it ends starts as "no change"."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class ResBlock(nn.Module):
    """h + f(h, time): norm, SiLU, conv, add the time, norm, SiLU, dropout, conv (which starts at 0)."""

    def __init__(self, channels: int, out_channels: int, time_dim: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_dim, out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Attention(nn.Module):
    """Every pixel looks at every other: h + W softmax(q kᵀ / √d) v, the output W starting at 0."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each (B, heads, pixels, channels per head)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(B, C, H, W))


class Block(nn.Module):
    """A residual block, followed by attention at the resolutions that have it."""

    def __init__(self, channels: int, out_channels: int, time_dim: int, dropout: float, heads: int):
        super().__init__()
        self.res = ResBlock(channels, out_channels, time_dim, dropout)
        self.attention = Attention(out_channels, heads) if heads else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.res(x, time))


class Downsample(nn.Module):
    """Half the side, by a convolution of stride 2 (padded right and below, as the published networks are)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


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
    the way down (one more on the way up), attention where the image's side is in `attention` and in the middle.
    The defaults are the paper's CIFAR-10 network: 35.7 million parameters. It starts as ε̂ = 0.
    Raises ValueError for a size that cannot be halved often enough, or an input of another shape.
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
    ):
        super().__init__()
        multipliers, attention = [int(m) for m in multipliers], [int(side) for side in attention]
        self.config: dict[str, Any] = dict(
            size=size,
            channels=channels,
            base=base,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            dropout=dropout,
            heads=heads,
        )
        _validate(**self.config)
        time_dim = 4 * base
        self.time = nn.Sequential(nn.Linear(base, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU())
        self.first = nn.Conv2d(channels, base, 3, padding=1)

        self.down, kept, width, side = nn.ModuleList(), [base], base, size
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(Downsample(width))
                kept.append(width)
                side //= 2
            for _ in range(blocks):
                self.down.append(Block(width, base * multiplier, time_dim, dropout, heads if side in attention else 0))
                width = base * multiplier
                kept.append(width)

        self.middle = nn.ModuleList([Block(width, width, time_dim, dropout, h) for h in (heads, 0)])

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                h = heads if side in attention else 0
                self.up.append(Block(width + kept.pop(), base * multiplier, time_dim, dropout, h))
                width = base * multiplier
            if level:
                self.up.append(Upsample(width))
                side *= 2

        self.last = nn.Sequential(group_norm(width), nn.SiLU(), zero(nn.Conv2d(width, channels, 3, padding=1)))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        if x_t.shape[1:] != (self.config["channels"], self.config["size"], self.config["size"]):
            want = "(B, {channels}, {size}, {size})".format(**self.config)
            raise ValueError(f"x_t has shape {tuple(x_t.shape)}; this network takes {want}")
        time = self.time(time_embedding(t, self.config["base"]).to(self.first.weight.dtype))
        h = self.first(x_t)
        kept = [h]
        for block in self.down:
            h = block(h, time)
            kept.append(h)
        for block in self.middle:
            h = block(h, time)
        for block in self.up:
            h = block(h if isinstance(block, Upsample) else torch.cat([h, kept.pop()], dim=1), time)
        return self.last(h)


def _validate(size, channels, base, multipliers, blocks, attention, dropout, heads) -> None:
    count(size, "size"), count(channels, "channels"), count(base, "base", low=4)
    count(blocks, "blocks"), count(heads, "heads")
    number(dropout, "dropout", 0, 1, closed="low")
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers = {multipliers} must be a list of integers >= 1, one per resolution")
    halvings = len(multipliers) - 1
    if size % 2**halvings:
        raise ValueError(f"size = {size} cannot be halved {halvings} time(s), as multipliers = {multipliers} asks for")
    sides = [size >> k for k in range(halvings + 1)]
    if not set(attention) <= set(sides):
        raise ValueError(f"attention = {attention} names a side that does not occur; this network has the sides {sides}")
    if base % 2 or any(base * m % heads for m in multipliers):
        raise ValueError(f"base = {base} must be even and every level's width divisible by heads = {heads}")
