"""The small network for points."""

import pytest
import torch

from ddpm_edu import GaussianDiffusion, NoiseSchedule
from ddpm_edu.mlp import MLP


def test_starts_at_zero_keeps_the_shape_and_every_parameter_learns():
    network = MLP(dim=3, width=16, layers=2)
    x_t = torch.randn(5, 3)
    assert torch.equal(network(x_t, torch.tensor([1, 2, 3, 4, 5])), torch.zeros(5, 3))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    (network(x_t, torch.tensor([1, 2, 3, 4, 5])) ** 3).mean().backward()
    assert all((p.grad != 0).all() for p in network.parameters())


def test_a_learned_variance_doubles_the_output_and_starts_at_zero():
    network = MLP(dim=3, width=16, layers=1, learned_variance=True)
    assert torch.equal(network(torch.randn(5, 3), torch.ones(5, dtype=torch.int64)), torch.zeros(5, 6))
    assert MLP(dim=3).config["learned_variance"] is False


def test_learns_the_exact_noise_of_a_gaussian():
    """For data N(m, v) the best ε̂ is known: √(1-ᾱ) (x_t - √ᾱ m) / (ᾱ v + 1 - ᾱ)."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(20, 0.01, 0.4))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    network = MLP(dim=1, width=32, layers=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    m, v = 0.7, 0.25
    for _ in range(600):
        x_0 = m + v**0.5 * torch.randn(256, 1, generator=generator)
        t = torch.randint(1, 21, (256,), generator=generator)
        loss = diffusion.simple_loss(network, x_0, t, torch.randn(256, 1, generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for t in (1, 10, 20):
        alpha_bar_t = float(diffusion.schedule.alpha_bars[t])
        centre, spread = alpha_bar_t**0.5 * m, (alpha_bar_t * v + 1 - alpha_bar_t) ** 0.5
        x_t = torch.linspace(centre - 1.5 * spread, centre + 1.5 * spread, 50)[:, None]
        exact = (1 - alpha_bar_t) ** 0.5 * (x_t - centre) / spread**2
        with torch.no_grad():
            assert (network(x_t, torch.full((50,), t)) - exact).abs().mean() < 0.12


def test_refuses():
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(B, 2\)"):
        MLP()(torch.zeros(4, 3), torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="width = 33"):
        MLP(width=33)
