"""The witnesses themselves, against closed forms that owe nothing to diffusion."""

import math

import pytest
import torch

from ddpm_edu.routes import chain_joint, chain_moments, density_moments, grid, integrate, walk_chain


def test_integrate():
    x = grid(0, math.pi)
    assert float(integrate(torch.sin(x), x)) == pytest.approx(2, abs=1e-7)
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
