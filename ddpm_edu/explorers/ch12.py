"""Explorers of chapter 12: sampling."""

from __future__ import annotations

import math

import torch

from ..diffusion import GaussianDiffusion
from ..oracles import GaussianMixture, Oracle
from ..samplers import ancestral
from ..schedules import NoiseSchedule
from .base import Band, Choice, Explorer, Frame, Line, Panel, Points, Slider, sig

DECODINGS = 16


def branching_explorer() -> Explorer:
    """Stop one of three walks at t and finish it 16 times, for data with two modes and T = 100; beside it q(x_0 | x_t).

    The walks and the decodings are `ancestral` with the perfect network and the true variance in every move but the last.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(100, 1e-3, 0.2))
    data = GaussianMixture(weights=[0.3, 0.7], means=[-1.2, 0.8], variances=[0.05, 0.10])
    oracle = Oracle(data, diffusion)
    mean, var = (float(m) for m in data.moments())
    generator = torch.Generator().manual_seed(12)
    x_T = torch.tensor([-1.3, 0.2, 1.1], dtype=torch.float64)
    states = ancestral(diffusion, oracle, x_T, None, oracle.sigma2_optimal, None, generator)
    walks = torch.stack([step.x_t for step in states], 1)
    stops = [100, 80, 70, 60, 50, 40, 30, 20, 10, 5]
    marks = list(range(0, 101, 5))  # the states that are drawn
    u = torch.linspace(-2.2, 2.2, 221, dtype=torch.float64)
    wide = torch.linspace(-7, 7, 1401, dtype=torch.float64)

    def decode(t: int) -> torch.Tensor:
        """The states of all decodings of all walks at the marks up to t, shape (marks, walks, decodings), from t = 0 up."""
        start = walks[:, 100 - t].repeat_interleave(DECODINGS)
        fresh = torch.Generator().manual_seed(1000 + t)
        states = ancestral(diffusion, oracle, start, range(t, -1, -1), oracle.sigma2_optimal, None, fresh)
        return torch.stack([step.x_t.reshape(len(walks), -1) for step in states if step.t in marks]).flip(0)

    def decided(t: int) -> float:
        guess = oracle.x_0_moments(wide, t)[0]
        return float(torch.trapezoid(oracle.log_q(wide, t).exp() * (guess - mean) ** 2, wide)) / var

    shares, decodings = {t: decided(t) for t in stops}, {t: decode(t) for t in stops}

    def draw(walk: int, t: int) -> Frame:
        trunk = walks[walk - 1]  # entry k is the state at t = 100 - k
        x_t = float(trunk[100 - t])
        seen = torch.tensor([x_t], dtype=torch.float64)
        guess, unknown = (float(m) for m in oracle.x_0_moments(seen, t))
        ways = decodings[t][:, walk - 1]
        early = [k for k in marks if k >= t]
        paths = Panel(
            "One walk, stopped at t, and finished 16 times",
            "Paths over t. A dark one comes from the right end, t = 100, and stops at a dot; 16 thin ones go on from there to "
            "t = 0 on the left. Stopped early they spread over both modes; stopped late they stay together and end in one.",
            (0, 100),
            (-2.6, 2.6),
            [
                *(Line(marks[: len(ways)], way, "sky", width=1) for way in ways.T),
                Line(early, [float(trunk[100 - k]) for k in early], "ink", "the walk"),
                Points([0] * DECODINGS, ways[0], "blue", "decodings", radius=3),
                Points(t, x_t, "vermillion", "x_t", radius=5),
            ],
            "t",
            "x_t",
        )
        law = Panel(
            "What is still possible",
            "The density of x_0 given x_t, shaded, over the density of the data, dashed, and the 16 decodings as dots. For "
            "large t the two densities agree and have two humps; then one hump fades, and in the end a narrow peak is left.",
            (-2.2, 2.2),
            (0, 3.4),
            [
                Band(u, 0, oracle.q_s_log_prob(u, seen.expand_as(u), t, 0).exp(), "blue", "q(x_0 | x_t)"),
                Line(u, data.log_prob(u).exp(), "grey", "data", dash=True),
                Points(ways[0], [0.08] * DECODINGS, "blue", "", radius=3),
            ],
            "x_0",
            "density",
            width=330,
        )
        readout = [
            ("t", str(t)),
            ("x_t", f"{x_t:.2f}".replace("-", "−")),
            ("x̂_0", f"{guess:.2f}".replace("-", "−")),
            ("standard deviation of x_0 given x_t", sig(math.sqrt(unknown), 2)),
            ("decided share ρ_t", sig(shares[t], 2)),
        ]
        return Frame([paths, law], readout)

    return Explorer(
        "branching",
        [Choice("walk", [1, 2, 3]), Slider("stop at t", stops, start=4)],
        draw,
        title="One state of a walk, decoded sixteen times, and the law of x_0 given that state",
        caption="The decodings of one state share what is decided at t and nothing else: their correlation over all states is "
        "the decided share.",
    )
