"""The variational bound, term by term, and what it says in bits [Ho 2020, Eqs. 3-5 and Sec. 4.3].

-log p_θ(x_0) <= L_T + Σ_{t=2..T} L_{t-1} + L_0. Everything is in nats until `bits_per_dim`, per sample, and computed in
float64 after the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._args import as_steps, count, instance, number, real, whole_numbers
from .diffusion import EpsModel, GaussianDiffusion, ReverseVariance, per_sample
from .gaussian import Gaussian
from .scores import divergence
from .sde import VPSDE, Score


def L_T(diffusion: GaussianDiffusion, x_0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) ‖ N(0, I)), shape (B,), in nats: how far the chain's end is from the prior [Ho 2020, Eq. 5]."""
    q = diffusion.q_marginal(real(x_0, "x_0").double(), diffusion.T)
    return per_sample(q.kl(_standard(q.mean)))


def L_t(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_0: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    sigma2: ReverseVariance | None = None,
) -> Tensor:
    """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p_θ(x_{t-1} | x_t)) for t in 2..T, shape (B,), in nats [Ho 2020, Eq. 5].

    `x_t` is a draw of q(x_t | x_0): average over draws to get the paper's expectation. `sigma2` is the reverse
    variance, `diffusion.sigma2_beta` unless given.
    """
    as_steps(t, diffusion.T, low=2)
    _same_shape(x_0, x_t, "x_t")
    p, _ = _reverse(diffusion, eps_model, x_t, t, sigma2)
    return diffusion.bound_term(p, x_0.double(), x_t.double(), t)


def L_0(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_0: Tensor,
    x_1: Tensor,
    sigma2: ReverseVariance | None = None,
    levels: int | None = 256,
) -> Tensor:
    """-log p_θ(x_0 | x_1), shape (B,), in nats [Ho 2020, Eqs. 5 and 13].

    The decoder integrates the Gaussian over the bin of x_0, for data of `levels` grey values on [-1, 1]; with
    levels = None it is the density itself. Raises ValueError when σ_1² is 0, as with β̃: see
    `sigma2_beta_tilde_clipped`.
    """
    _same_shape(x_0, x_1, "x_1")
    p, _ = _reverse(diffusion, eps_model, x_1, 1, sigma2)
    return diffusion.bound_term(p, x_0.double(), x_1.double(), 1, levels)


@dataclass(frozen=True, eq=False)
class Bound:
    """All terms of the bound for a batch: `terms[:, 0]` is L_0, `terms[:, k]` is L_k, `terms[:, T]` is L_T, in nats.

    `square_errors[:, t]` is ‖x_0 - x̂_0(x_t)‖², the distortion of stopping at t; column 0 is 0. `dims` is the number
    of coordinates of a sample.
    """

    terms: Tensor
    square_errors: Tensor
    dims: int

    def __post_init__(self):
        count(self.dims, "dims")
        if self.terms.ndim != 2 or self.terms.shape != self.square_errors.shape:
            raise ValueError(
                f"terms and square_errors must both have shape (B, T + 1), got {tuple(self.terms.shape)} and "
                f"{tuple(self.square_errors.shape)}"
            )

    @property
    def nats(self) -> Tensor:
        """The bound on -log p_θ(x_0), shape (B,)."""
        return self.terms.sum(1)

    def bits_per_dim(self) -> dict[str, float]:
        """Mean bits/dim over the batch: the total, and its split into L_0, L_{1:T-1} and L_T."""
        bits = bits_per_dim(self.terms, self.dims).mean(0)
        return {
            "total": float(bits.sum()),
            "L_0": float(bits[0]),
            "L_1:T-1": float(bits[1:-1].sum()),
            "L_T": float(bits[-1]),
        }

    def rate_distortion(self) -> tuple[Tensor, Tensor]:
        """(rate, distortion) at t = 0..T: bits/dim sent when decoding stops at t, and the root mean square error of x̂_0.

        rate(t) = Σ_{k>=t} L_k, from the prior's end down; rate(0) is the whole bound. Distortion is on the scale of
        0..255 grey levels [Ho 2020, Sec. 4.3].
        """
        rate = bits_per_dim(self.terms, self.dims).mean(0).flip(0).cumsum(0).flip(0)
        rmse = (self.square_errors.mean(0) / self.dims).sqrt() * 127.5
        return rate, rmse


def variational_bound(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_0: Tensor,
    sigma2: ReverseVariance | None = None,
    levels: int | None = 256,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    steps: Sequence[int] | None = None,
    progress: bool = False,
    clip: float | None = None,
) -> Bound:
    """Every term of the bound for x_0 (N, ...), one draw of x_t for each, in batches; see `Bound`.

    `steps` names the t to evaluate (default: all of 1..T); the others' terms are NaN. `clip` clamps x̂_0, as in
    `p_mean_variance`: another model, whose bound is as valid. The network runs on x_0's device and dtype, the terms are
    formed in float64. Use the network in float32: in half precision it does not see the noise of the first steps.
    """
    if real(x_0, "x_0").ndim < 1 or not len(x_0):
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}; wanted (N, ...) with N >= 1 samples")
    T, N, size = diffusion.T, len(x_0), count(batch_size, "batch_size")
    visited = _visited(steps, T)
    terms, square_errors = (torch.full((N, T + 1), math.nan, dtype=torch.float64) for _ in range(2))
    terms[:, T], square_errors[:, 0] = L_T(diffusion, x_0).cpu(), 0
    batches = [slice(k, k + size) for k in range(0, N, size)]
    with torch.no_grad():
        for t in _bar(visited, progress):
            for batch in batches:
                x = x_0[batch]
                eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                x_t = diffusion.q_sample(x, t, eps)
                p, x_0_hat = _reverse(diffusion, eps_model, x_t, t, sigma2, clip)
                terms[batch, t - 1] = diffusion.bound_term(p, x.double(), x_t.double(), t, levels).cpu()
                square_errors[batch, t] = per_sample((x - x_0_hat).double() ** 2).cpu()
    return Bound(terms, square_errors, math.prod(x_0.shape[1:]))


def sampled_bits(
    diffusion: GaussianDiffusion,
    eps_model_of: Callable[[Tensor], EpsModel],
    x_0: Tensor,
    labels: Tensor,
    per_step: int,
    sigma2: ReverseVariance | None = None,
    clip: float | None = None,
    levels: int | None = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """An unbiased estimate of the mean bound over x_0 (N, ...), in bits/dim, split into its terms, with its standard error.

    `per_step` images are drawn at random for every t = 2..T, ten times as many for L_0, which weighs most; L_T is exact.
    `eps_model_of(labels)` is the network for images of these classes. Other arguments as in `variational_bound`.
    Feasible where N · T network calls are not: the error falls with √per_step, and does not depend on N.
    """
    if len(instance(labels, "labels", Tensor)) != len(real(x_0, "x_0")):
        raise ValueError(f"{len(x_0)} images, but {len(labels)} labels")
    if not 2 <= count(per_step, "per_step") <= len(x_0):
        raise ValueError(f"per_step = {per_step} must be between 2 and the number of images, {len(x_0)}")
    T, dims = diffusion.T, x_0[0].numel()
    means, errors2 = torch.zeros(T + 1, dtype=torch.float64), torch.zeros(T + 1, dtype=torch.float64)
    means[T] = bits_per_dim(L_T(diffusion, x_0), dims).mean()
    for t in _bar(range(1, T + 1), progress):
        n = min(len(x_0), per_step * (10 if t == 1 else 1))
        some = torch.randperm(len(x_0), generator=generator, device=generator.device if generator else "cpu")[:n].cpu()
        model = eps_model_of(labels[some])
        bound = variational_bound(diffusion, model, x_0[some], sigma2, levels, generator, n, [t], clip=clip)
        term = bits_per_dim(bound.terms[:, t - 1], dims)
        means[t - 1], errors2[t - 1] = term.mean(), term.var() / n
    return {
        "total": float(means.sum()),
        "standard_error": float(errors2.sum().sqrt()),
        "L_0": float(means[0]),
        "L_1:T-1": float(means[1:T].sum()),
        "L_T": float(means[T]),
    }


def eps_errors(
    diffusion: GaussianDiffusion,
    eps_model: EpsModel,
    x_0: Tensor,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """E (ε - ε_θ)² and 1 - E ε_θ² at every t, per coordinate, over x_0 (N, ...) with one ε each; tables (T + 1,).

    Both are E Var(ε | x_t) for an ideal network, and `sigma2_from_eps_error` turns them into a reverse variance. For any
    other network the first gives the best one for its own mean; the second, which never looks at ε [Bao 2022, Thm. 1],
    does not. Entries of steps that were not asked for, and entry 0, are NaN.
    """
    if real(x_0, "x_0").ndim < 1 or not len(x_0):
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}; wanted (N, ...) with N >= 1 samples")
    T, size = diffusion.T, count(batch_size, "batch_size")
    visited = _visited(steps, T)
    squares, powers = (torch.full((T + 1,), math.nan, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        for t in visited:
            square = power = 0.0
            for x in x_0.split(size):
                eps = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
                eps_hat = diffusion.predict(eps_model, diffusion.q_sample(x, t, eps), t).double()
                square, power = square + float((eps - eps_hat).square().sum()), power + float(eps_hat.square().sum())
            squares[t], powers[t] = square / x_0.numel(), power / x_0.numel()
    return squares, 1 - powers


def linear_eps_errors(diffusion: GaussianDiffusion, x_0: Tensor) -> Tensor:
    """E (ε - ε̂)² at every t, per coordinate, for the best straight line ε̂ in x_t; table (T + 1,), entry 0 is NaN.

    (1/D) Σ_i ᾱ_t λ_i / (ᾱ_t λ_i + 1 - ᾱ_t), with λ_1..λ_D the eigenvalues of the covariance of x_0 (N, ...). It needs the
    data only. A trained network should lie below it, but for late t where it is smaller than the network is exact:
    compare with `eps_errors`. For Gaussian data it is the least error there is.
    """
    if real(x_0, "x_0").ndim < 1 or len(x_0) < 2:
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}; wanted (N, ...) with N >= 2 samples")
    flat = x_0.reshape(len(x_0), -1).double().cpu()
    lam = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(flat.T, correction=0))).clamp(min=0)
    alpha_bars = diffusion.schedule.alpha_bars[1:, None]
    table = torch.full((diffusion.T + 1,), math.nan, dtype=torch.float64)
    table[1:] = (alpha_bars * lam / (alpha_bars * lam + 1 - alpha_bars)).mean(1)
    return table


# The same bound along whole paths, before any expectation is taken ------------------------------------------------


def path_log_ratio(
    diffusion: GaussianDiffusion, eps_model: EpsModel, path: Tensor, sigma2: ReverseVariance | None = None
) -> Tensor:
    """log p_θ(x_{0:T}) - log q(x_{1:T} | x_0) along given paths, shape (B,), in nats [Ho 2020, Eq. 3].

    `path` is (T + 1, B, ...): x_0, …, x_T. Its mean over paths of q is the ELBO: the joint form, which needs no KL in
    closed form. The decoder is the Gaussian density (no bins).
    """
    path, log_p = _log_p(diffusion, eps_model, path, sigma2)
    log_q = [per_sample(diffusion.q_step(path[t - 1], t).log_prob(path[t])) for t in range(1, diffusion.T + 1)]
    return log_p.sum(1) - torch.stack(log_q, 1).sum(1)


def consistency_terms(
    diffusion: GaussianDiffusion, eps_model: EpsModel, path: Tensor, sigma2: ReverseVariance | None = None
) -> Tensor:
    """The T + 1 terms of the consistency form along given paths, shape (B, T + 1), in nats.

    Column 0: -log p_θ(x_0 | x_1).   Column t: log q(x_t | x_{t-1}) - log p_θ(x_t | x_{t+1}).
    Column T: log q(x_T | x_{T-1}) - log p(x_T).   They add up to -`path_log_ratio`.
    """
    path, log_p = _log_p(diffusion, eps_model, path, sigma2)
    log_q = [per_sample(diffusion.q_step(path[t - 1], t).log_prob(path[t])) for t in range(1, diffusion.T + 1)]
    return torch.stack([torch.zeros_like(log_q[0]), *log_q], 1) - log_p


def posterior_terms(
    diffusion: GaussianDiffusion, eps_model: EpsModel, path: Tensor, sigma2: ReverseVariance | None = None
) -> Tensor:
    """The T + 1 terms of the posterior form along given paths, shape (B, T + 1), in nats [Ho 2020, Eq. 22].

    Column 0: -log p_θ(x_0 | x_1).   Column t: log q(x_t | x_{t+1}, x_0) - log p_θ(x_t | x_{t+1}).
    Column T: log q(x_T | x_0) - log p(x_T).   Column k has mean L_k; the row adds up to -`path_log_ratio`.
    """
    path, log_p = _log_p(diffusion, eps_model, path, sigma2)
    posteriors = [diffusion.q_posterior(path[0], path[t + 1], t + 1) for t in range(1, diffusion.T)]
    log_q = [per_sample(q.log_prob(x_t)) for q, x_t in zip(posteriors, path[1:])]
    last = per_sample(diffusion.q_marginal(path[0], diffusion.T).log_prob(path[-1]))
    return torch.stack([torch.zeros_like(last), *log_q, last], 1) - log_p


def _log_p(diffusion, eps_model, path, sigma2) -> tuple[Tensor, Tensor]:
    """The path in float64, and its log p_θ(x_t | x_{t+1}) for t = 0..T-1 with log p(x_T) last, shape (B, T + 1)."""
    if real(path, "path").ndim < 2 or len(path) != diffusion.T + 1:
        raise ValueError(f"path must have shape (T + 1, B, ...) with T = {diffusion.T}, got {tuple(path.shape)}")
    path = path.double()
    steps = [_reverse(diffusion, eps_model, path[t], t, sigma2)[0].log_prob(path[t - 1]) for t in range(1, diffusion.T + 1)]
    return path, torch.stack([per_sample(log_p) for log_p in [*steps, _standard(path[-1]).log_prob(path[-1])]], 1)


def bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    """nats per sample -> bits per coordinate: nats / (dims · log 2).

    With the discretised decoder the nats are those of a probability, so that no correction for the scaling is needed.
    """
    instance(nats, "nats", Tensor)
    return nats / (count(dims, "dims") * math.log(2))


# Without a bound: the probability-flow ODE ------------------------------------------------------------------------


class Flow(NamedTuple):
    """What `flow_log_prob` returns: log p(x_0) (B,) in nats, the x_1 that x_0 is carried to, and how often the score was
    asked."""

    log_prob: Tensor
    x_1: Tensor
    evaluations: int


def flow_log_prob(
    sde: VPSDE,
    score: Score,
    x_0: Tensor,
    probes: int | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    start: float = 0.0,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    generator: torch.Generator | None = None,
) -> Flow:
    """log p(x_0) of the probability-flow model, exact up to the ODE solver's tolerances [Song 2021, Eq. 39].

    log p(x_0) = log prior(x_1) + ∫_start^1 ∇·h dt,   h = -½ β(t) (x + score(x, t)),   solved together with dx/dt = h.
    The divergence is exact (`probes` None: one backward pass for each coordinate), or Hutchinson's estimate from so many
    vectors of random signs, drawn once for the whole path: unbiased for log p. `prior(x_1)` is a log-density (B,);
    N(0, I) unless given. `start` > 0 gives the likelihood of x_0 as a state at that time. The score must be
    differentiable, and treat each row of the batch on its own. Solved in float64 by scipy's DOP853, all rows together.
    """
    if real(x_0, "x_0").ndim < 1 or not x_0.numel():
        raise ValueError(f"x_0 has shape {tuple(x_0.shape)}; wanted (B, ...) with B >= 1 samples")
    start = number(start, "start", 0, 1, closed="low")
    rtol, atol = number(rtol, "rtol", 0, 1), number(atol, "atol", 0, 1)
    signs: list[Tensor | None] = [None]
    if probes is not None:
        draws = torch.randint(2, (count(probes, "probes"), *x_0.shape), generator=generator, device=x_0.device)
        signs = list((2 * draws - 1).to(x_0.dtype))
    size = x_0.numel()

    @torch.no_grad()
    def rate(t: float, state: np.ndarray) -> np.ndarray:
        t, x = min(float(t), 1.0), torch.as_tensor(state[:size]).reshape(x_0.shape).to(x_0)
        parts = [divergence(lambda u: sde.predict(score, u, t), x, v) for v in signs]
        trace = sum(part for _, part in parts) / len(parts)
        of_log_p = -0.5 * sde.beta(t) * (x[0].numel() + trace)
        return np.concatenate([_numpy(sde.reverse_drift(x, parts[0][0], t, eta=0)), _numpy(of_log_p)])

    from scipy.integrate import solve_ivp

    begin = np.concatenate([_numpy(x_0), np.zeros(len(x_0))])
    path = solve_ivp(rate, (start, 1.0), begin, method="DOP853", rtol=rtol, atol=atol)
    if not path.success:
        raise RuntimeError(f"the probability-flow ODE was not solved from t = {start}: {path.message}")
    x_1 = torch.as_tensor(path.y[:size, -1]).reshape(x_0.shape)
    log_prior = per_sample(_standard(x_1).log_prob(x_1)) if prior is None else prior(x_1)
    if log_prior.shape != (len(x_0),):
        raise ValueError(f"prior returned shape {tuple(log_prior.shape)}; wanted one log-density a sample, ({len(x_0)},)")
    return Flow(log_prior + torch.as_tensor(path.y[size:, -1]), x_1, path.nfev)


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy().ravel()


def _reverse(diffusion, eps_model, x_t, t, sigma2, clip=None) -> tuple[Gaussian, Tensor]:
    """p_θ(x_{t-1} | x_t) in float64 from the network's output in its own dtype, and x̂_0."""
    eps_hat = diffusion.predict(eps_model, x_t, t).double()
    return diffusion.p_mean_variance(lambda x, t: eps_hat, x_t.double(), t, sigma2=sigma2, clip=clip)


def _same_shape(x_0: Tensor, x_t: Tensor, name: str) -> None:
    """Refuse integer images, and an x_t that would be broadcast against x_0."""
    if real(x_0, "x_0").shape != real(x_t, name).shape:
        raise ValueError(f"{name} has shape {tuple(x_t.shape)}, x_0 has {tuple(x_0.shape)}; they must be equal")


def _standard(like: Tensor) -> Gaussian:
    return Gaussian(torch.zeros_like(like), torch.ones_like(like))


def _visited(steps: Sequence[int] | None, T: int) -> Sequence[int]:
    """The steps asked for, each in 1..T; None stands for all."""
    if steps is None:
        return range(1, T + 1)
    return [int(as_steps(t, T, name="steps")) for t in whole_numbers(steps, "steps")]


def _bar(visited, progress: bool):
    if not progress:
        return visited
    from tqdm import tqdm

    return tqdm(visited, desc="bound", unit="t")
