"""Explorers of chapter 11: training."""

from __future__ import annotations

import torch

from ..training import TrainConfig, ema_decay
from .base import Explorer, Frame, Line, Panel, Slider, sig


def average_explorer() -> Explorer:
    """Slide the decay and the step n: how old is what the average of the weights holds, with the start-up and without."""
    steps = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000]
    decays = [0.9, 0.99, 0.999, 0.9999]
    # The start-up's decays for every n, once.
    config = TrainConfig(ema_decay=decays[-1])
    longest = torch.tensor([ema_decay(config, n) for n in range(steps[-1] + 1)], dtype=torch.float64)

    def draw(d: float, n: int) -> Frame:
        constant = torch.full((n,), d, dtype=torch.float64)
        started = longest[1 : n + 1].clamp(max=d)
        share = torch.linspace(0, 1, min(n, 100) + 1, dtype=torch.float64)
        at = (share * n).round().long()

        def older(of):  # entry k: the share of the average that is from step k or before, the product of all later decays
            return torch.cat([of.flip(0).log().cumsum(0).exp().flip(0), of.new_ones(1)])

        with_start, without = older(started), older(constant)
        panel = Panel(
            "How old is the average?",
            "Two curves over the steps, as shares of the run, from 0 to 1: the share of the average that is as old as that "
            "step or older. With the start-up the curve begins at 0 and rises only in the last part of the run. Without it a "
            "long decay in a short run begins far above 0: that height is the share of the random start.",
            (0, 1),
            (0, 1),
            [
                Line(share, without[at], "vermillion", "constant decay d", dash=True),
                Line(share, with_start[at], "blue", "with the start-up"),
            ],
            "step k, as a share of n",
            "from step k or before",
        )

        def effective(of):
            weights = torch.cat([of[:1], of[1:] - of[:-1]])  # of step 0, 1, …, n
            return 1 / (weights @ weights)

        readout = [
            ("decay d, step n", f"{d}, {n:,}"),
            ("decay in use, start-up", sig(started[-1], 4)),
            ("start left, constant d", sig(without[0])),
            ("start left, start-up", sig(with_start[0])),
            ("mean age, constant d", sig(without[:-1].sum())),
            ("mean age, start-up", sig(with_start[:-1].sum())),
            ("worth fresh steps, start-up", sig(effective(with_start))),
        ]
        return Frame([panel], readout)

    return Explorer(
        "average",
        [
            Slider("decay d", decays, start=3),
            Slider("step n", steps, start=7, format=lambda n: f"{n:,}"),
        ],
        draw,
        title="What the average of the weights remembers",
        caption="Early in a run a long memory is mostly a memory of the random start. The start-up keeps the mean age at a "
        "tenth of the run until the decay d is reached; from then on the two curves approach each other.",
    )
