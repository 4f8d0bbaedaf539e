"""Explorers of chapter 21: guidance."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..diffusion import GaussianDiffusion
from ..guidance import guided
from ..oracles import ClassOracle, GaussianMixture
from ..routes import grid, integrate, walk_density
from ..schedules import NoiseSchedule
from .base import Choice, Explorer, Frame, Line, Panel, Slider, sig


def guidance_explorer(steps: int = 20) -> Explorer:
    """Slide the guidance scale, choose the sampler: its law on a line beside p(x | y) and the tilted density."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear())
    data = GaussianMixture([0.25] * 4, [-1.3, -0.35, 0.35, 1.3], [0.08] * 4)
    oracle = ClassOracle(data, diffusion, torch.tensor([0, 0, 1, 1]))
    visited = diffusion.schedule.steps(steps)
    scales = [0.0, 1.0, 1.5, 2.0, 3.0, 5.0]
    names = ["ancestral", "DDIM"]
    u = grid(-6, 6, 2401)
    shown = slice(500, 2101, 10)  # from -3.5 to 4.5

    def model(scale: float):
        return lambda x, t: guided(oracle, torch.ones(len(x), dtype=torch.int64), scale)(x, t)

    def tilted(scale: float) -> Tensor:
        log_p = data.log_prob(u) + scale * oracle.log_prob_y(u, 0)[:, 1] if scale else data.log_prob(u)
        p = torch.exp(log_p - log_p.max())
        return p / integrate(p, u)

    def ancestral_law(scale: float) -> tuple[Tensor, Tensor]:
        """Places and the density that is carried to them."""

        def move(t: int, s: int):
            def reverse(x: Tensor) -> tuple[Tensor, Tensor]:
                p, _ = diffusion.p_mean_variance(model(scale), x, t, s)
                return p.mean, p.var + 0 * x

            return reverse

        *moves, last = [move(t, s) for t, s in pairwise(visited)]
        x, p = walk_density(moves)
        places = last(x)[0]
        return places, p / torch.gradient(places, spacing=(x,))[0]

    def ddim_law(scale: float) -> tuple[Tensor, Tensor]:
        x_T = x = grid(-6, 6, 2001)
        for t, s in pairwise(visited):
            _, x_0_hat = diffusion.p_mean_variance(model(scale), x, t, s)
            x = diffusion.q_ddim(x_0_hat, x, t, s).mean
        bell = torch.exp(-0.5 * x_T**2) / (2 * torch.pi) ** 0.5
        return x, bell / torch.gradient(x, spacing=(x_T,))[0]

    def on_grid(places: Tensor, p: Tensor) -> Tensor:
        k = torch.searchsorted(places, u).clamp(1, len(places) - 1)
        share = (u - places[k - 1]) / (places[k] - places[k - 1])
        inside = (u > places[0]) & (u < places[-1])
        return torch.where(inside, p[k - 1] + share * (p[k] - p[k - 1]), torch.zeros_like(u))

    laws = {
        (scale, name): on_grid(*(ancestral_law if name == "ancestral" else ddim_law)(scale))
        for scale in scales
        for name in names
    }
    tilts = {scale: tilted(scale) for scale in scales}
    told = tilts[1.0]
    middle = u < (0.35 + 1.3) / 2

    def inner(p: Tensor) -> float:
        """The share below the middle between the two humps of the class."""
        return float(integrate(p * middle, u))

    def draw(scale: float, name: str) -> Frame:
        law, tilt = laws[scale, name], tilts[scale]
        panel = Panel(
            "Three laws on a line",
            "Three densities. Grey, of the class told: two equal humps at 0.35 and 1.3. Green, tilted: as the scale grows its "
            "left hump gets a little lower than its right one. Blue, what the sampler generates: on the grey one at scale 1; "
            "above it the left hump is soon gone and the right one moves outwards, with DDIM sooner and further.",
            (-3.5, 4.5),
            (0, 2.2),
            [
                Line(u[shown], told[shown], "grey", "p(x | y)", dash=True),
                Line(u[shown], tilt[shown], "green", "tilted: p(x) p(y | x)^γ"),
                Line(u[shown], law[shown].clamp(max=2.2), "blue", "what is sampled", fill=True),
            ],
            "x_0",
            "density",
        )
        readout = [("scale γ", f"{scale:g}")]
        readout += [
            (f"{what}, {who}", sig(round(float(of(p)), 9) + 0.0))  # the mean at scale 0 is 0, not rounding
            for what, of in (("mean", lambda p: integrate(p * u, u)), ("inner share", inner))
            for who, p in (("tilted", tilt), ("sampled", law))
        ]
        return Frame([panel], readout)

    return Explorer(
        "guidance",
        [
            Slider("guidance scale γ", scales, start=1, format=lambda g: f"{g:g}"),
            Choice("sampler", names),
        ],
        draw,
        title="What guidance samples, and what it is said to sample",
        caption=f"Perfect networks and {steps} steps. “Inner share”: what lies left of the middle between the class's two "
        "humps; in the class itself it is a half.",
    )
