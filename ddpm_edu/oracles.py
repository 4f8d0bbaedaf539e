"""Data whose every diffused quantity is known exactly: what a perfect network would say.

A mixture of Gaussians stays one under the forward process, so its marginals, score, E[ε | x_t] and reverse moments are
closed forms. One component is the Gaussian case; components of variance 0 at the training images are the ideal
denoiser of a finite data set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._args import as_steps, count, finite, instance, number, real
from .diffusion import GaussianDiffusion, per_sample
from .gaussian import Gaussian, condition, push_forward
from .sde import VPSDE


class GaussianMixture:
    """Σ_k weights[k] · N(means[k], Σ_k), where Σ_k = diag(variances[k]), or any covariance with `with_covariances`.

    weights (K,), positive, summing to 1; means (K, *event), where event is () for data on a line, (D,) for vectors or
    (C, H, W) for images; variances broadcast to means and are >= 0. Samples x have shape (B, *event).
    `axes` (K, D, D), if given, holds orthonormal columns: component k has variances[k] along them.
    """

    def __init__(self, weights, means, variances, axes: Tensor | None = None):
        self.means = real(means, "means") if isinstance(means, Tensor) else finite(means, "means")
        if not self.means.ndim or not len(self.means):
            raise ValueError(f"means must have shape (K, *event) with K >= 1 components, got {tuple(self.means.shape)}")
        self.weights, variances = finite(weights, "weights", self.means), finite(variances, "variances", self.means)
        K = len(self.means)
        if variances.ndim == 1 and len(variances) == K:
            variances = variances.reshape(K, *(1,) * (self.means.ndim - 1))
        try:
            self.variances = variances.expand_as(self.means)
        except RuntimeError:
            raise ValueError(f"variances {tuple(variances.shape)} don't broadcast to means {tuple(self.means.shape)}") from None
        if self.weights.shape != (K,) or (self.weights <= 0).any() or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise ValueError(f"weights must be {K} positive numbers that sum to 1, got {self.weights.tolist()[:8]}")
        if (self.variances < 0).any():
            raise ValueError(f"variances must be >= 0, got {float(self.variances.min())}")
        self.axes = axes
        if axes is not None:
            self.axes = axes = real(axes, "axes").to(self.means)
            D = self.means.shape[-1]
            one = torch.eye(D, dtype=self.means.dtype, device=self.means.device).expand(K, D, D)
            if axes.shape != one.shape or not torch.allclose(axes.mT @ axes, one, atol=1e-5):
                raise ValueError(f"axes must be {K} orthonormal {D}x{D} matrices, got shape {tuple(axes.shape)}")

    @classmethod
    def with_covariances(cls, weights, means, covariances) -> GaussianMixture:
        """The mixture with full covariances (K, D, D), each symmetric and positive semi-definite."""
        covs = real(torch.as_tensor(covariances, dtype=torch.float64), "covariances")
        if covs.ndim != 3 or covs.shape[1] != covs.shape[2] or not torch.allclose(covs, covs.mT):
            raise ValueError(f"covariances must be K symmetric matrices (K, D, D), got shape {tuple(covs.shape)}")
        variances, axes = torch.linalg.eigh(covs)
        if float(variances.min()) < -1e-10 * float(variances.max()):
            raise ValueError(f"covariances must be positive semi-definite, got the eigenvalue {float(variances.min())}")
        return cls(weights, torch.as_tensor(means, dtype=torch.float64), variances.clamp(min=0), axes)

    @classmethod
    def of_points(cls, points: Tensor) -> GaussianMixture:
        """The finite data set itself: equal weight on each point, variance 0."""
        if real(points, "points").ndim < 1 or not len(points):
            raise ValueError(f"points must have shape (K, *event) with K >= 1, got {tuple(points.shape)}")
        n = len(points)
        return cls(torch.full((n,), 1 / n, dtype=points.dtype), points, torch.zeros(n, dtype=points.dtype))

    @property
    def event(self) -> torch.Size:
        """Shape of one sample."""
        return self.means.shape[1:]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent samples, shape (n, *event)."""
        k = torch.multinomial(self.weights, count(n, "n"), replacement=True, generator=generator)
        z = Gaussian(torch.zeros_like(self.means[k]), self.variances[k]).sample(generator)
        return self.means[k] + self._turn_back(z, k)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each coordinate: Σ w m and Σ w (v + m²) - mean²."""
        return _mix(self.weights, self.means, self._coordinate_variances(self.variances))

    def noised(self, sigma: float) -> GaussianMixture:
        """The law of x + σ ε with ε ~ N(0, I): every variance grows by σ²."""
        more = number(sigma, "sigma", 0, math.inf, closed="low") ** 2
        return GaussianMixture(self.weights, self.means, self.variances + more, self.axes)

    @property
    def curvature(self) -> float:
        """1 / the smallest variance: no eigenvalue of -∇²log p is larger anywhere; infinite for points."""
        least = float(self.variances.min())
        return 1 / least if least > 0 else math.inf

    def log_prob(self, x: Tensor) -> Tensor:
        """log Σ_k w_k N(x; m_k, v_k), shape (B,), in nats. Raises ValueError where a variance is 0."""
        return self._log_joint(x).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """∇_x log p(x) = Σ_k r_k(x) (m_k - x) / v_k, with r_k the responsibilities; shape of x."""
        r = _over(self._log_joint(x).softmax(1), self.event)
        return (r * self._turn_back(self._turn(self.means - x.unsqueeze(1)) / self.variances)).sum(1)

    def _log_joint(self, x: Tensor) -> Tensor:
        """log w_k + log N(x; m_k, v_k), shape (B, K)."""
        _of_event(x, "x", self.event)
        z = self._turn(x.unsqueeze(1) - self.means)
        return _flat(Gaussian(torch.zeros_like(z), self.variances).log_prob(z), self.event) + self.weights.log()

    def _turn(self, d: Tensor) -> Tensor:
        """Differences (B, K, *event) in each component's own axes, where its coordinates are independent."""
        return d if self.axes is None else torch.einsum("bkd,kde->bke", d, self.axes)

    def _turn_back(self, z: Tensor, k: Tensor | None = None) -> Tensor:
        """The inverse of `_turn`; with k (B,), one chosen component for each z (B, *event)."""
        if self.axes is None:
            return z
        return torch.einsum("bke,kde->bkd", z, self.axes) if k is None else torch.einsum("be,bde->bd", z, self.axes[k])

    def _coordinate_variances(self, v: Tensor) -> Tensor:
        """Variances (..., K, *event) along the axes -> variances of the coordinates: the diagonal of U diag(v) Uᵀ."""
        return v if self.axes is None else torch.einsum("kde,...ke->...kd", self.axes**2, v)


class Oracle:
    """Everything exact about `data` (a GaussianMixture) under `diffusion`; callable as an eps_model.

    With α̂ = √ᾱ_t and component k, x_0 given x_t is N(m_k + g_k (x_t - α̂ m_k), v_k (1 - ᾱ_t) / V_k), where
    V_k = ᾱ_t v_k + 1 - ᾱ_t is the component's variance at t and g_k = α̂ v_k / V_k. The methods mix these.
    """

    def __init__(self, data: GaussianMixture, diffusion: GaussianDiffusion):
        self.data = instance(data, "data", GaussianMixture)
        self.diffusion = instance(diffusion, "diffusion", GaussianDiffusion)

    def __call__(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        return self.eps_star(x_t, t)

    def q_t(self, t: int) -> GaussianMixture:
        """The marginal q(x_t) = Σ_k w_k N(√ᾱ_t m_k, ᾱ_t v_k + 1 - ᾱ_t); t = 0 is the data."""
        alpha_bar_t = float(self.diffusion.schedule.alpha_bars[_one_step(t, self.diffusion.T)])
        m, v = self.data.means, self.data.variances
        return GaussianMixture(self.data.weights, math.sqrt(alpha_bar_t) * m, alpha_bar_t * v + 1 - alpha_bar_t, self.data.axes)

    def eps_star(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """E[ε | x_t], the minimiser of L_simple: the perfect noise prediction."""
        return self.diffusion.eps_from_x0(x_t, self.x_0_moments(x_t, t)[0], t)

    def score(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """∇ log q(x_t), from the marginal itself: Σ_k r_k (√ᾱ_t m_k - x_t) / V_k."""
        r, signal, V = self._components(x_t, t)
        pull = self.data._turn_back(self.data._turn(signal * self.data.means - x_t.unsqueeze(1)) / V)
        return (_over(r, self.data.event) * pull).sum(1)

    def log_q(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """log q(x_t), shape (B,), in nats; t may be 0 when no component is a point."""
        if isinstance(t, int):
            return self.q_t(t).log_prob(x_t)
        return self._log_joint(x_t, t)[0].logsumexp(1)

    def x_0_moments(self, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and Var(x_0 | x_t), coordinate by coordinate, both of the shape of x_t."""
        r, signal, V = self._components(x_t, t)
        means, variances = self._x_0_given(x_t, signal, V)
        return _mix(_over(r, self.data.event), means, self.data._coordinate_variances(variances), dim=1)

    def sample_x_0(self, x_t: Tensor, t: int | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One draw of x_0 from q(x_0 | x_t) for each x_t."""
        r, signal, V = self._components(x_t, t)
        means, variances = self._x_0_given(x_t, signal, V)
        k = torch.multinomial(r, 1, generator=generator)[:, 0]
        rows = torch.arange(len(x_t))
        z = Gaussian(torch.zeros_like(x_t), variances[rows, k]).sample(generator)
        return means[rows, k] + self.data._turn_back(z, k)

    def q_s_log_prob(self, x_s: Tensor, x_t: Tensor, t: int | Tensor, s: int | None = None) -> Tensor:
        """log q(x_s | x_t) = log q(x_s) + log q(x_t | x_s) - log q(x_t), Bayes' rule, shape (B,), in nats."""
        step = _flat(self.diffusion.q_step(x_s, t, s).log_prob(x_t), self.data.event)
        return self.log_q(x_s, t - 1 if s is None else s) + step - self.log_q(x_t, t)

    def q_s_moments(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_s | x_t): what an ideal reverse step has [Bao 2022, Thm. 1].

        The mean is μ̃ at E[x_0 | x_t]; the variance is β̃ + (slope of μ̃ in x_0)² · Var(x_0 | x_t).
        """
        mean_0, var_0 = self.x_0_moments(x_t, t)
        q = self.diffusion.q_posterior(mean_0, x_t, t, s)
        slope = self.diffusion.q_posterior(torch.ones_like(x_t), torch.zeros_like(x_t), t, s).mean
        return q.mean, q.var + slope**2 * var_0

    def sigma2_optimal(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """Var(x_s | x_t), as a reverse variance for `p_mean_variance`."""
        return self.q_s_moments(x_t, t, s)[1]

    def _components(self, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_joint, signal, V = self._log_joint(x_t, t)
        return log_joint.softmax(1), signal, V

    def _log_joint(self, x_t: Tensor, t: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k + log N(x_t; √ᾱ_t m_k, V_k), shape (B, K), with √ᾱ_t and V_k shaped (B or 1, K or 1, *event)."""
        data = self.data
        _of_event(x_t, "x_t", data.event)
        alpha_bar_t = self.diffusion.alpha_bar(t, x_t.shape).unsqueeze(1 if x_t.ndim else 0)
        alpha_bar_t = alpha_bar_t.to(x_t.device)
        signal, V = alpha_bar_t.sqrt().to(x_t.dtype), (alpha_bar_t * data.variances + 1 - alpha_bar_t).to(x_t.dtype)
        z = data._turn(x_t.unsqueeze(1) - signal * data.means)
        log_N = _flat(Gaussian(torch.zeros_like(z), V).log_prob(z), data.event)
        return log_N + data.weights.log(), signal, V

    def _x_0_given(self, x_t: Tensor, signal: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        m, v = self.data.means, self.data.variances
        means = m + self.data._turn_back(signal * v / V * self.data._turn(x_t.unsqueeze(1) - signal * m))
        return means, (v - (signal * v) ** 2 / V).clamp(min=0).expand_as(means)


class ClassOracle(Oracle):
    """An oracle of data in classes: exact answers told the class, and the exact classifier of noised data, p(y | x_t).

    `labels` int64 (K,) names the class 0..C-1 of each component of `data`, every class at least once. Callable as a
    network with classes for `guided`: y int64 (B,), with y = C, or none, for "not told".
    """

    def __init__(self, data: GaussianMixture, diffusion: GaussianDiffusion, labels: Tensor):
        super().__init__(data, diffusion)
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != data.weights.shape:
            raise TypeError(f"labels must be an int64 tensor of shape {tuple(data.weights.shape)}, got {labels!r}")
        C = int(labels.max()) + 1
        if sorted(set(labels.tolist())) != list(range(C)):
            raise ValueError(f"labels must hold every class from 0 to {C - 1}, got {sorted(set(labels.tolist()))}")
        self.labels, self.config = labels, {"classes": C}
        self.told = [Oracle(self.of_class(k), diffusion) for k in range(C)]

    def of_class(self, k: int) -> GaussianMixture:
        """p(x_0 | y = k): the components of that class, their weights made to sum to 1."""
        if not 0 <= count(k, "k", low=0) < self.config["classes"]:
            raise ValueError(f"k = {k} is outside 0..{self.config['classes'] - 1}")
        data, own = self.data, self.labels == k
        axes = data.axes[own] if data.axes is not None else None
        return GaussianMixture(data.weights[own] / data.weights[own].sum(), data.means[own], data.variances[own], axes)

    def __call__(self, x_t: Tensor, t: int | Tensor, y: Tensor | None = None) -> Tensor:
        """E[ε | x_t, y], and E[ε | x_t] where y is not told."""
        if y is None:
            return self.eps_star(x_t, t)
        C = self.config["classes"]
        if instance(y, "y", Tensor).dtype != torch.int64:
            raise TypeError(f"y must be an int64 tensor of classes 0..{C}, got dtype {y.dtype}")
        if y.shape != x_t.shape[:1] or not (0 <= int(y.min()) and int(y.max()) <= C):
            raise ValueError(f"y must hold one class 0..{C} for each x_t, got shape {tuple(y.shape)}: {y.tolist()}")
        answers = torch.stack([oracle.eps_star(x_t, t) for oracle in self.told] + [self.eps_star(x_t, t)])
        return answers[y, torch.arange(len(y))]

    def log_prob_y(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """log p(y | x_t) for every class, shape (B, C): a perfect classifier of noised data (int 0: of clean)."""
        log_joint = self.q_t(t)._log_joint(x_t) if isinstance(t, int) else self._log_joint(x_t, t)[0]
        log_r = log_joint.log_softmax(1)
        return torch.stack([log_r[:, self.labels == k].logsumexp(1) for k in range(self.config["classes"])], 1)


class SDEOracle:
    """Everything exact about `data` (a GaussianMixture) under a `VPSDE`, at any time in [0, 1]; callable as a score."""

    def __init__(self, data: GaussianMixture, sde: VPSDE):
        self.data, self.sde = instance(data, "data", GaussianMixture), instance(sde, "sde", VPSDE)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """∇ log q_t(x), of the shape of x."""
        return self.q_t(t).score(x)

    def q_t(self, t: float) -> GaussianMixture:
        """The marginal q_t = Σ_k w_k N(√ᾱ(t) m_k, ᾱ(t) v_k + 1 - ᾱ(t)); t = 0 is the data."""
        if isinstance(t, Tensor) and t.ndim:
            raise ValueError(f"t must be one time in [0, 1], the same for all; got a tensor of shape {tuple(t.shape)}")
        data, alpha_bar_t = self.data, float(self.sde.alpha_bar(t))
        variances = alpha_bar_t * data.variances + (1 - alpha_bar_t)
        return GaussianMixture(data.weights, math.sqrt(alpha_bar_t) * data.means, variances, data.axes)

    def log_q(self, x: Tensor, t: float) -> Tensor:
        """log q_t(x), shape (B,), in nats; t may be 0 when no component is a point."""
        return self.q_t(t).log_prob(x)


class LinearGaussianChain:
    """A model whose likelihood is known: x_T ~ N(0, I) and p_θ(x_{t-1} | x_t) = N(g_t x_t + h_t, r_t I).

    slopes, offsets, variances: g_t, h_t and r_t > 0 for t = 1..T, T numbers each or one number for all t; the tables
    then have length T + 1 like a schedule's, entry 0 doing nothing. Callable as an eps_model, with `sigma2` as its
    reverse variance, so the functions of the bound take it like a network. Data x_0 have shape (B, ...).
    """

    def __init__(self, diffusion: GaussianDiffusion, slopes, offsets, variances):
        self.diffusion = instance(diffusion, "diffusion", GaussianDiffusion)
        self.slopes = _per_step(slopes, "slopes", diffusion.T, 1.0)
        self.offsets = _per_step(offsets, "offsets", diffusion.T, 0.0)
        self.variances = _per_step(variances, "variances", diffusion.T, 0.0)
        if (self.variances[1:] <= 0).any():
            raise ValueError(f"variances must be > 0, got {float(self.variances[1:].min())}")
        p = Gaussian(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
        self._marginals = [p]
        for t in range(diffusion.T, 0, -1):
            p = push_forward(p, self.slopes[t], self.variances[t], self.offsets[t])
            self._marginals.insert(0, p)

    def __call__(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        """The ε̂ that makes μ_θ = g_t x_t + h_t."""
        return self.diffusion.eps_from_mean(x_t, self.reverse(x_t, t).mean, t)

    def sigma2(self, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """r_t, for one step back; s must be t - 1."""
        if s is not None and bool((torch.as_tensor(t) - torch.as_tensor(s) != 1).any()):
            raise ValueError(f"s = {s} is not t - 1; a chain of given steps has no others")
        return self.reverse(x_t, t).var

    def reverse(self, x_t: Tensor, t: int | Tensor) -> Gaussian:
        """p_θ(x_{t-1} | x_t) = N(g_t x_t + h_t, r_t)."""
        self.diffusion.alpha_bar(t, real(x_t, "x_t").shape)  # refuses a t of another batch
        steps = as_steps(t, self.diffusion.T)
        shape = steps.shape + (1,) * (real(x_t, "x_t").ndim - steps.ndim)
        g, h, r = (table[steps].reshape(shape).to(x_t) for table in (self.slopes, self.offsets, self.variances))
        return Gaussian(g * x_t + h, r)

    def marginal(self, t: int) -> Gaussian:
        """p_θ(x_t), by pushing N(0, 1) down from T: m -> g m + h, v -> g² v + r."""
        return self._marginals[int(_one_step(t, self.diffusion.T))]

    def forward(self, x_s: Tensor, t: int) -> Gaussian:
        """p_θ(x_t | x_{t-1}), the model's own noising step: Bayes' rule on its reverse step. `x_s` is x_{t-1}."""
        as_steps(t, self.diffusion.T)
        return condition(self.marginal(t), real(x_s, "x_s").double() - self.offsets[t], self.slopes[t], self.variances[t])

    def log_prob(self, x_0: Tensor) -> Tensor:
        """log p_θ(x_0), exactly, shape (B,), in nats."""
        return per_sample(self.marginal(0).log_prob(_batch(x_0)))

    def bound_terms(self, x_0: Tensor) -> Tensor:
        """The expected L_0, L_1, …, L_T for each x_0, exactly, shape (B, T + 1), in nats.

        A term is a KL that is quadratic in x_t, so its mean is its value at E[x_t] and ½ (slope)² Var(x_t) / r_t more.
        """
        x_0 = _batch(x_0)
        one, zero, terms = torch.ones_like(x_0), torch.zeros_like(x_0), []
        for t in range(1, self.diffusion.T + 1):
            x_t, p_slope = self.diffusion.q_marginal(x_0, t), self.slopes[t]
            p, q = self.reverse(x_t.mean, t), self.diffusion.q_posterior(x_0, x_t.mean, t)
            slope = self.diffusion.q_posterior(zero, one, t).mean - p_slope
            at_mean = q.kl(p) if t > 1 else -p.log_prob(x_0)
            terms.append(at_mean + slope**2 * x_t.var / (2 * p.var))
        terms.append(x_t.kl(Gaussian(zero, one)))
        return torch.stack([per_sample(term) for term in terms], 1)

    def gap_terms(self, x_0: Tensor) -> Tensor:
        """E_q KL(q(x_t | x_{t-1}) ‖ p_θ(x_t | x_{t-1})) for t = 1..T, exactly, shape (B, T), in nats.

        Their sum is log p_θ(x_0) - ELBO.
        """
        x_0 = _batch(x_0)
        one, zero, terms = torch.ones_like(x_0), torch.zeros_like(x_0), []
        x_s = Gaussian(x_0, zero)
        for t in range(1, self.diffusion.T + 1):
            own = self.forward(torch.stack([zero, one, x_s.mean]), t)
            slope = self.diffusion.q_step(one, t).mean - (own.mean[1] - own.mean[0])
            p = Gaussian(own.mean[2], own.var)
            at_mean = self.diffusion.q_step(x_s.mean, t).kl(p)
            terms.append(per_sample(at_mean + slope**2 * x_s.var / (2 * p.var)))
            x_s = self.diffusion.q_marginal(x_0, t)
        return torch.stack(terms, 1)


def _one_step(t: int | Tensor, T: int) -> Tensor:
    """One step 0..T, the same for a whole batch."""
    steps = as_steps(t, T, low=0)
    if steps.ndim:
        raise ValueError(f"t must be one step, the same for all; got a tensor of shape {tuple(steps.shape)}")
    return steps


def _batch(x_0: Tensor) -> Tensor:
    """x_0 in float64, with its batch axis made sure of."""
    if real(x_0, "x_0").ndim < 1:
        raise ValueError("x_0 has shape (); wanted (B, ...), one row for each sample")
    return x_0.double()


def _per_step(values, name: str, T: int, first: float) -> Tensor:
    """A table of length T + 1 from T numbers or one."""
    table = torch.as_tensor(values, dtype=torch.float64)
    if table.ndim > 1 or (table.ndim == 1 and len(table) != T):
        raise ValueError(f"{name} must be one number or T = {T} numbers, got shape {tuple(table.shape)}")
    return torch.cat([torch.tensor([first], dtype=torch.float64), real(table, name).expand(T)])


def _mix(weights: Tensor, means: Tensor, variances: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    w = weights if dim else _over(weights, means.shape[1:])
    mean = (w * means).sum(dim)
    return mean, (w * (variances + (means - mean.unsqueeze(dim)) ** 2)).sum(dim)


def _over(r: Tensor, event: torch.Size) -> Tensor:
    """Give per-component numbers the event's axes."""
    return r.reshape(r.shape + (1,) * len(event))


def _flat(per_coordinate: Tensor, event: torch.Size) -> Tensor:
    """Sum over the event's axes."""
    return per_coordinate.flatten(per_coordinate.ndim - len(event)).sum(-1) if event else per_coordinate


def _of_event(x: Tensor, name: str, event: torch.Size) -> None:
    if real(x, name).ndim != 1 + len(event) or x.shape[1:] != event:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; wanted (B, {', '.join(map(str, event))}) for this data")
