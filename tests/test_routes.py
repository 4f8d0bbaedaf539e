"""The witnesses themselves, against closed forms that owe nothing to diffusion."""

import math

import pytest
import torch

from ddpm_edu.routes import (
    chain_joint,
    chain_moments,
    density_moments,
    grid,
    integrate,
    push_density,
    quadratic_moments,
    reverse_joint,
    walk_chain,
    walk_density,
    walk_distribution,
)


def test_integrate():
    x = grid(0, math.pi)
    assert float(integrate(torch.sin(x), x)) == pytest.approx(2, abs=1e-7)
    rows = torch.stack([x, 2 * x])  # a grid for each row
    assert integrate(torch.sin(rows), rows).tolist() == pytest.approx([2, 0], abs=1e-6)
    x = grid(-12, 12, 2001)
    both = integrate(torch.stack([torch.exp(-(x**2)), x**2 * torch.exp(-(x**2))]), x)
    assert both.tolist() == pytest.approx([math.sqrt(math.pi), math.sqrt(math.pi) / 2], abs=1e-13)


def test_density_moments_of_a_gumbel():
    log_Z, mean, var = density_moments(lambda x: math.log(3) - x - torch.exp(-x), grid(-8, 60, 400001))
    assert float(log_Z) == pytest.approx(math.log(3), abs=1e-9)
    assert float(mean) == pytest.approx(0.5772156649, abs=1e-8)
    assert float(var) == pytest.approx(math.pi**2 / 6, abs=1e-7)


def test_chain_by_hand():
    means, variances = chain_moments([0.19, 0.36], mean=1.0, var=0.0)
    assert means.tolist() == pytest.approx([1, 0.9, 0.72]) and variances.tolist() == pytest.approx([0, 0.19, 0.4816])
    mean, cov = chain_joint([0.19, 0.36], mean=1.0, var=0.0)
    assert mean.tolist() == pytest.approx([1, 0.9, 0.72])
    assert cov[1].tolist() == pytest.approx([0, 0.19, 0.8 * 0.19]) and float(cov[2, 2]) == pytest.approx(0.4816)
    assert torch.allclose(chain_joint([0.19, 0.36], 0.0, 1.0)[1].diagonal(), torch.ones(3, dtype=torch.float64))


def test_walk_chain_uses_fresh_noise():
    x = walk_chain([0.5, 0.5], torch.zeros(200_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert float(x.var()) == pytest.approx(0.75, rel=5 * math.sqrt(2 / 200_000))  # one shared ε would give 1.46
    assert float((x**4).mean() / x.var() ** 2) == pytest.approx(3, abs=5 * math.sqrt(24 / 200_000))


@pytest.mark.parametrize("arguments", [(1, 0), (0, 0), (0, 1, 2)])
def test_grid_refuses(arguments):
    with pytest.raises(ValueError, match="low < high"):
        grid(*arguments)


def test_walk_density_of_linear_moves_is_a_gaussian():
    moves = [lambda x: (0.9 * x + 0.1, torch.full_like(x, 0.04)), lambda x: (0.5 * x, torch.full_like(x, 0.0025))]
    x, density = walk_density(moves)
    mean, var = 0.5 * 0.1, 0.25 * (0.81 + 0.04) + 0.0025
    want = torch.exp(-0.5 * (x - mean) ** 2 / var) / math.sqrt(2 * math.pi * var)
    assert float((density - want).abs().max()) < 1e-8


def test_walk_density_takes_a_variance_that_depends_on_x():
    # x -> N(0, 1 + x²): the mean stays 0, the variance is 1 + E x², the fourth moment 3 E (1 + x²)².
    x, density = walk_density([lambda x: (0 * x, 1 + x**2)], reach=60.0)
    assert float(integrate(density * x**2, x)) == pytest.approx(2, abs=1e-6)
    assert float(integrate(density * x**4, x)) == pytest.approx(3 * (1 + 2 + 3), abs=1e-2)


def test_push_density_is_a_convolution():
    """Exponential(1) pushed through y = x + N(0, s²): the exponentially modified Gaussian, from scipy."""
    from scipy.stats import exponnorm

    x, s = grid(0, 40, 40001), 0.7
    y = torch.linspace(-1, 6, 15, dtype=torch.float64)

    def kernel(y):
        return -0.5 * ((y - x) / s) ** 2 - math.log(s * math.sqrt(2 * math.pi))

    got = push_density(torch.exp(-x), x, kernel, y)
    assert got.tolist() == pytest.approx(exponnorm.pdf(y.numpy(), 1 / s, loc=0, scale=s).tolist(), abs=1e-6)


def test_quadratic_moments_of_known_forms():
    """For z ~ N(0, I): Var(z²) = 2, Var(z₁ z₂) = 1; chi-square's moments; and a correlated pair by Isserlis' theorem."""
    mean, cov = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)

    def f(z):
        a, b = z[:, 0], z[:, 1]
        return torch.stack([a**2, a * b, 3 * b + 1], 1)

    m, C = quadratic_moments(f, mean, cov)
    assert m.tolist() == pytest.approx([0.25 + 2, -0.5 + 0.6, -2])
    # Var(a²) = 2v² + 4m²v; Var(ab) = v_a v_b + c² + m_a² v_b + m_b² v_a + 2 m_a m_b c; Cov(a², 3b) = 3 · 2 m_a c; …
    assert float(C[0, 0]) == pytest.approx(2 * 4 + 4 * 0.25 * 2)
    assert float(C[1, 1]) == pytest.approx(2 + 0.36 + 0.25 + 2 - 0.6)
    assert float(C[2, 2]) == pytest.approx(9) and float(C[0, 2]) == pytest.approx(3 * 2 * 0.5 * 0.6)
    assert float(C[0, 1]) == pytest.approx(2 * 2 * 0.6 + 2 * 0.5 * (2 * -1.0 + 0.6 * 0.5))
    assert torch.allclose(C, C.T)


def test_reverse_joint_is_what_walking_back_gives():
    g, h, r = [0.9, 0.5, -0.3], [0.1, 0.0, 1.0], [0.2, 0.4, 0.1]
    mean, cov = reverse_joint(g, h, r)
    gen = torch.Generator().manual_seed(0)
    states = [torch.randn(200_000, generator=gen, dtype=torch.float64)]
    for t in (2, 1, 0):
        noise = torch.randn(200_000, generator=gen, dtype=torch.float64)
        states.insert(0, g[t] * states[0] + h[t] + r[t] ** 0.5 * noise)
    path = torch.stack(states)
    assert torch.allclose(path.mean(1), mean, atol=0.02) and torch.allclose(torch.cov(path), cov, atol=0.03)
    assert float(mean[3]) == 0 and float(cov[3, 3]) == 1 and float(mean[2]) == 1


def test_walk_distribution_with_and_without_noise():
    # x_T ~ N(0, 1), doubled and shifted, noise 0.3, a cube root's inverse, halved: everything is known.
    moves = [lambda x: (2 * x + 1, torch.tensor(0.0)), lambda x: (0.5 * x, 0.3 + 0 * x), lambda x: (x**3 + x, 0.0)]
    y, F = walk_distribution(moves[:2])
    assert torch.allclose(F, torch.special.ndtr((y - 0.5) / math.sqrt(1.3)), atol=1e-7)
    y, F = walk_distribution(moves)
    x = torch.linspace(-1.3, 1.5, 9, dtype=torch.float64)
    places = torch.bucketize(x**3 + x, y)
    root = y[places]
    for _ in range(60):  # Newton's method for u³ + u = y
        root = root - (root**3 + root - y[places]) / (3 * root**2 + 1)
    assert torch.allclose(F[places], torch.special.ndtr((root - 0.5) / math.sqrt(1.3)), atol=1e-6)


def test_walk_distribution_agrees_with_walk_density():
    moves = [lambda x: (x + torch.tanh(x), 0.4 + 0 * x), lambda x: (0.6 * x + 0.3 * torch.tanh(3 * x), 0.1 + 0 * x)]
    x, density = walk_density(moves)
    y, F = walk_distribution(moves)
    summed = torch.cumulative_trapezoid(density, x)
    want = torch.as_tensor(summed)[torch.bucketize(y[3000:5000], x) - 1]
    assert float((F[3000:5000] - want).abs().max()) < 2e-3  # the places differ by up to one cell
    assert float(integrate(F[3000:5000], y[3000:5000])) == pytest.approx(float(integrate(want, y[3000:5000])), abs=2e-3)
