"""Independent routes: plain witnesses that know nothing of the package's formulas.

They take numbers (a list of β, a density as a function) and do the literal thing: integrate on a grid, walk the chain
step by step, build the whole joint covariance. The checks of the book set them against the closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from ._args import count, finite, instance, number, real


def grid(low: float, high: float, n: int = 20001) -> Tensor:
    """n equally spaced float64 points from low to high, for `integrate` and `density_moments`."""
    if not -torch.inf < low < high < torch.inf or count(n, "n", low=0) < 3:
        raise ValueError(f"grid needs low < high, both finite, and n >= 3, got low = {low}, high = {high}, n = {n}")
    return torch.linspace(low, high, n, dtype=torch.float64)


def integrate(values: Tensor, x: Tensor) -> Tensor:
    """∫ values dx over the last axis by the trapezoidal rule, on a grid x (n,), or with a grid (..., n) for each row.

    For a smooth function that is flat at both ends of the grid the rule is exact to rounding once the grid is finer
    than the function's features.
    """
    if instance(x, "x", Tensor).ndim < 1 or values.shape[-1:] != x.shape[-1:] or not bool((x.diff() >= 0).all()):
        raise ValueError(
            f"x must be a grid that never falls, one place for each of the values of shape {tuple(values.shape)}; "
            f"got shape {tuple(x.shape)}"
        )
    return torch.trapezoid(values, x, dim=-1)


def density_moments(log_density: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(log Z, mean, variance) of the density ∝ exp(log_density(x)) on a grid that covers it: Bayes' rule, literally."""
    log_p = log_density(x)
    if log_p.shape != x.shape or not bool((log_p < torch.inf).all()):  # NaN fails too
        raise ValueError(f"log_density must return one number below infinity for each of {tuple(x.shape)} places, got {log_p}")
    top = log_p.max()
    p = torch.exp(log_p - top)
    Z = integrate(p, x)
    mean = integrate(p * x, x) / Z
    return top + torch.log(Z), mean, integrate(p * (x - mean) ** 2, x) / Z


def chain_moments(betas: Sequence[float], mean: float, var: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_0..x_T, pushed through x_t = √(1-β_t) x_{t-1} + √β_t ε one step at a time; (T + 1,) each."""
    means, variances = [float(finite(mean, "mean"))], [number(float(var), "var", 0, torch.inf, closed="low")]
    for beta in _between_0_1(betas):
        means.append((1 - beta) ** 0.5 * means[-1])
        variances.append((1 - beta) * variances[-1] + beta)
    return torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)


def walk_chain(betas: Sequence[float], x_0: Tensor, generator: torch.Generator) -> Tensor:
    """The forward chain, walked: x_t = √(1-β_t) x_{t-1} + √β_t ε with fresh noise at each step; the last state."""
    x = real(x_0, "x_0")
    for beta in _between_0_1(betas):
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def _between_0_1(betas: Sequence[float]) -> list[float]:
    return [number(float(beta), f"betas[{k}]", 0, 1, closed="low high") for k, beta in enumerate(betas)]


def chain_joint(betas: Sequence[float], mean: float, var: float) -> tuple[Tensor, Tensor]:
    """Mean (T + 1,) and covariance (T + 1, T + 1) of the whole path (x_0, …, x_T) of numbers, x_0 having `mean`, `var`.

    The path is linear in its independent noises, x = A (x_0, ε_1, …, ε_T), so the covariance is A diag(var, 1, …) Aᵀ.
    """
    T, var = len(betas), number(float(var), "var", 0, torch.inf, closed="low")
    A = torch.zeros(T + 1, T + 1, dtype=torch.float64)
    A[0, 0] = 1
    for t, beta in enumerate(_between_0_1(betas), start=1):
        A[t] = (1 - beta) ** 0.5 * A[t - 1]
        A[t, t] = beta**0.5
    spread = torch.ones(T + 1, dtype=torch.float64)
    spread[0] = var
    return A[:, 0] * mean, A @ torch.diag(spread) @ A.T


def reverse_joint(slopes: Sequence[float], offsets: Sequence[float], variances: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (x_0, …, x_T) for x_T ~ N(0, 1), x_{t-1} = g_t x_t + h_t + √r_t z_t; g, h, r at t = 1..T."""
    T = len(slopes)
    if not T == len(offsets) == len(variances):
        raise ValueError(
            f"slopes, offsets and variances must be as long as each other, got {T}, {len(offsets)}, {len(variances)}"
        )
    mean, A = torch.zeros(T + 1, dtype=torch.float64), torch.eye(T + 1, dtype=torch.float64)
    for t in range(T, 0, -1):
        g, h, r = float(slopes[t - 1]), float(offsets[t - 1]), float(variances[t - 1])
        number(r, f"variances[{t - 1}]", 0, torch.inf, closed="low")
        mean[t - 1] = g * mean[t] + h
        A[t - 1] = g * A[t]
        A[t - 1, t - 1] = r**0.5
    return mean, A @ A.T


def push_density(density: Tensor, x: Tensor, kernel: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """One step of a chain on a grid: p'(y) = ∫ exp(log k(y | x)) p(x) dx, for the values of p on x; the values of p' on y.

    `kernel(y)` takes y as a column (m, 1) and returns log k(y | x) for all of x, shape (m, n).
    """
    return integrate(kernel(y.unsqueeze(1)).exp() * density, x)


def walk_density(moves: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]], reach: float = 6.0) -> tuple[Tensor, Tensor]:
    """The density of a sampler's state, on a grid: x_T ~ N(0, 1), then `moves`, each x -> N(mean(x), var(x)), var > 0.

    A move takes points x and returns mean and variance there. Returns the last grid, on [-reach, reach], and the density
    on it. A grid's spacing is at most two thirds of the smallest deviation of the noise that made it: the trapezoidal rule is
    then exact to 1e-8, as long as the noise of a move is no less than two thirds of that of the move before it. On the way
    401 points are enough for that; the last grid, on which a caller goes on to integrate, has 8001 at least.
    """
    x = grid(-number(reach, "reach", 0, torch.inf), reach, 401)
    density = torch.exp(-0.5 * x**2) / (2 * torch.pi) ** 0.5
    for k, move in enumerate(moves, start=1):
        mean, var = move(x)
        if not bool((var > 0).all()):
            raise ValueError(f"var of move {k} must be > 0 everywhere, got {float(var.min())}")
        y = grid(-reach, reach, max(8001 if k == len(moves) else 401, int(3 * reach / float(var.min().sqrt()))))
        weights = torch.full_like(x, float(x[1] - x[0]))
        weights[[0, -1]] /= 2  # the trapezoidal rule, as a vector
        kernel = (y.unsqueeze(1) - mean).square_().div_(-2 * var).exp_()
        x, density = y, kernel @ (weights * density / (2 * torch.pi * var) ** 0.5)
    return x, density


def walk_distribution(moves: Sequence[Callable[[Tensor], tuple[Tensor, Tensor]]], reach: float = 8.0) -> tuple[Tensor, Tensor]:
    """The distribution function of a sampler's state, on a grid: x_T ~ N(0, 1), then `moves`, each x -> N(mean(x), var).

    For moves whose mean grows with x and whose var >= 0 is one number: the mean carries every quantile to its place, and
    the noise is a convolution, done wave by wave. Unlike `walk_density` it takes moves without noise. Returns 8193 places
    on [-reach, reach] and the function there. Where noise is added, the function must be smooth on a 256th of `reach`.
    """
    even, x = grid(-reach, reach, 2049), grid(-reach, reach, 2049)
    waves = 2 * torch.pi * torch.fft.rfftfreq(2048, float(x[1] - x[0]), dtype=torch.float64)
    bell = torch.special.ndtr(even)
    F = bell

    def at(y: Tensor) -> Tensor:
        return torch.as_tensor(PchipInterpolator(x, F)(y.clamp(float(x[0]), float(x[-1]))))

    for move in moves:
        mean, var = move(x)
        x, noise = mean, number(float(torch.as_tensor(var).flatten()[0]), "var", 0, torch.inf, closed="low")
        if not bool((x.diff() >= 0).all()):
            raise ValueError("mean of a move must grow with x: only then does it carry every quantile to its place")
        if noise > 0:  # F = Φ + a rest that is 0 at both ends; with the noise Φ becomes Φ(y / √(1 + var))
            rest = torch.fft.rfft((at(even) - bell)[:-1]) * torch.exp(-0.5 * noise * waves**2)
            rest = torch.fft.irfft(rest, 2048)
            x, F = even, torch.special.ndtr(even / (1 + noise) ** 0.5) + torch.cat([rest, rest[:1]])
    places = grid(-reach, reach, 8193)
    return places, at(places)


def quadratic_moments(f: Callable[[Tensor], Tensor], mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (K,) and covariance (K, K) of f(z) for z ~ N(mean, cov), exactly, when each of f's K values is quadratic in z.

    f takes points (n, d) and returns (n, K). Differences of a quadratic are exact, so its slopes b at the mean and its
    second derivatives H need no small step: E f_i = f_i(mean) + ½ tr(H_i C), Cov = b_iᵀ C b_j + ½ tr(H_i C H_j C).
    """
    d = len(mean)
    if mean.ndim != 1 or cov.shape != (d, d):
        raise ValueError(f"want mean (d,) and cov (d, d); got mean {tuple(mean.shape)}, cov {tuple(cov.shape)}")
    unit = torch.eye(d, dtype=mean.dtype)
    at, up, down = f(mean.unsqueeze(0))[0], f(mean + unit), f(mean - unit)
    rows, columns = torch.triu_indices(d, d)
    corners = f(mean + unit[rows] + unit[columns]) - up[rows] - up[columns] + at
    H = torch.zeros(len(at), d, d, dtype=mean.dtype)
    H[:, rows, columns] = H[:, columns, rows] = corners.T
    slopes, HC = (up - down).T / 2, H @ cov
    spread = slopes @ cov @ slopes.T + 0.5 * torch.einsum("iab,jba->ij", HC, HC)
    return at + 0.5 * torch.einsum("iaa->i", HC), spread
