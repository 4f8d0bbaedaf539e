"""Explorers of chapter 6: the diffusion ELBO."""

from __future__ import annotations

import torch

from ..diffusion import GaussianDiffusion
from ..gaussian import Gaussian
from ..oracles import LinearGaussianChain
from ..schedules import NoiseSchedule
from .base import Bars, Explorer, Frame, Panel, Slider


def diffusion_elbo_explorer() -> Explorer:
    """Bend the reverse step away from the exact one, for N(0, 1) data and T = 10: what the bound and its gap do, step by step.

    The exact reversal has mean √α_t x_t and variance β_t; the sliders multiply the mean and the variance.
    """
    diffusion = GaussianDiffusion(NoiseSchedule.linear(T=10, beta_1=0.1, beta_T=0.5))
    schedule = diffusion.schedule
    # Every term is quadratic in x_0, so its mean over N(0, 1) is its mean over these two, which share the first two moments.
    pair = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    data = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    terms, steps = torch.arange(0, schedule.T + 1), torch.arange(1, schedule.T + 1)

    def model(stretch: float, ratio: float) -> LinearGaussianChain:
        return LinearGaussianChain(diffusion, stretch * schedule.alphas[1:].sqrt(), 0.0, ratio * schedule.betas[1:])

    exact = model(1.0, 1.0).bound_terms(pair).mean(0)

    def draw(ratio: float, stretch: float) -> Frame:
        chain = model(stretch, ratio)
        bound, gap = chain.bound_terms(pair).mean(0), chain.gap_terms(pair).mean(0)
        left = Panel(
            "The bound, term by term",
            "Eleven bars, L_0 to L_T, averaged over the data; wide grey bars behind them show the exact reversal. Away from "
            "it every bar rises above its grey one, except the last: L_T never moves.",
            (-0.7, schedule.T + 0.7),
            (0, 1.3),
            [
                Bars(terms, exact, "grey", "exact reversal", width=0.9),
                Bars(terms, bound, "blue", "L_0, L_1, …, L_T", width=0.55),
            ],
            "k of L_k",
            "nats",
            xticks=[0, 2, 4, 6, 8, 10],
        )
        right = Panel(
            "The gap, step by step",
            "Ten bars, one for each step from 1 to 10. All are zero at the exact reversal and grow away from it, the first "
            "steps most when the variance is too large.",
            (0.3, schedule.T + 0.7),
            (0, 0.5),
            [Bars(steps, gap, "vermillion", "E KL(q(x_t | x_{t-1}) ‖ p(x_t | x_{t-1}))", width=0.55)],
            "step t",
            "nats",
            xticks=[2, 4, 6, 8, 10],
        )
        readout = [
            ("bound L", f"{float(bound.sum()):.3f}"),
            ("entropy of the data", f"{float(data.entropy()):.3f}"),
            ("KL(data ‖ model)", f"{float(data.kl(chain.marginal(0))):.3f}"),
            ("gap", f"{abs(float(gap.sum())):.3f}"),
        ]
        return Frame([left, right], readout)

    return Explorer(
        "diffusion-elbo",
        [
            Slider("variance / β_t", [0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0], 3),
            Slider("mean / (√α_t x_t)", [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2], 4),
        ],
        draw,
        title="The bound and its gap, step by step, as the reverse step leaves the exact one",
        caption="Bound = entropy of the data + KL(data ‖ model) + gap. Training can only lower the last two. Try the variance "
        "at 3 and the mean at 1: the model of the data is not far off, yet the gap is large, because the path back "
        "is noisier than the forward one.",
    )
