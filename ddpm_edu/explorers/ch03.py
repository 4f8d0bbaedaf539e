"""Explorers of chapter 3: the bound and its gap."""

from __future__ import annotations

import torch

from ..gaussian import Gaussian
from ..latent import LinearGaussianModel, effective_share
from .base import Bars, Explorer, Frame, Line, Panel, Slider, sig


def elbo_explorer() -> Explorer:
    """Slide q's mean and width: the gap is its distance to the posterior; for z ~ N(0, 1), x = 2z + noise, x = 2.5."""
    zero, one, x = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0, 2.5))
    model = LinearGaussianModel(Gaussian(zero, one), slope=2.0, noise_var=1.0)
    posterior, log_p = model.posterior(x), float(model.log_prob(x))
    z = torch.linspace(-4, 4, 321, dtype=torch.float64)
    widths = {"¼": 1 / 16, "⅓": 1 / 9, "½": 1 / 4, "1/√2": 1 / 2, "0.8": 0.64, "1": 1, "1.5": 2.25, "2": 4, "√5": 5, "3": 9}

    def draw(mean: float, width: str) -> Frame:
        q = Gaussian(torch.tensor(mean, dtype=torch.float64), posterior.var * widths[width])
        elbo, gap, share = float(model.elbo(x, q)), float(model.gap(x, q)), float(effective_share(posterior, q))
        curves = Panel(
            "Where z may be",
            "Three bells over the latent z. The prior is wide, around 0; the posterior is narrow, around 1. The bell q moves "
            "with the first slider and widens with the second; it can be laid exactly on either of them.",
            (-2, 3),
            (0, 1.8),
            [
                Line(z, model.prior.log_prob(z).exp(), "grey", "prior p(z)"),
                Line(z, posterior.log_prob(z).exp(), "green", "posterior p(z | x)", dash=True, width=3),
                # Its shape depends on the width alone: the mean only moves it sideways.
                Line(z, Gaussian(zero, q.var).log_prob(z).exp(), "blue", "q(z)", fill=True, shift=mean),
            ],
            "z",
            "density",
        )
        bound = Panel(
            "Nats paid for x",
            "A bar of two parts. The lower part, minus log p(x), has the same height for every q; on top of it stands the "
            "gap, which vanishes when q is the posterior and grows when q is moved or its width changed.",
            (0, 1),
            (0, 8),
            [
                Bars([0.5], [-elbo], "vermillion", "gap", width=0.5),
                Bars([0.5], [-log_p], "grey", "−log p(x)", width=0.5),
            ],
            "x = 2.5",
            "−ELBO",
            xticks=[],
            width=170,
        )
        sampler = Panel(
            "q as a proposal",
            "One bar, the share of draws from q that count after weighting. It is full when q is the posterior, falls slowly "
            "as q widens, and falls to nothing when q is 1 over root 2 of the posterior's width or narrower.",
            (0, 1),
            (0, 100),
            [Bars([0.5], [100 * share], "blue", "effective share", width=0.5)],
            "draws that count",
            "ESS / n, %",
            xticks=[],
            width=170,
        )
        readout = [
            ("ELBO", f"{sig(elbo)} nats"),
            ("gap KL(q ‖ p(z | x))", f"{sig(gap) if gap > 1e-12 else '0'} nats"),
            ("their sum, log p(x)", f"{sig(elbo + gap)} nats"),
            ("ESS / n", f"{100 * share:.1f} %"),
        ]
        return Frame([curves, bound, sampler], readout)

    means = [k / 8 for k in range(17)]
    return Explorer(
        "elbo-gap",
        [
            Slider("mean of q", means, start=means.index(0.5), format=lambda m: f"{m:.3f}".replace("-", "−")),
            Slider("width of q (posterior: 1)", list(widths), start=list(widths).index("1.5")),
        ],
        draw,
        title="What the ELBO leaves out is the KL divergence from q to the posterior",
        caption="Whatever q is, ELBO and gap add up to the same log p(x). At mean 1 and width 1 the gap is 0. Keep the mean at "
        "1: at width ½ the gap is smaller than at width √5, yet as a proposal q is worse, for its weights have no variance.",
    )
