"""Steering against plain numbers: filters as matrices, ILVR and RePaint typed out, exact moments against samples, PriorGrad."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from ddpm_edu import Gaussian, GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle, ancestral
from ddpm_edu.gaussian import FullGaussian
from ddpm_edu.samplers import ddim
from ddpm_edu.steering import (
    average_filter,
    bilinear_filter,
    ilvr,
    inpaint,
    mask_filter,
    prior_loss,
    priorgrad,
    replacement_limit,
    replacing,
    steered,
    steered_moments,
    whiten,
    whitened,
)

randn = partial(torch.randn, dtype=torch.float64)
BETAS = [0.1, 0.2, 0.3, 0.4]
DIFFUSION = GaussianDiffusion(NoiseSchedule.from_betas(BETAS))
BARS = [math.prod(1 - b for b in BETAS[:t]) for t in range(5)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def odd(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x) - 0.1 * t.reshape(-1, *(1,) * (x.ndim - 1))


def matrix(phi, shape=(1, 4, 4)):
    d = math.prod(shape)
    return phi(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, d).T


def test_average_filter_is_the_mean_of_each_block():
    want = [[0.25 * (i // 8 == j // 8 and i % 4 // 2 == j % 4 // 2) for j in range(16)] for i in range(16)]
    assert torch.equal(matrix(average_filter(2)), torch.tensor(want, dtype=torch.float64))


def test_bilinear_filter_in_one_corner_and_inside():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[..., :2, :2] = 1  # block means 1, 0, 0, 0
    line = torch.tensor([1, 0.75, 0.25, 0], dtype=torch.float64)
    assert torch.allclose(bilinear_filter(2)(x)[0, 0], line[:, None] * line)
    A = matrix(bilinear_filter(2))
    assert (A @ A - A).abs().max() > 0.01


def test_mask_filter():
    mask = torch.tensor([True, False, True])
    assert mask_filter(mask)(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[1, 0, 3]]


@pytest.mark.parametrize("phi", [average_filter(2), bilinear_filter(2)])
@pytest.mark.parametrize("repeats", [1, 3])
def test_ilvr_typed_out(phi, repeats):
    x, y = randn(2, 1, 4, 4, generator=seeded(1)), randn(2, 1, 4, 4, generator=seeded(2))
    *_, last = ilvr(DIFFUSION, odd, x, y, phi, seeded(3), repeats=repeats)
    same = seeded(3)
    for t in range(4, 0, -1):
        for again in range(repeats if t > 1 else 1):
            x = (x - BETAS[t - 1] / (1 - BARS[t]) ** 0.5 * odd(x, torch.full((2,), t))) / (1 - BETAS[t - 1]) ** 0.5
            y_s = y
            if t > 1:
                x = x + BETAS[t - 1] ** 0.5 * randn(x.shape, generator=same)
                y_s = BARS[t - 1] ** 0.5 * y + (1 - BARS[t - 1]) ** 0.5 * randn(x.shape, generator=same)
            x = x + phi(y_s - x)
            if t > 1 and again < repeats - 1:
                x = (1 - BETAS[t - 1]) ** 0.5 * x + BETAS[t - 1] ** 0.5 * randn(x.shape, generator=same)
    assert torch.allclose(last.x_t, x, atol=1e-12)


def test_known_part_is_exact_and_projections_keep_the_low_band():
    x, y = randn(3, 1, 4, 4, generator=seeded(1)), randn(1, 1, 4, 4, generator=seeded(2))
    mask = torch.arange(16).reshape(4, 4) % 3 == 0
    *_, last = inpaint(DIFFUSION, odd, x, y, mask, seeded(3), sampler=ddim, steps=2)
    assert torch.equal(last.x_t[..., mask], y.expand_as(x)[..., mask])
    for phi, kept in ((average_filter(2), True), (bilinear_filter(2), False)):
        *_, last = ilvr(DIFFUSION, odd, x, y, phi, seeded(3))
        assert bool((phi(last.x_t) - phi(y)).abs().max() < 1e-12) is kept


def test_steering_that_does_nothing_is_the_sampler_and_asks_the_network_as_often():
    calls = []

    def counting(x, t):
        calls.append(int(t[0]))
        return odd(x, t)

    x = randn(3, 2, generator=seeded(1))
    for sampler, options in ((ancestral, {"clip": 1.0}), (ddim, {"eta": 0.0})):
        calls.clear()
        got = list(
            steered(DIFFUSION, counting, x, lambda x, s: x, [4, 2, 1, 0], sampler=sampler, generator=seeded(2), **options)
        )
        assert calls == [4, 2, 1]
        want = list(sampler(DIFFUSION, odd, x, [4, 2, 1, 0], generator=seeded(2), **options))
        assert [step.t for step in got] == [step.t for step in want]
        for a, b in zip(got, want):
            assert torch.equal(a.x_t, b.x_t) and torch.equal(a.x_0_hat, b.x_0_hat)
    calls.clear()
    visits = [step.t for step in steered(DIFFUSION, counting, x, lambda x, s: x, [4, 2, 1, 0], repeats=3)]
    assert calls == [4] * 3 + [2] * 3 + [1] and visits == [*calls, 0]


@pytest.mark.parametrize("P, projects", [([[0.5, 0.5], [0.5, 0.5]], True), ([[0.2, 0.9], [-0.5, 0.3]], False)])
@pytest.mark.parametrize("repeats", [1, 2])
def test_moments_against_samples(repeats, P, projects):
    data = FullGaussian(
        torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([[0.5, 0.6], [0.6, 2.0]], dtype=torch.float64)
    )
    oracle = Oracle(GaussianMixture.with_covariances([1.0], data.mean[None], data.cov[None]), DIFFUSION)
    y, n = torch.tensor([[0.0, 0.8]], dtype=torch.float64), 40_000
    P = torch.tensor(P, dtype=torch.float64)
    steer = replacing(DIFFUSION, y, lambda x: x @ P.T, seeded(1))
    start = randn(n, 2, generator=seeded(3))
    *_, last = steered(DIFFUSION, oracle, start, steer, repeats=repeats, generator=seeded(2))
    M, V = steered_moments(DIFFUSION, data, y, P, repeats=repeats)
    assert (last.x_t.mean(0) - M[0]).abs().max() < 5 * float(V.diagonal().max() / n) ** 0.5
    assert torch.allclose(torch.cov(last.x_t.T), V, atol=0.02)
    assert bool((P @ (M - y)[0]).abs().max() < 1e-12 and (P @ V).abs().max() < 1e-12) is projects


def test_replacement_limit_golden():
    # (1 - √(1-ρ²)) / ρ at ρ = 0.6 and 0.8, and the integral of sinh² in closed form for U = 2
    assert replacement_limit(0.6)[0] == pytest.approx(1 / 3, abs=1e-12)
    assert replacement_limit(-0.8)[0] == pytest.approx(-0.5, abs=1e-12)
    assert replacement_limit(0.8)[1] == pytest.approx(0.36 * math.log(3) / 0.8, abs=1e-12)
    theta, s = math.atanh(0.6), 0.75
    squares = (math.sinh(2 * theta) / 4 - theta / 2) / s**2
    assert replacement_limit(0.6, 2) == pytest.approx((2 * squares, 3 * 0.64 / 0.6 * squares), abs=1e-12)
    assert replacement_limit(0.0) == (0.0, 1.0)


COV = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0], dtype=torch.float64)


@pytest.mark.parametrize("cov", [COV, torch.diag(COV.diagonal())])
def test_priorgrad_typed_out(cov):
    prior = FullGaussian(MEAN, cov) if cov[0, 1] else Gaussian(MEAN, cov.diagonal())
    L = torch.linalg.cholesky(cov)
    x = prior.sample(eps=randn(3, 2, generator=seeded(1)))
    *_, last = priorgrad(DIFFUSION, odd, x, prior, generator=seeded(2))
    state, same = x - MEAN, seeded(2)
    for t in range(4, 0, -1):
        eps_hat = odd(state + MEAN, torch.full((3,), t))
        state = (state - BETAS[t - 1] / (1 - BARS[t]) ** 0.5 * eps_hat) / (1 - BETAS[t - 1]) ** 0.5
        if t > 1:
            state = state + BETAS[t - 1] ** 0.5 * randn(3, 2, generator=same) @ L.T
    assert torch.allclose(last.x_t, state + MEAN, atol=1e-12)
    x_0, white, t = randn(3, 2, generator=seeded(3)), randn(3, 2, generator=seeded(4)), torch.tensor([1, 2, 4])
    bar = torch.tensor(BARS, dtype=torch.float64)[t, None]
    error = white @ L.T - odd(MEAN + bar.sqrt() * (x_0 - MEAN) + (1 - bar).sqrt() * white @ L.T, t)
    want = torch.einsum("bi,ij,bj->", error, torch.linalg.inv(cov), error) / 6
    assert torch.allclose(prior_loss(DIFFUSION, odd, x_0, t, white, prior), want, atol=1e-12)
    assert torch.allclose(prior.sample(eps=whiten(prior, x_0)), x_0, atol=1e-12)


X = torch.zeros(2, 1, 4, 4)
MASK = torch.ones(4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: average_filter(3)(X), ValueError, "factor = 3 must divide"),
        (lambda: ilvr(DIFFUSION, odd, X, X, average_filter(3)), ValueError, "factor = 3 must divide"),
        (lambda: ilvr(DIFFUSION, odd, X, X, bilinear_filter(3)), ValueError, "factor = 3 must divide"),
        (lambda: average_filter(2)(torch.zeros(4)), ValueError, "shape"),
        (lambda: average_filter(0), ValueError, "factor = 0"),
        (lambda: bilinear_filter(2.0), TypeError, "factor"),
        (lambda: ilvr(DIFFUSION, odd, X, torch.zeros(2, 1, 8, 8), average_filter(2)), ValueError, "y has shape"),
        (lambda: ilvr(DIFFUSION, odd, X[:1], X, average_filter(2)), ValueError, "y has shape"),
        (lambda: inpaint(DIFFUSION, odd, X, X, MASK.float()), TypeError, "mask must be a bool tensor"),
        (lambda: inpaint(DIFFUSION, odd, X, X, [True]), TypeError, "mask must be a bool tensor"),
        (lambda: inpaint(DIFFUSION, odd, X, X, torch.ones(3, 4, dtype=torch.bool)), ValueError, "mask has shape"),
        (lambda: inpaint(DIFFUSION, odd, X, X, torch.ones(5, 2, 1, 4, 4, dtype=torch.bool)), ValueError, "mask has shape"),
        (lambda: inpaint(DIFFUSION, odd, X, X * float("nan"), MASK), ValueError, "NaN"),
        (lambda: inpaint(DIFFUSION, odd, X, X, MASK, repeats=0), ValueError, "repeats = 0"),
        (lambda: inpaint(DIFFUSION, odd, X, X, MASK, steps=[4, 2]), ValueError, "end in 0"),
        (lambda: steered_moments(DIFFUSION, FullGaussian(MEAN, COV), MEAN, torch.eye(3)), ValueError, "P \\(3, 3\\)"),
        (lambda: steered_moments(DIFFUSION, FullGaussian(MEAN, COV), MEAN, COV, [4, 0], repeats=0), ValueError, "repeats = 0"),
        (lambda: replacement_limit(1.0), ValueError, "rho = 1.0"),
        (lambda: FullGaussian(MEAN, -COV), ValueError, "positive definite"),
        (lambda: whitened(odd, Gaussian(MEAN, torch.tensor([1.0, 0.0]))), ValueError, "positive definite"),
        (lambda: priorgrad(DIFFUSION, odd, MEAN[None], COV), TypeError, "prior must be a Gaussian"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("repeats", [1, 3])
def test_small_steps_come_to_the_limit(repeats):
    """A pair of correlation 0.6, one of them known: two routes to what replacing makes of the other."""
    diffusion = GaussianDiffusion(NoiseSchedule.linear(2000, 5e-5, 0.01))
    data = FullGaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64))
    P, y = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64)), torch.tensor([1.0, 0.0], dtype=torch.float64)
    M, V = steered_moments(diffusion, data, y, P, repeats=repeats)
    slope, variance = replacement_limit(0.6, repeats)
    assert float(M[1]) == pytest.approx(slope, abs=5e-3) and float(V[1, 1]) == pytest.approx(variance, abs=5e-3)
