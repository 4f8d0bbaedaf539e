"""The SDE against quadrature, solved moment equations, autograd and its own chains."""

import math

import pytest
import torch
from scipy.integrate import quad, solve_ivp
from torch.func import grad

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle
from ddpm_edu.oracles import SDEOracle
from ddpm_edu.routes import chain_moments
from ddpm_edu.sde import VPSDE

SDE = VPSDE()
LINE = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
TILTED = GaussianMixture.with_covariances(
    [0.4, 0.6], [[-1.0, 0.2], [0.6, -0.5]], [[[0.3, 0.2], [0.2, 0.4]], [[0.2, 0.0], [0.0, 0.1]]]
)
SDES = [SDE, VPSDE(1.0, 1.0), VPSDE(8.0, 0.2)]
ids = repr


@pytest.mark.parametrize("sde", SDES, ids=ids)
def test_alpha_bar_is_the_exponential_of_the_integral(sde):
    for t in (0.0, 0.003, 0.4, 1.0):
        assert float(sde.alpha_bar(t)) == pytest.approx(math.exp(-quad(lambda u: float(sde.beta(u)), 0, t)[0]), rel=1e-12)
    assert [float(sde.beta(t)) for t in (0, 1)] == pytest.approx([sde.beta_min, sde.beta_max]) and float(sde.alpha_bar(0)) == 1


@pytest.mark.parametrize("sde", SDES, ids=ids)
def test_q_step_solves_the_equations_of_mean_and_variance(sde):
    def rate(t, y):
        beta = sde.beta_min + t * (sde.beta_max - sde.beta_min)
        return [-0.5 * beta * y[0], beta * (1 - y[1])]

    for s, t in ((0.0, 0.001), (0.0, 1.0), (0.3, 0.6)):
        want = solve_ivp(rate, (s, t), [1.7, 0.0], rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]
        q = sde.q_step(torch.tensor([1.7], dtype=torch.float64), t, s)
        assert [float(q.mean), float(q.var)] == pytest.approx(list(want), rel=1e-8, abs=1e-11)


def test_a_jump_is_two_jumps_and_no_jump_is_a_point():
    x = torch.tensor([0.3, -2.0], dtype=torch.float64)
    first, whole = SDE.q_step(x, 0.4, 0.1), SDE.q_step(x, 0.9, 0.1)
    second = SDE.q_step(first.mean, 0.9, 0.4)
    keep = SDE.q_step(torch.ones(1, dtype=torch.float64), 0.9, 0.4).mean
    assert torch.allclose(second.mean, whole.mean) and torch.allclose(second.var + keep**2 * first.var, whole.var)
    still = SDE.q_step(x, 0.4, 0.4)
    assert torch.equal(still.mean, x) and float(still.var) == 0


def test_small_times_keep_their_digits():
    # In float32, 1 - alpha_bar at t = 1e-6 would be wrong in its first digit.
    var = SDE.q_marginal(torch.ones(1), 1e-6).var
    assert var.dtype == torch.float32 and float(var) == pytest.approx(0.1e-6 + 0.5 * 19.9e-12, rel=1e-6)


def test_times_may_differ_from_sample_to_sample():
    t = torch.tensor([0.0, 0.2, 1.0])
    x_0, eps = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = SDE.q_sample(x_0, t, eps)
    for k in range(3):
        assert torch.allclose(together[k], SDE.q_sample(x_0[k : k + 1], float(t[k]), eps[k : k + 1])[0], rtol=1e-6)
    assert torch.equal(together[0], x_0[0])
    assert SDE.drift(x_0, t).shape == SDE.reverse_drift(x_0, eps, t).shape == SDE.x0_from_score(x_0, eps, t).shape == x_0.shape


def test_the_papers_schedule_is_its_chain_of_1000_steps():
    assert torch.allclose(SDE.schedule(1000).betas, NoiseSchedule.linear().betas, rtol=1e-12, atol=0)


@pytest.mark.parametrize("sde", SDES, ids=ids)
def test_the_chain_approaches_the_sde_at_the_rate_1_over_N(sde):
    # Σβ_k is the trapezoidal value of ∫β plus nothing (β is straight), and log(1 - β) = -β - β²/2 - …
    limit = -0.5 * quad(lambda u: float(sde.beta(u)) ** 2, 0, 1)[0]
    for N in (1000, 10_000, 100_000):
        log_ratio = float(sde.schedule(N).alpha_bars[-1].log() - sde.alpha_bar(1.0).log())
        assert N * log_ratio == pytest.approx(limit, rel=30 / N)
    _, variances = chain_moments(sde.schedule(4000).betas[1:].tolist(), 0.0, 0.25)
    want = sde.q_marginal(torch.zeros(1, dtype=torch.float64), 1.0).var + 0.25 * sde.alpha_bar(1.0)
    assert float(variances[-1]) == pytest.approx(float(want), abs=0.02)


def test_the_exact_chain_is_the_sde_at_any_number_of_steps():
    for N in (1, 3, 10):
        chain = SDE.schedule(N, exact=True)
        assert torch.allclose(chain.alpha_bars, SDE.alpha_bar(torch.arange(N + 1, dtype=torch.float64) / N), rtol=1e-14)
        x = torch.tensor([0.7], dtype=torch.float64)
        a, b = GaussianDiffusion(chain).q_step(x, N), SDE.q_step(x, 1.0, (N - 1) / N)
        assert torch.allclose(a.mean, b.mean) and torch.allclose(a.var, b.var)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_every_reverse_drift_moves_the_density_through_the_marginals(eta):
    # In reversed time: -∂q/∂t = -∂(b q)/∂x + ½ η² β ∂²q/∂x² with b = -reverse_drift, all derivatives by autograd.
    for at in (0.05, 0.3, 0.9):
        t = torch.full((21,), at, dtype=torch.float64, requires_grad=True)
        x = torch.linspace(-2.5, 2.5, 21, dtype=torch.float64).requires_grad_()
        a = torch.exp(-SDE.beta_min * t - 0.5 * (SDE.beta_max - SDE.beta_min) * t**2).unsqueeze(1)
        V = a * LINE.variances + 1 - a
        bells = torch.exp(-0.5 * (x.unsqueeze(1) - a.sqrt() * LINE.means) ** 2 / V) / (2 * math.pi * V).sqrt()
        q = (LINE.weights * bells).sum(1)

        def slope(value, of):
            return torch.autograd.grad(value.sum(), of, create_graph=True)[0]

        drift = SDE.reverse_drift(x, slope(q.log(), x), at, eta)
        change, carried, spread = slope(q, t), slope(drift * q, x), slope(slope(q, x), x)
        assert torch.allclose(change, -carried - 0.5 * eta**2 * SDE.beta(at) * spread, atol=1e-10)


def test_x_0_from_the_score_is_the_posterior_mean():
    N = 5
    discrete = Oracle(LINE, GaussianDiffusion(SDE.schedule(N, exact=True)))
    x = torch.linspace(-2, 2, 7, dtype=torch.float64)
    for k in (1, 3, 5):
        slope = SDEOracle(LINE, SDE)(x, k / N)
        assert torch.allclose(slope, discrete.score(x, k))
        assert torch.allclose(SDE.x0_from_score(x, slope, k / N), discrete.x_0_moments(x, k)[0], atol=1e-10)


@pytest.mark.parametrize("data", [LINE, TILTED], ids=["line", "tilted"])
def test_sde_oracle_is_the_data_s_own_law_noised(data):
    oracle = SDEOracle(data, SDE)
    x = torch.linspace(-2, 2, 10 if data is TILTED else 5, dtype=torch.float64).reshape(5, *data.event)
    for t in (0.0, 0.2, 1.0):
        assert torch.allclose(oracle(x, t), grad(lambda u, t=t: oracle.log_q(u, t).sum())(x))
    assert torch.allclose(oracle.log_q(x, 0.0), data.log_prob(x))
    q = oracle.q_t(0.3)
    a = float(SDE.alpha_bar(0.3))
    mean, var = data.moments()
    assert torch.allclose(q.moments()[0], math.sqrt(a) * mean) and torch.allclose(q.moments()[1], a * var + 1 - a)


def test_times():
    assert VPSDE.times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert VPSDE.times(1) == [1.0, 0.0]
    assert VPSDE.times([1, 0.3, 0.01]) == [1.0, 0.3, 0.01] and VPSDE.times(torch.tensor([0.0, 0.5])) == [0.0, 0.5]


ONE = torch.ones(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: SDE.beta(1.5), ValueError, r"t = 1.5 is outside \[0, 1\]"),
        (lambda: SDE.alpha_bar(-0.1), ValueError, "t = -0.1 is outside"),
        (lambda: SDE.alpha_bar(math.nan), ValueError, "t = nan is outside"),
        (lambda: SDE.q_marginal(ONE, 500), ValueError, "t = 500.0 is outside .* not a step number"),
        (lambda: SDE.q_marginal(ONE, torch.tensor([0.1, 0.2, 1.2])), ValueError, "t = values from 0.1"),
        (lambda: SDE.q_marginal(ONE, torch.tensor([0.1, 0.2])), ValueError, "t has 2 entries"),
        (lambda: SDE.q_marginal(ONE, torch.ones(3, 1)), ValueError, "one time or one per batch entry"),
        (lambda: SDE.q_marginal(ONE, "0.5"), TypeError, "t must be a number"),
        (lambda: SDE.q_marginal(ONE, True), TypeError, "t must be a number"),
        (lambda: SDE.q_marginal(ONE.int(), 0.5), TypeError, "x_0 has dtype"),
        (lambda: SDE.q_step(ONE, 0.2, 0.3), ValueError, "s must not be later than t; got s = 0.3, t = 0.2"),
        (lambda: SDE.reverse_drift(ONE, ONE, 0.5, eta=-1.0), ValueError, "eta = -1.0 is outside"),
        (lambda: SDE.reverse_drift(ONE, torch.ones(2), 0.5), ValueError, r"x \(3,\), slope \(2,\)"),
        (lambda: SDE.predict(lambda x, t: x[:2], ONE, 0.5), ValueError, r"score returned shape \(2,\), x has \(3,\)"),
        (lambda: SDE.predict(lambda x, t: x, ONE, 1.01), ValueError, "t = 1.01 is outside"),
        (lambda: SDE.predict(lambda x, t: x, torch.tensor(1.0), 0.5), ValueError, "batch axis"),
        (lambda: SDE.schedule(0), ValueError, "N = 0 is too small"),
        (lambda: SDE.schedule(20), ValueError, "N = 20 is too few steps: N must be above 20"),
        (lambda: VPSDE.times(0), ValueError, "steps = 0 is too small"),
        (lambda: VPSDE.times(2.5), TypeError, "steps must be an int"),
        (lambda: VPSDE.times([1.0]), ValueError, "two times or more"),
        (lambda: VPSDE.times([1.0, 0.5, 0.5, 0.0]), ValueError, "strictly down"),
        (lambda: VPSDE.times([1.0, 0.5, 0.7]), ValueError, "strictly down"),
        (lambda: VPSDE.times([2.0, 0.0]), ValueError, r"outside \[0, 1\]"),
        (lambda: VPSDE(-1.0, 2.0), ValueError, "beta_min = -1.0"),
        (lambda: VPSDE(0.0, 1.0), ValueError, "beta_min = 0.0 is outside"),
        (lambda: VPSDE(100.0, 2000.0), ValueError, "the integral of beta is 1050"),
        (lambda: SDEOracle(LINE, SDE).q_t(1.1), ValueError, "t = 1.1 is outside"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_drift_is_the_slope_of_the_mean():
    """Without noise x follows the mean √ᾱ(t) x_0, so f is its derivative, by finite differences."""
    sde, x_0, h = VPSDE(), torch.tensor([2.0, -1.0], dtype=torch.float64), 1e-5
    for t in (0.1, 0.5, 0.9):
        mean = [sde.q_marginal(x_0, t + k * h).mean for k in (-1, 0, 1)]
        assert torch.allclose(sde.drift(mean[1], t), (mean[2] - mean[0]) / (2 * h), rtol=1e-7, atol=0)
