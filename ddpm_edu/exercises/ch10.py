"""Graders of Chapter 10: a block's parameters, a later step's embedding, what attention costs, and the count of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from . import Exercise

# 10.1: parameters of a residual block with scale and shift.


def _parameters(a, b, c, *, biases=1, around=None, time=2, norms=None):
    norms = 2 * (a + b) if norms is None else norms
    convolutions = 9 * b * (a + b) + 2 * b * biases
    around = (a * b + b * biases if a != b else 0) if around is None else around
    return norms + convolutions + time * (4 * c * b + b * biases) + around


grade_10_1 = Exercise(
    "10.1",
    inputs=[(128, 128, 128), (128, 256, 128), (96, 32, 32)],
    answer=_parameters,
    slips={
        "that is the block of Eq. (10.20): scale and shift need a number each": lambda a, b, c: _parameters(a, b, c, time=1),
        "no layer has a bias in your count": lambda a, b, c: _parameters(a, b, c, biases=0),
        "the way around has a convolution only where the number of channels changes": (
            lambda a, b, c: _parameters(a, b, c, around=a * b + b)
        ),
        "a way around with another number of channels needs a convolution": lambda a, b, c: _parameters(a, b, c, around=0),
        "the two norms have parameters too": lambda a, b, c: _parameters(a, b, c, norms=0),
        "the first norm acts on what comes in, before the number of channels changes": (
            lambda a, b, c: _parameters(a, b, c, norms=4 * b)
        ),
        "the vector of the time has 4c numbers, not c": lambda a, b, c: _parameters(a, b, c) - 2 * 3 * c * b,
    },
    praise="the time now comes after the norm",
)

# 10.2: the embedding of t + k from that of t.


def _speeds(m: int, shift: int = 1) -> Tensor:
    return 10000.0 ** (-torch.arange(m, dtype=torch.float64) / (m - shift))


def _embedding(t: float, m: int) -> Tensor:
    angle = t * _speeds(m)
    return torch.cat([angle.sin(), angle.cos()])


def _later(e, k, *, shift=1, sign=1, speeds=None):
    m = len(e) // 2
    angle = sign * k * (_speeds(m, shift) if speeds is None else speeds)
    sine, cosine = e[:m], e[m:]
    return torch.cat([sine * angle.cos() + cosine * angle.sin(), cosine * angle.cos() - sine * angle.sin()])


def _interleaved(e, k):
    angle = k * _speeds(len(e) // 2)
    sine, cosine = e[0::2], e[1::2]
    return torch.stack([sine * angle.cos() + cosine * angle.sin(), cosine * angle.cos() - sine * angle.sin()], 1).flatten()


grade_10_2 = Exercise(
    "10.2",
    inputs=[(_embedding(5, 8), 3), (_embedding(700, 4), 250), (_embedding(64, 16), -63)],
    answer=_later,
    slips={
        "you turned the clocks back": lambda e, k: _later(e, k, sign=-1),
        "sine and cosine of one clock stand m places apart, not side by side": _interleaved,
        "embeddings do not add: a clock turns": lambda e, k: e + _embedding(k, len(e) // 2),
        "all your clocks have the same speed": lambda e, k: _later(e, k, speeds=torch.ones(len(e) // 2, dtype=torch.float64)),
        "the slowest clock has speed 1/10000: the exponent ends at 1": lambda e, k: _later(e, k, shift=0),
        "that is the embedding of k itself": lambda e, k: _embedding(k, len(e) // 2),
    },
    praise="without ever knowing t",
)

# 10.3: which share of the work attention has.


def _share(C, s, *, layers=4, tables=2, block=18, n=None):
    n = s * s if n is None else n
    attention = layers * C**2 * n + tables * n**2 * C
    return attention / (block * C**2 * s * s + attention)


grade_10_3 = Exercise(
    "10.3",
    inputs=[(256, 16), (128, 32), (64, 64), (512, 8)],
    answer=_share,
    slips={
        "attention compares pixels, of which there are s², not s": lambda C, s: _share(C, s, n=s),
        "that leaves out the comparing and averaging itself": lambda C, s: _share(C, s, tables=0),
        "pixels are compared, and then averaged: two tables": lambda C, s: _share(C, s, tables=1),
        "that leaves out the layers that make q, k, v and the output": lambda C, s: _share(C, s, layers=0),
        "there is an output layer too, after q, k and v": lambda C, s: _share(C, s, layers=3),
        "the block has two convolutions": lambda C, s: _share(C, s, block=9),
        "that is the ratio to the block; asked is the share of both together": (lambda C, s: _share(C, s) / (1 - _share(C, s))),
    },
    praise="at 256 channels attention overtakes the block beyond 42 × 42",
)

# 10.4: the parameters of a whole network.


def _count(channels, c, multipliers, n, attends, *, up=1, kept_ones=True, middle=True, last_norm=True, time=True):
    def conv(a, b):
        return 9 * a * b + b

    def block(a, b):
        return 9 * b * (a + b) + (4 * c + 5) * b + 2 * a + ((a + 1) * b if a != b else 0)

    def attention(k):
        return (4 * (multipliers[k] * c) ** 2 + 6 * multipliers[k] * c) if attends[k] else 0

    total, width, kept = (20 * c**2 + 8 * c) * time + conv(channels, c), c, [c]
    for k, m in enumerate(multipliers):
        if k:
            total += conv(width, width)
            kept.append(width)
        for _ in range(n):
            total += block(width, m * c) + attention(k)
            width = m * c
            kept.append(width)
    total += 2 * block(width, width) + (4 * width**2 + 6 * width) * middle
    for k, m in reversed(list(enumerate(multipliers))):
        for _ in range(n + up):
            total += block(width + (kept.pop() if kept_ones else 0), m * c) + attention(k)
            width = m * c
        if k:
            total += conv(width, width)
    return total + 2 * width * last_norm + conv(width, channels)


grade_10_4 = Exercise(
    "10.4",
    inputs=[
        (3, 128, [1, 2, 2, 2], 2, [False, True, False, False]),
        (1, 32, [1, 2], 1, [False, True]),
        (1, 16, [1], 3, [False]),
        (3, 64, [1, 2, 4], 1, [False, False, True]),
    ],
    answer=_count,
    slips={
        "as many blocks up as down: there is one more on every level": lambda *a: _count(*a, up=0),
        "nothing is handed across in your network": lambda *a: _count(*a, kept_ones=False),
        "the middle always attends": lambda *a: _count(*a, middle=False),
        "the last norm is missing": lambda *a: _count(*a, last_norm=False),
        "the two layers of the time are missing": lambda *a: _count(*a, time=False),
    },
    praise="35,746,307, and every other network of this kind",
)
