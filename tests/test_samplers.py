"""Samplers at small T against the exact recursion of moments: an off-by-one shows at T = 10, not in pictures."""

import math
from itertools import pairwise

import pytest
import torch

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle, ancestral

DIFFUSION = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
VAR_0 = 0.3
ORACLE = Oracle(GaussianMixture([1.0], [0.0], [VAR_0]), DIFFUSION)


def exact_variance(visited, sigma2):
    """Var of the generated x_0 for N(0, VAR_0) data and the perfect network, by walking the moments in plain floats."""
    betas = DIFFUSION.schedule.betas.tolist()
    bars = [math.prod(1 - b for b in betas[: t + 1]) for t in range(11)]
    variance = 1.0
    for t, s in pairwise(visited):
        alpha, beta = bars[t] / bars[s], 1 - bars[t] / bars[s]
        gain = math.sqrt(bars[t]) * VAR_0 / (bars[t] * VAR_0 + 1 - bars[t])  # E[x_0 | x_t] = gain x_t
        mean = math.sqrt(bars[s]) * beta / (1 - bars[t]) * gain + math.sqrt(alpha) * (1 - bars[s]) / (1 - bars[t])
        extra = 0.0 if s == 0 else beta if sigma2 == "beta" else beta * (1 - bars[s]) / (1 - bars[t])
        variance = mean**2 * variance + extra
    return variance


@pytest.mark.parametrize("steps", [None, 5, [10, 7, 1, 0]])
@pytest.mark.parametrize("sigma2", ["beta", "beta_tilde"])
def test_ancestral_variance_is_the_exact_recursion(steps, sigma2):
    gen = torch.Generator().manual_seed(0)
    n = 200_000
    x_T = torch.randn(n, generator=gen, dtype=torch.float64)
    choice = DIFFUSION.sigma2_beta if sigma2 == "beta" else DIFFUSION.sigma2_beta_tilde
    *_, last = ancestral(DIFFUSION, ORACLE, x_T, steps, sigma2=choice, generator=gen)
    want = exact_variance(DIFFUSION.schedule.steps(steps), sigma2)
    x = last.x_t / math.sqrt(want)
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - mean) < 5 * math.sqrt(var / n)


def test_default_sigma2_is_beta_and_the_optimal_one_reproduces_the_data():
    gen = torch.Generator().manual_seed(0)
    x_T = torch.randn(1000, generator=gen, dtype=torch.float64)
    a, b = (
        [*ancestral(DIFFUSION, ORACLE, x_T, sigma2=c, generator=torch.Generator().manual_seed(1))][-1].x_t
        for c in (None, DIFFUSION.sigma2_beta)
    )
    assert torch.equal(a, b)
    x_T = math.sqrt(float(DIFFUSION.schedule.alpha_bars[-1]) * VAR_0 + 1 - float(DIFFUSION.schedule.alpha_bars[-1])) * (
        torch.randn(200_000, generator=gen, dtype=torch.float64)
    )
    # From the exact q(x_T), with the exact variance, every state but x_0 has the forward marginal's variance.
    for step in ancestral(DIFFUSION, ORACLE, x_T, sigma2=ORACLE.sigma2_optimal, generator=gen):
        bar = float(DIFFUSION.schedule.alpha_bars[step.t])
        if step.t > 0:
            assert float(step.x_t.var()) == pytest.approx(bar * VAR_0 + 1 - bar, rel=5 * math.sqrt(2 / 200_000))


def test_what_is_yielded():
    x_T = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    oracle = Oracle(GaussianMixture([1.0], [[0.0]], [VAR_0]), DIFFUSION)
    walk = list(ancestral(DIFFUSION, oracle, x_T, steps=[10, 6, 2, 0], generator=torch.Generator().manual_seed(0)))
    assert [step.t for step in walk] == [10, 6, 2, 0]
    assert torch.equal(walk[0].x_t, x_T)
    for step in walk[:-1]:
        assert torch.allclose(step.x_0_hat, DIFFUSION.x0_from_eps(step.x_t, oracle(step.x_t, step.t), step.t))
    assert torch.equal(walk[-1].x_0_hat, walk[-1].x_t)
    # The last move adds no noise: x_0 is the estimate made at the last visited step.
    assert torch.allclose(walk[-1].x_t, walk[-2].x_0_hat, atol=1e-14)


def test_the_network_sees_each_visited_step_once_and_no_gradient():
    seen = []

    def net(x, t):
        seen.append((t.tolist(), torch.is_grad_enabled()))
        return torch.zeros_like(x)

    list(ancestral(DIFFUSION, net, torch.zeros(2, 3)))
    assert seen == [([t, t], False) for t in range(10, 0, -1)]


def test_same_generator_same_sample_and_start_is_untouched():
    x_T = torch.ones(3, 2)
    runs = [[*ancestral(DIFFUSION, lambda x, t: x, x_T, generator=torch.Generator().manual_seed(5))][-1].x_t for _ in range(2)]
    assert torch.equal(*runs) and torch.equal(x_T, torch.ones(3, 2))


def test_clip_bounds_the_sample():
    *_, last = ancestral(DIFFUSION, lambda x, t: torch.zeros_like(x), 5 * torch.ones(3, 2), clip=1.0)
    assert float(last.x_t.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"steps": 11}, ValueError, "steps = 11"),
        ({"steps": [10, 10, 0]}, ValueError, "strictly decreasing"),
        ({"steps": [10, 5]}, ValueError, "end in 0"),
        ({"x_T": torch.zeros(2, dtype=torch.int64)}, TypeError, "x_T has dtype"),
        ({"x_T": torch.tensor([math.nan])}, ValueError, "x_T holds 1"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(kwargs, error, message):
    with pytest.raises(error, match=message):
        ancestral(DIFFUSION, ORACLE, **{"x_T": torch.zeros(2), **kwargs})
