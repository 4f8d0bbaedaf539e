"""One latent variable: a model whose evidence, posterior and ELBO are closed forms, and what estimates them from draws.

The smallest model of the kind that DDPM is: z is drawn, then x given z. Here everything is Gaussian and linear, so each
estimate has an exact value to be held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._args import common_shape, instance, number, real
from .gaussian import Gaussian, condition, push_forward


class LinearGaussianModel:
    """p(z) = prior, p(x | z) = N(slope · z, noise_var): z and x are numbers, or tensors of independent ones.

    `prior` is a Gaussian with var > 0, `slope` any number, `noise_var` > 0. All results are per coordinate and in nats.
    """

    def __init__(self, prior: Gaussian, slope: float, noise_var: float):
        if (instance(prior, "prior", Gaussian).var == 0).any():
            raise ValueError("prior.var must be > 0 everywhere; it is 0 somewhere: a latent that is known is not latent")
        self.prior = prior
        self.slope = number(slope, "slope", -math.inf, math.inf)
        self.noise_var = number(noise_var, "noise_var", 0, math.inf)

    def decoder(self, z: Tensor) -> Gaussian:
        """p(x | z) = N(slope · z, noise_var)."""
        return Gaussian(self.slope * real(z, "z"), torch.full_like(z, self.noise_var))

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(z) + log p(x | z)."""
        return self.prior.log_prob(z) + self.decoder(z).log_prob(x)

    def marginal(self) -> Gaussian:
        """p(x) = ∫ p(z) p(x | z) dz = N(slope · m, slope² · v + noise_var), for the prior N(m, v)."""
        return push_forward(self.prior, self.slope, self.noise_var)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), the evidence."""
        return self.marginal().log_prob(x)

    def posterior(self, x: Tensor) -> Gaussian:
        """p(z | x) = p(z) p(x | z) / p(x): precision 1/v + slope²/noise_var, by the rule of conditioning."""
        return condition(self.prior, x, self.slope, self.noise_var)

    def log_weight(self, x: Tensor, z: Tensor, q: Gaussian) -> Tensor:
        """log w(z) = log p(x, z) - log q(z): what importance sampling averages as w, and the ELBO as log w."""
        return self.log_joint(x, z) - q.log_prob(z)

    def reconstruction(self, x: Tensor, q: Gaussian) -> Tensor:
        """E_q[log p(x | z)] = log N(x; slope · q.mean, noise_var) - slope² · q.var / (2 noise_var) [Kingma 2014, Eq. 3]."""
        return self.decoder(q.mean).log_prob(x) - self.slope**2 * q.var / (2 * self.noise_var)

    def elbo(self, x: Tensor, q: Gaussian) -> Tensor:
        """E_q[log p(x | z)] - KL(q ‖ p(z)) <= log p(x) [Kingma 2014, Eq. 3]. Minus infinity where q is a point."""
        return self.reconstruction(x, q) - q.kl(self.prior)

    def gap(self, x: Tensor, q: Gaussian) -> Tensor:
        """log p(x) - ELBO = KL(q ‖ p(z | x)) >= 0 [Kingma 2014, Eq. 1]."""
        return q.kl(self.posterior(x))


# Importance sampling ---------------------------------------------------------------------------------------------


def log_mean_weight(log_w: Tensor) -> Tensor:
    """log (1/n Σ_i w_i) over axis 0, without overflow: the estimate of log p(x) from n draws."""
    return torch.logsumexp(_draws(log_w), 0) - math.log(len(log_w))


def effective_sample_size(log_w: Tensor) -> Tensor:
    """(Σ w_i)² / Σ w_i² over axis 0: from 1 (one draw has all the weight) to n (all weights equal)."""
    log_w = _draws(log_w)
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def effective_share(target: Gaussian, q: Gaussian) -> Tensor:
    """What effective_sample_size / n tends to for draws of q weighted by target/q: 1 / ∫ target²/q dz, in [0, 1].

    √(v (2s - v)) / s · exp(-(μ - m)² / (2s - v)) for target N(μ, v) and q N(m, s); 0 where s <= v/2, since the weights
    then have no variance.
    """
    instance(target, "target", Gaussian), instance(q, "q", Gaussian)
    common_shape(target_mean=target.mean, target_var=target.var, q_mean=q.mean, q_var=q.var)
    v, s = target._positive_var("effective_share"), q._positive_var("effective_share")
    room = 2 * s - v
    safe = torch.where(room > 0, room, 1.0)
    share = torch.sqrt(v * safe) / s * torch.exp(-((target.mean - q.mean) ** 2) / safe)
    return torch.where(room > 0, share, 0.0)


def _draws(log_w: Tensor) -> Tensor:
    if real(log_w, "log_w").ndim < 1 or not len(log_w):
        raise ValueError(f"log_w must hold one log-weight per draw along axis 0, got shape {tuple(log_w.shape)}")
    return log_w


# Gradients of E_q[f(z)] ------------------------------------------------------------------------------------------


def score_function_gradient(f: Callable[[Tensor], Tensor], q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    """f(z) · ∂ log q(z), with respect to q's mean and its standard deviation σ, one value per draw [Williams 1992].

    z = mean + σ · eps; the derivatives of log q are eps/σ and (eps² - 1)/σ. Needs values of f only.
    """
    sigma, value = q._positive_var("score_function_gradient").sqrt(), f(q.sample(eps=eps))
    return value * eps / sigma, value * (eps**2 - 1) / sigma


def reparameterised_gradient(f: Callable[[Tensor], Tensor], q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    """∂ f(mean + σ · eps), with respect to the mean and σ: f'(z) and f'(z) · eps, one value per draw [Kingma 2014, Sec. 2.4].

    f acts on each draw by itself; its slope f' comes from autograd.
    """
    z = q.sample(eps=eps).detach().requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return slope, slope * eps
