"""Explorers of chapter 15: score matching."""

from __future__ import annotations

import math

from ..oracles import GaussianMixture
from ..routes import grid, integrate
from ..scores import denoising_loss, explicit_loss, implicit_loss
from .base import Explorer, Frame, Line, Panel, Slider, sig


def score_matching_explorer() -> Explorer:
    """A model with the wrong weight on a mode: what KL and the score-matching objectives say, noise level by noise level."""
    modes, variances, truth = [-2.0, 2.0], [0.1, 0.1], 0.3
    x, u, e = grid(-16, 16, 1001), grid(-4.5, 4.5, 181), grid(-6.5, 6.5, 105)
    shown = grid(-4, 4, 321)
    bell = (-(e**2) / 2).exp() / (2 * math.pi) ** 0.5

    def law(weight: float, sigma: float) -> GaussianMixture:
        return GaussianMixture([weight, 1 - weight], modes, variances).noised(sigma)

    def draw(sigma: float, weight: float) -> Frame:
        data, model = law(truth, sigma), law(weight, sigma)
        q = data.log_prob(x).exp()
        kl = integrate(q * (data.log_prob(x) - model.log_prob(x)), x)
        explicit = integrate(q * explicit_loss(model.score, x, data.score(x)), x)
        implicit = integrate(q * implicit_loss(model.score, x).detach(), x)
        pairs = denoising_loss(model.score, u.repeat_interleave(len(e)), sigma, e.repeat(len(u))).reshape(len(u), len(e))
        denoising = integrate(integrate(pairs * bell, e) * law(truth, 0.0).log_prob(u).exp(), u)
        densities = Panel(
            "Densities at this noise level",
            "Two curves over x, data and model. At little noise both have two separate peaks at −2 and 2; their heights "
            "differ where the weights do. As the noise grows the peaks widen and merge.",
            (-4, 4),
            (0, 1.05),
            [
                Line(shown, data.log_prob(shown).exp(), "blue", "noised data"),
                Line(shown, model.log_prob(shown).exp(), "vermillion", "model", dash=True),
            ],
            "x",
            "density",
        )
        scores = Panel(
            "Scores at this noise level",
            "The slopes of the two log-densities over x. At little noise they coincide at both peaks, whatever the weights; "
            "they differ only in the gap between, where there are no data. With more noise they differ where data are.",
            (-4, 4),
            (-12, 12),
            [
                Line(shown, data.score(shown).clamp(-14, 14), "blue", "noised data"),
                Line(shown, model.score(shown).clamp(-14, 14), "vermillion", "model", dash=True),
            ],
            "x",
            "score",
        )
        readout = [
            ("KL, nats", sig(kl)),
            ("explicit ½E‖s−∇log q_σ‖²", sig(explicit)),
            ("implicit", sig(implicit)),
            ("denoising", sig(denoising)),
            ("excess noise error 2σ²·explicit", sig(2 * sigma**2 * explicit)),
        ]
        return Frame([densities, scores], readout)

    shares = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    return Explorer(
        "score-matching",
        [
            Slider("noise σ", [0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0], 0, lambda v: f"{v:.1f}"),
            Slider("model's weight of the left mode", shares, 7, lambda v: f"{v:.2f}"),
        ],
        draw,
        title="What a score can and cannot see",
        caption="The data have weight 0.3 on the left. At little noise a model with weight 0.7 has almost the same score "
        "wherever there are data, and no score-matching objective sees the mistake, though KL does. With noise as wide as the "
        "gap all of them do.",
    )
