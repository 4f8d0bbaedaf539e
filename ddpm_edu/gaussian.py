"""Gaussians with independent coordinates, Gaussians with a full covariance, and the few rules that the derivations use."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ._args import common_shape, count, finite, instance, real


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, var · I), coordinate by coordinate. `var` is a variance, never a standard deviation.

    `mean` and `var` are floating tensors that broadcast; var >= 0, and 0 means a point. All densities, divergences and
    entropies are per coordinate and in nats: sum them over a sample's own axes to get the sample's.
    """

    mean: Tensor
    var: Tensor

    def __post_init__(self):
        mean, var = real(self.mean, "mean"), real(self.var, "var")
        common_shape(mean=mean, var=var)
        if var.device.type == "cpu" and (var < 0).any():
            raise ValueError(f"var must be >= 0, got {float(var.min())}")

    def sample(self, generator: torch.Generator | None = None, eps: Tensor | None = None) -> Tensor:
        """mean + √var · eps, with eps ~ N(0, I) drawn from `generator` unless it is given [Ho 2020, Alg. 2, line 4]."""
        shape = common_shape(mean=self.mean, var=self.var)
        if eps is None:
            eps = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        else:
            common_shape(mean=self.mean, var=self.var, eps=real(eps, "eps"))
        return self.mean + self.var.sqrt() * eps

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mean, var) = -½ [(x - mean)² / var + log(2π var)], per coordinate, in nats.

        Raises ValueError where var is 0: a point has no density.
        """
        common_shape(x=real(x, "x"), mean=self.mean, var=self.var)
        var = self._positive_var("log_prob")
        return -0.5 * ((x - self.mean) ** 2 / var + torch.log(2 * math.pi * var))

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self ‖ other) = ½ [var/var' - 1 - log(var/var') + (mean - mean')² / var'], per coordinate, in nats.

        It is +∞ where self is a point and other is not. Raises ValueError where other is a point.
        """
        instance(other, "other", Gaussian)
        common_shape(mean=self.mean, var=self.var, other_mean=other.mean, other_var=other.var)
        other_var = other._positive_var("kl(other)")
        ratio = self.var / other_var
        return 0.5 * (ratio - 1 - torch.log(ratio) + (self.mean - other.mean) ** 2 / other_var)

    def entropy(self) -> Tensor:
        """½ log(2πe var), per coordinate, in nats. Raises ValueError where var is 0."""
        return 0.5 * torch.log(2 * math.pi * math.e * self._positive_var("entropy")).expand_as(self.mean + self.var)

    # The same density as exp(η_1 x + η_2 x² - A): what multiplying densities adds up ------------------------------

    @classmethod
    def from_natural(cls, eta_1: Tensor, eta_2: Tensor) -> Gaussian:
        """The Gaussian ∝ exp(η_1 x + η_2 x²): variance -1/(2 η_2), mean η_1 · variance. Raises ValueError where η_2 >= 0."""
        common_shape(eta_1=real(eta_1, "eta_1"), eta_2=real(eta_2, "eta_2"))
        if eta_2.device.type == "cpu" and (eta_2 >= 0).any():
            raise ValueError(f"eta_2 must be < 0, or the density has no finite area; got {float(eta_2.max())}")
        var = -0.5 / eta_2
        return cls(eta_1 * var, var)

    def natural(self) -> tuple[Tensor, Tensor]:
        """(η_1, η_2) = (mean/var, -1/(2 var)), per coordinate. Raises ValueError where var is 0."""
        var = self._positive_var("natural")
        return self.mean / var, -0.5 / var

    def log_partition(self) -> Tensor:
        """A = log ∫ exp(η_1 x + η_2 x²) dx = ½ [mean²/var + log(2π var)], per coordinate. Raises ValueError where var is 0."""
        var = self._positive_var("log_partition")
        return 0.5 * (self.mean**2 / var + torch.log(2 * math.pi * var))

    def _positive_var(self, what: str) -> Tensor:
        if self.var.device.type == "cpu" and (self.var == 0).any():
            raise ValueError(f"{what} needs var > 0 everywhere; var is 0 (a point) in {int((self.var == 0).sum())} place(s)")
        return self.var


@dataclass(frozen=True, eq=False)
class FullGaussian:
    """N(mean, cov): one vector whose coordinates may be correlated. Densities and divergences are the whole vector's, in nats.

    Shapes: mean (n,), cov (n, n), symmetric and positive definite; a ValueError says which of these fails.
    """

    mean: Tensor
    cov: Tensor
    root: Tensor = field(init=False)  # the Cholesky factor L, with L Lᵀ = cov

    def __post_init__(self):
        mean, cov = real(self.mean, "mean"), real(self.cov, "cov")
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise ValueError(f"want mean (n,) and cov (n, n); got mean {tuple(mean.shape)}, cov {tuple(cov.shape)}")
        skew = float((cov - cov.T).abs().max())
        if skew > 1e-5 * float(cov.abs().max()):
            raise ValueError(f"cov must be symmetric; it differs from its transpose by up to {skew}")
        root, failed = torch.linalg.cholesky_ex(cov)
        if failed:
            smallest = float(torch.linalg.eigvalsh(cov)[0])
            raise ValueError(f"cov must be positive definite; its smallest eigenvalue is {smallest}")
        object.__setattr__(self, "root", root)

    def sample(self, generator: torch.Generator | None = None, eps: Tensor | None = None) -> Tensor:
        """mean + L · eps, with eps ~ N(0, I) drawn from `generator` unless it is given, shape (..., n)."""
        if eps is None:
            eps = torch.randn(len(self.mean), generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self._vectors(eps, "eps") @ self.root.T

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mean, cov) = -½ [(x - mean)ᵀ cov⁻¹ (x - mean) + log det(2π cov)] for x of shape (..., n)."""
        return -0.5 * (self._distance2(self._vectors(x, "x")) + self._log_det_2pi())

    def kl(self, other: FullGaussian) -> Tensor:
        """KL(self ‖ other) = ½ [tr(cov'⁻¹ cov) - n + log(det cov'/det cov) + (mean - mean')ᵀ cov'⁻¹ (mean - mean')]."""
        if len(self.mean) != len(instance(other, "other", FullGaussian).mean):
            raise ValueError(f"self has {len(self.mean)} coordinates, other has {len(other.mean)}; they must be equal")
        trace = torch.cholesky_solve(self.cov, other.root).trace()
        log_dets = other._log_det_2pi() - self._log_det_2pi()
        return 0.5 * (trace - len(self.mean) + log_dets + other._distance2(self.mean))

    def entropy(self) -> Tensor:
        """½ log det(2πe cov)."""
        return 0.5 * (len(self.mean) + self._log_det_2pi())

    def affine(self, A: Tensor, b: Tensor | float = 0.0) -> FullGaussian:
        """The law of A x + b for x ~ self: N(A mean + b, A cov Aᵀ). Shapes: A (m, n) of rank m, b (m,) or a number."""
        if real(A, "A").ndim != 2 or A.shape[1] != len(self.mean):
            raise ValueError(f"A must have shape (m, {len(self.mean)}), got {tuple(A.shape)}")
        b = finite(b, "b", self.mean)
        if b.shape not in ((), A.shape[:1]):
            raise ValueError(f"b must be a number or have shape ({len(A)},), as A has {len(A)} rows; got {tuple(b.shape)}")
        cov = A @ self.cov @ A.T
        return FullGaussian(A @ self.mean + b, (cov + cov.T) / 2)

    @classmethod
    def from_natural(cls, eta_1: Tensor, eta_2: Tensor) -> FullGaussian:
        """The Gaussian ∝ exp(η_1ᵀ x + xᵀ η_2 x): cov = (-2 η_2)⁻¹, mean = cov η_1. Shapes: (n,) and (n, n).

        Raises ValueError unless -η_2 is symmetric and positive definite.
        """
        try:
            precision = cls(eta_1, -2 * real(eta_2, "eta_2"))
        except ValueError as error:
            raise ValueError(f"eta_1 and eta_2 make no Gaussian: with mean = eta_1 and cov = -2 eta_2, {error}") from None
        cov = torch.cholesky_inverse(precision.root)
        return cls(cov @ eta_1, cov)

    def natural(self) -> tuple[Tensor, Tensor]:
        """(η_1, η_2) = (cov⁻¹ mean, -½ cov⁻¹)."""
        precision = torch.cholesky_inverse(self.root)
        return precision @ self.mean, -0.5 * precision

    def log_partition(self) -> Tensor:
        """A = log ∫ exp(η_1ᵀ x + xᵀ η_2 x) dx = ½ [meanᵀ cov⁻¹ mean + log det(2π cov)]."""
        return 0.5 * (self._distance2(torch.zeros_like(self.mean)) + self._log_det_2pi())

    def _distance2(self, x: Tensor) -> Tensor:
        """(x - mean)ᵀ cov⁻¹ (x - mean) = ‖L⁻¹ (x - mean)‖², one number for each vector."""
        white = torch.linalg.solve_triangular(self.root, (x - self.mean).unsqueeze(-1), upper=False)
        return white.squeeze(-1).square().sum(-1)

    def _log_det_2pi(self) -> Tensor:
        return len(self.mean) * math.log(2 * math.pi) + 2 * self.root.diagonal().log().sum()

    def _vectors(self, x: Tensor, name: str) -> Tensor:
        if real(x, name).ndim < 1 or x.shape[-1] != len(self.mean):
            raise ValueError(f"{name} must have shape (..., {len(self.mean)}), got {tuple(x.shape)}")
        return x


# The rules -------------------------------------------------------------------------------------------------------


def push_forward(g: Gaussian, a: Tensor | float, var: Tensor | float, b: Tensor | float = 0.0) -> Gaussian:
    """The law of a·x + b + noise, for x ~ g and independent noise ~ N(0, var): N(a·mean + b, a²·g.var + var).

    This one line is scaling, shifting, adding and marginalising: ∫ N(y; a·x + b, var) g(x) dx.
    """
    a, b, var = _like(a, "a", instance(g, "g", Gaussian)), _like(b, "b", g), _like(var, "var", g)
    return Gaussian(a * g.mean + b, a**2 * g.var + var)


def product(g: Gaussian, h: Gaussian) -> tuple[Gaussian, Tensor]:
    """g(x) · h(x) = Z · N(x; m, v), two densities of the SAME variable; returns (N(m, v), log Z).

    1/v = 1/g.var + 1/h.var (precisions add),   m = v · (g.mean/g.var + h.mean/h.var),
    Z = N(g.mean; h.mean, g.var + h.var). Raises ValueError where a variance is 0.
    """
    g_var, h_var = (instance(x, name, Gaussian)._positive_var("product") for name, x in (("g", g), ("h", h)))
    common_shape(g_mean=g.mean, g_var=g_var, h_mean=h.mean, h_var=h_var)
    var = 1 / (1 / g_var + 1 / h_var)
    mean = var * (g.mean / g_var + h.mean / h_var)
    log_Z = Gaussian(h.mean, g_var + h_var).log_prob(g.mean)
    return Gaussian(mean, var), log_Z


def condition(prior: Gaussian, y: Tensor, a: Tensor | float, var: Tensor | float) -> Gaussian:
    """The law of x given y = a·x + noise, for x ~ prior and noise ~ N(0, var).

    gain = a·v / (a²·v + var) with v = prior.var,   mean = m + gain · (y - a·m),   variance = (1 - gain·a) · v.
    Unlike `product` it allows a prior that is a point. Raises ValueError where a²·v + var is 0.
    """
    a, var = _like(a, "a", instance(prior, "prior", Gaussian)), _like(var, "var", prior)
    common_shape(y=real(y, "y"), mean=prior.mean, var=var)
    total = a**2 * prior.var + var
    if total.device.type == "cpu" and (total <= 0).any():
        raise ValueError("a²·prior.var + var must be > 0: a noise-free observation of a point says nothing")
    gain = a * prior.var / total
    return Gaussian(prior.mean + gain * (y - a * prior.mean), prior.var * var / total)


def condition_joint(mean: Tensor, cov: Tensor, y: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Split z = (u, y) ~ N(mean, cov) after `keep` coordinates; the mean and covariance of u given y.

    m_u + Σ_uy Σ_yy⁻¹ (y - m_y),    Σ_uu - Σ_uy Σ_yy⁻¹ Σ_yu.
    Shapes: mean (n,), cov (n, n), y (n - keep,). Raises ValueError for other shapes.
    """
    n = len(real(mean, "mean"))
    if real(cov, "cov").shape != (n, n) or not 0 < count(keep, "keep") < n or real(y, "y").shape != (n - keep,):
        raise ValueError(
            f"want mean (n,), cov (n, n), y (n - keep,) with 0 < keep < n; "
            f"got mean {tuple(mean.shape)}, cov {tuple(cov.shape)}, y {tuple(y.shape)}, keep = {keep}"
        )
    try:
        gain = torch.linalg.solve(cov[keep:, keep:], cov[keep:, :keep]).T
    except torch.linalg.LinAlgError:
        raise ValueError(f"cov has no inverse on the {n - keep} coordinates of y, so y cannot be conditioned on") from None
    return mean[:keep] + gain @ (y - mean[keep:]), cov[:keep, :keep] - gain @ cov[keep:, :keep]


def discretised_log_prob(x: Tensor, g: Gaussian, levels: int = 256) -> Tensor:
    """log of the mass that N(g.mean, g.var) gives to the bin of x, for data of `levels` values on [-1, 1].

    ∫_{δ₋(x)}^{δ₊(x)} N(u; g.mean, g.var) du with δ± = x ± 1/(levels - 1); the lowest bin starts at -∞ and the highest
    ends at +∞, so the masses of all levels sum to 1 [Ho 2020, Eq. 13]. Per coordinate, in nats.
    Computed without cancellation far out in the tails. Raises ValueError for x outside [-1, 1] or off the grid.
    """
    common_shape(x=real(x, "x"), mean=g.mean, var=g.var)
    sigma = g._positive_var("discretised_log_prob").sqrt()
    half = 1 / (count(levels, "levels", low=2) - 1)
    index = (x + 1) / (2 * half)
    if x.device.type == "cpu" and x.numel() and ((index - index.round()).abs() > 0.01).any():
        raise ValueError(f"x must hold the {levels} values -1, …, 1 of an image's grey levels; some lie between two levels")
    if x.device.type == "cpu" and x.numel() and (x.abs() > 1 + half / 4).any():
        raise ValueError(f"x must lie in [-1, 1], got values from {float(x.min())} to {float(x.max())}")
    low = torch.where(x > -1 + half, (x - half - g.mean) / sigma, -torch.inf)
    high = torch.where(x < 1 - half, (x + half - g.mean) / sigma, torch.inf)
    # A bin right of the mean is mirrored to the left, where the cumulative function keeps its digits.
    flip = low + high > 0
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(log_low - log_high))


def _like(value: Tensor | float, name: str, g: Gaussian) -> Tensor:
    x = finite(value, name, g.mean)
    common_shape(**{name: x, "g.mean": g.mean})
    if name == "var" and x.device.type == "cpu" and (x < 0).any():
        raise ValueError(f"var must be >= 0, got {float(x.min())}: it is a variance")
    return x
