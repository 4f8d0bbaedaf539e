"""Guidance: a class that pulls on the noise estimate. Each function wraps an ε-model into another that any sampler takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._args import count, number, real
from .diffusion import EpsModel, GaussianDiffusion


def guided(network: Callable[..., Tensor], y: Tensor, scale: float = 1.0, classes: int | None = None) -> EpsModel:
    """ε̂ = ε_θ(x_t, t) + γ (ε_θ(x_t, t, y) - ε_θ(x_t, t)), without a classifier [Ho & Salimans 2022, Eq. 6, with w = γ - 1].

    `scale` γ = 0 ignores the class, 1 is the conditional network itself (one call a step instead of two), above 1 guides.
    `network(x_t, t, y)` knows the label `classes` (default: network.config["classes"]) as "not told"; y int64 (B,) holds
    one class 0..classes-1 for each image. Raises ValueError for other classes, a network without any, and γ < 0.
    """
    classes = getattr(network, "config", {}).get("classes", 0) if classes is None else count(classes, "classes")
    if not classes:
        raise ValueError("guided needs a network with classes; this one has classes = 0")
    _labels(y, classes)
    scale = number(scale, "scale", 0, math.inf, closed="low")

    def eps_model(x_t: Tensor, t: Tensor) -> Tensor:
        _one_each(y, x_t)
        told, untold = y.to(x_t.device), torch.full_like(t, classes)
        if scale == 1:
            return network(x_t, t, told)
        if scale == 0:
            return network(x_t, t, untold)
        both = network(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([told, untold]))
        conditional, unconditional = both.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return eps_model


def classifier_guided(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    classifier: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    scale: float = 1.0,
) -> EpsModel:
    """ε̂ = ε_θ(x_t, t) - γ √(1-ᾱ_t) ∇ log p_φ(y | x_t), the gradient taken in x_t [Dhariwal & Nichol 2021, Alg. 2].

    `classifier(x_t, t)` gives logits or log-probabilities (B, classes) of the class of a *noised* image, each row from its
    own x_t alone (batch norm in eval mode); torch differentiates it. y int64 (B,) as in `guided`. `scale` γ >= 0: at 0 the
    classifier is not called; 1 is Bayes' rule.
    """
    _labels(y)
    scale = number(scale, "scale", 0, math.inf, closed="low")

    def guided_eps(x_t: Tensor, t: Tensor) -> Tensor:
        _one_each(y, x_t)
        eps = diffusion.predict(eps_model, x_t, t)
        if scale == 0:
            return eps
        slope = log_prob_gradient(classifier, x_t, t, y)
        return eps + diffusion.eps_from_score(scale * slope, t)

    return guided_eps


def log_prob_gradient(classifier: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """∇ log p_φ(y | x_t) in x_t, of its shape: the score that a classifier adds. Arguments as in `classifier_guided`."""
    with torch.enable_grad():  # samplers run without gradients
        x = real(x_t, "x_t").detach().requires_grad_()
        logits = classifier(x, t)
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(f"classifier returned shape {tuple(logits.shape)}; wanted ({len(x)}, classes), a row for each x_t")
        _labels(y, logits.shape[1])
        _one_each(y, x_t)
        if not logits.requires_grad:
            raise ValueError("classifier(x_t, t) has no gradient with respect to x_t: is it detached, or a constant?")
        chosen = logits.log_softmax(1)[torch.arange(len(x), device=x.device), y.to(x.device)]
        return torch.autograd.grad(chosen.sum(), x)[0]


def _labels(y: Tensor, classes: int | None = None) -> None:
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1:
        got = f"dtype {y.dtype} and shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"y must be an int64 tensor of shape (B,), got {got}")
    if y.numel() and not (0 <= int(y.min()) and (classes is None or int(y.max()) < classes)):
        known = f"0..{classes - 1} are known" if classes else "they count from 0"
        raise ValueError(f"y holds classes from {int(y.min())} to {int(y.max())}; {known}")


def _one_each(y: Tensor, x_t: Tensor) -> None:
    if len(y) != len(x_t):
        raise ValueError(f"y names {len(y)} classes for {len(x_t)} images")
