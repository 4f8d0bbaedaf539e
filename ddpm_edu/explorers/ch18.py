"""Explorers of chapter 18: DDIM."""

from __future__ import annotations

import functools
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..diffusion import GaussianDiffusion
from ..oracles import GaussianMixture, Oracle
from ..routes import grid, integrate, walk_distribution
from ..samplers import ddim
from ..schedules import NoiseSchedule
from .base import Explorer, Frame, Line, Panel, Slider, sig


def ddim_explorer() -> Explorer:
    """Slide the number of steps and η: twelve paths to the two-mode data, and the exact law of what is generated."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear())
    data = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
    oracle = Oracle(data, diffusion)
    starts = torch.special.ndtri((torch.arange(12, dtype=torch.float64) + 0.5) / 12)
    edges = grid(-2.6, 2.4, 101)
    middles = (edges[1:] + edges[:-1]) / 2
    counts, etas = [2, 3, 5, 10, 20, 50], [0.0, 0.25, 0.5, 0.75, 1.0]

    def below(x: Tensor) -> Tensor:
        return (data.weights * torch.special.ndtr((x.unsqueeze(1) - data.means) / data.variances.sqrt())).sum(1)

    def move(x: Tensor, t: int, s: int, eta: float) -> tuple[Tensor, Tensor]:
        q = diffusion.q_ddim(oracle.x_0_moments(x, t)[0], x, t, s, eta)
        return q.mean, q.var

    @functools.cache
    def law(n: int, eta: float) -> tuple[Tensor, float]:
        """Density in the cells, and W_1 to the data."""
        moves = [functools.partial(move, t=t, s=s, eta=eta) for t, s in pairwise(diffusion.schedule.steps(n))]
        x, F = walk_distribution(moves)
        density = np.diff(np.interp(edges, x, F)) / np.diff(edges)
        return torch.as_tensor(density), float(integrate((F - below(x)).abs(), x))

    @functools.cache
    def paths(n: int, eta: float) -> tuple[list[int], Tensor]:
        walk = list(ddim(diffusion, oracle, starts, n, eta, generator=torch.Generator().manual_seed(18)))
        return [int(step.t) for step in walk], torch.stack([step.x_t for step in walk])

    truth = data.log_prob(middles).exp()

    def draw(n: int, eta: float) -> Frame:
        t, x = paths(n, eta)
        density, distance = law(n, eta)
        left = Panel(
            "Twelve paths",
            "Twelve broken lines from t = 1000 on the right to t = 0 on the left. With eta 0 they bend smoothly and never "
            "cross; with eta 1 they jump and cross. Nearly all end near 0.8 or near minus 1.2.",
            (0, 1000),
            (-3, 3),
            [Line(t, path, "vermillion" if float(path[-1]) > -0.3 else "blue", width=1.3) for path in x.T],
            "t (the sampler walks from right to left)",
            "x_t",
        )
        right = Panel(
            "Law of the result",
            "A grey area with two humps, the data's density, and a blue curve, the generated one. With few steps the blue "
            "humps are too narrow and too high, with eta 1 more so than with eta 0; with fifty steps and eta 0 the curve "
            "follows the area.",
            (-2.6, 2.4),
            (0, 3),
            [
                Line(middles, truth, "grey", "data", fill=True),
                Line(middles, density, "blue", "generated"),
            ],
            "x_0",
            "density",
        )
        readout = [("steps", str(n)), ("η", f"{eta:g}"), ("distance to the data, W_1", sig(distance))]
        readout += [("the same with η = 1", sig(law(n, 1.0)[1]))]
        return Frame([left, right], readout)

    return Explorer(
        "ddim",
        [Slider("steps", counts, start=3), Slider("η", etas, format=lambda eta: f"{eta:g}")],
        draw,
        title="DDIM: how many steps, and how much fresh noise",
        caption="The network is the exact one, the same at every position. With many steps every member of the family ends in "
        "the data; with few, the less fresh noise, the nearer the result.",
    )
