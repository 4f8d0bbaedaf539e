"""Score matching: learn ∇ log p from samples alone, with no normaliser and no true score.

A score model is any callable `score(x)` that returns a tensor of the shape of x, batch first; row b of the result may
depend on row b of x only. Each loss comes back per sample, shape (B,), and its mean is, up to a constant that does not
contain the model, ½ E‖s(x) - ∇log p(x)‖², half the Fisher divergence. Only `explicit_loss` needs to know ∇log p.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from ._args import count, floating, real
from .diffusion import per_sample

ScoreModel = Callable[[Tensor], Tensor]
Energy = Callable[[Tensor], Tensor]


def evaluate(score: ScoreModel, x: Tensor) -> Tensor:
    """score(x), refused unless it has the shape of x."""
    if real(x, "x").ndim < 1:
        raise ValueError("x must have a batch axis, got a 0-dim tensor")
    s = score(x)
    if not isinstance(s, Tensor) or s.shape != x.shape:
        got = f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(f"score returned {got}, x has shape {tuple(x.shape)}; they must be equal")
    return s


# The four objectives ----------------------------------------------------------------------------------------------


def explicit_loss(score: ScoreModel, x: Tensor, true_score: Tensor) -> Tensor:
    """½ ‖s(x) - ∇log p(x)‖² for x ~ p, shape (B,): its mean is half the Fisher divergence [Hyvärinen 2005, Eq. 2].

    `true_score` (x's shape) is ∇log p at x: an oracle's.
    """
    if real(true_score, "true_score").shape != x.shape:
        raise ValueError(f"true_score has shape {tuple(true_score.shape)}, x has {tuple(x.shape)}; they must be equal")
    return 0.5 * per_sample((evaluate(score, x) - true_score).square())


def implicit_loss(score: ScoreModel, x: Tensor) -> Tensor:
    """∇·s(x) + ½ ‖s(x)‖² for x ~ p, shape (B,) [Hyvärinen 2005, Thm. 1].

    Its mean is the explicit one's minus ½ E‖∇log p‖², if p·s vanishes at the border of p's support. The divergence takes
    one backward pass for each coordinate.
    """
    s, div = divergence(score, x)
    return div + 0.5 * per_sample(s.square())


def sliced_loss(score: ScoreModel, x: Tensor, v: Tensor, exact_norm: bool = False) -> Tensor:
    """vᵀ (∇s(x)) v + ½ (vᵀ s(x))² for random directions v, shape (B,) [Song 2019b, Sec. 3].

    `v` (x's shape) is drawn by the caller with E[v vᵀ] = I: signs ±1 or N(0, I); then the mean is that of `implicit_loss`,
    for one backward pass. `exact_norm` puts ½ ‖s‖² in place of the second term, which needs no slicing.
    """
    s, along = divergence(score, x, v)
    return along + 0.5 * (per_sample(s.square()) if exact_norm else per_sample(v * s).square())


def denoising_loss(score: ScoreModel, x: Tensor, sigma: float | Tensor, eps: Tensor) -> Tensor:
    """½ ‖s(x̃) - (x - x̃)/σ²‖² at x̃ = x + σ ε, shape (B,); the target is -ε/σ [Vincent 2011, Eq. 9].

    Its mean over x and ε ~ N(0, I) is ½ E‖s - ∇log q_σ‖², for the density q_σ of x̃ and not of x, plus a constant.
    `sigma` > 0 is a number, or (B,), one for each sample.
    """
    if real(eps, "eps").shape != real(x, "x").shape:
        raise ValueError(f"eps has shape {tuple(eps.shape)}, x has {tuple(x.shape)}; each coordinate needs its own noise")
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if sigma.ndim > 1 or (sigma.ndim and len(sigma) != len(x)):
        raise ValueError(f"sigma must be a number or have shape ({len(x)},), got shape {tuple(sigma.shape)}")
    if sigma.device.type == "cpu" and not bool(((sigma > 0) & (sigma < torch.inf)).all()):
        raise ValueError(f"sigma must be > 0 and finite, got {sigma.tolist()}")
    sigma = sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
    return 0.5 * per_sample((evaluate(score, x + sigma * eps) + eps / sigma).square())


def divergence(score: ScoreModel, x: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """s(x) and its divergence tr ∇s(x), shape (B,), by autograd; with v (x's shape) the estimate vᵀ (∇s) v of it.

    The trace takes one backward pass for each coordinate, the estimate takes one; it is unbiased when E[v vᵀ] = I
    [Hutchinson 1989]. Both results can be differentiated further, unless gradients are switched off. Raises ValueError when
    autograd sees no way from s(x) back to x.
    """
    if v is not None and real(v, "v").shape != x.shape:
        raise ValueError(f"v has shape {tuple(v.shape)}, x has {tuple(x.shape)}; they must be equal")
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        x = real(x, "x").detach().requires_grad_()
        s = evaluate(score, x)
        if not s.requires_grad:
            raise ValueError("score(x) has no gradient with respect to x: is it detached, or computed under no_grad?")
        if v is not None:
            return _finish(wanted, s, per_sample(_backward((v * s).sum(), x, wanted) * v))
        trace = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for i, column in enumerate(s.reshape(len(x), -1).unbind(1)):
            trace = trace + _backward(column.sum(), x, wanted).reshape(len(x), -1)[:, i]
        return _finish(wanted, s, trace)


def _backward(value: Tensor, x: Tensor, wanted: bool) -> Tensor:
    return torch.autograd.grad(value, x, create_graph=wanted, retain_graph=True, materialize_grads=True)[0]


def _finish(wanted: bool, s: Tensor, div: Tensor) -> tuple[Tensor, Tensor]:
    return (s, div) if wanted else (s.detach(), div.detach())


# Energy models ----------------------------------------------------------------------------------------------------


def energy_score(energy: Energy) -> ScoreModel:
    """The score model s(x) = -∇E(x) of the density exp(-E(x)) / Z, by autograd: Z has no gradient.

    `energy(x)` returns one number for each sample, shape (B,). The score can be differentiated further, unless gradients
    are switched off.
    """

    def score(x: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if wanted and x.requires_grad else real(x, "x").detach().requires_grad_()
            E = energy(x)
            if E.shape != x.shape[:1]:
                raise ValueError(f"energy returned shape {tuple(E.shape)}; wanted one number for each sample, ({len(x)},)")
            return -_backward(E.sum(), x, wanted)

    return score


class EnergyMLP(nn.Module):
    """A small energy E_θ(x) for vectors (B, dim), shape (B,): ½ ‖x‖² plus a network; its `score` is -∇E_θ.

    The network grows no faster than a straight line, so exp(-E_θ) has a finite integral. Its activations are smooth: with
    ReLU the divergence of the score would be 0 almost everywhere.
    """

    def __init__(self, dim: int = 2, width: int = 64, layers: int = 2):
        super().__init__()
        sizes = [count(dim, "dim"), *[count(width, "width")] * count(layers, "layers")]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        if floating(x, "x").ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {tuple(x.shape)}; this energy takes (B, {self.dim})")
        return 0.5 * x.square().sum(1) + self.network(x).squeeze(1)

    def score(self, x: Tensor) -> Tensor:
        """-∇E_θ(x), shape of x; it can be trained through."""
        return energy_score(self)(x)
