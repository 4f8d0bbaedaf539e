"""The diffusion against the walked chain, Bayes' rule on a grid, linear algebra, autograd and exact oracles."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_edu import Gaussian, GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle
from ddpm_edu.diffusion import LearnedVariance, per_sample
from ddpm_edu.gaussian import condition_joint
from ddpm_edu.routes import chain_joint, chain_moments, density_moments, grid, integrate

BETAS = [0.1, 0.25, 0.4, 0.05, 0.3]
SHORT = GaussianDiffusion(NoiseSchedule.from_betas(BETAS))
LONG = GaussianDiffusion(NoiseSchedule.linear())
pairs = st.integers(1, 5).flatmap(lambda t: st.tuples(st.just(t), st.integers(0, t - 1)))
numbers = st.floats(-3, 3)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def zero_net(x_t, t):
    return torch.zeros_like(x_t)


# The forward process


@pytest.mark.parametrize("t", range(1, 6))
def test_q_marginal_is_the_chain(t):
    means, variances = chain_moments(BETAS[:t], mean=0.7, var=0.0)
    q = SHORT.q_marginal(f64(0.7), t)
    assert float(q.mean[0]) == pytest.approx(float(means[t]), abs=1e-14)
    assert float(q.var) == pytest.approx(float(variances[t]), abs=1e-14)
    eps = f64(1.3)
    assert float(SHORT.q_sample(f64(0.7), t, eps)[0]) == pytest.approx(float(means[t] + variances[t].sqrt() * 1.3), abs=1e-14)


@given(pairs)
@settings(max_examples=15, deadline=None)
def test_q_step_jumps_any_distance(pair):
    t, s = pair
    means, variances = chain_moments(BETAS[s:t], mean=-1.1, var=0.0)
    q = SHORT.q_step(f64(-1.1), t, s)
    assert float(q.mean[0]) == pytest.approx(float(means[-1]), abs=1e-14)
    assert float(q.var) == pytest.approx(float(variances[-1]), abs=1e-14)


def test_q_step_defaults_to_one_step():
    q = SHORT.q_step(f64(2.0), 3)
    assert float(q.mean[0]) == pytest.approx(2 * math.sqrt(0.6)) and float(q.var) == pytest.approx(0.4)


# The posterior


@given(pairs, numbers, numbers)
@settings(max_examples=25, deadline=None)
def test_posterior_by_conditioning_the_joint(pair, x_0, x_t):
    t, s = pair
    q = SHORT.q_posterior(f64(x_0), f64(x_t), t, s)
    if s == 0:
        assert float(q.mean[0]) == pytest.approx(x_0, abs=1e-12) and float(q.var) == 0
        return
    mean, cov = chain_joint(BETAS, mean=x_0, var=0.0)
    want_mean, want_var = condition_joint(mean[[s, t]], cov[[s, t]][:, [s, t]], f64(x_t), keep=1)
    assert float(q.mean[0]) == pytest.approx(float(want_mean), abs=1e-12)
    assert float(q.var) == pytest.approx(float(want_var), abs=1e-13)


def test_posterior_by_bayes_on_a_grid():
    x_0, x_t = 0.4, -0.9
    for t in (2, 300, 1000):
        around = LONG.q_posterior(f64(x_0), f64(x_t), t)
        centre, width = float(around.mean[0]), float(around.var) ** 0.5
        x = grid(centre - 12 * width, centre + 12 * width)
        log_joint = LONG.q_marginal(f64(x_0), t - 1).log_prob(x) + LONG.q_step(x, t).log_prob(f64(x_t))
        _, mean, var = density_moments(lambda u, f=log_joint: f, x)
        assert centre == pytest.approx(float(mean), abs=1e-10)
        assert float(around.var) == pytest.approx(float(var), rel=1e-9)


def test_posterior_at_t_1_is_the_point_x_0():
    q = LONG.q_posterior(f64(0.3, -2.0), f64(9.0, 9.0), 1)
    assert q.mean.tolist() == [0.3, -2.0] and float(q.var) == 0


# Whole paths


def test_a_path_has_the_covariance_of_the_chain():
    eps = torch.randn(5, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = SHORT.q_path(torch.full((100_000,), 0.7, dtype=torch.float64), eps)
    mean, cov = chain_joint(BETAS, mean=0.7, var=0.0)
    assert path.shape == (6, 100_000) and (path[0] == 0.7).all()
    assert torch.allclose(path.mean(1), mean, atol=0.015) and torch.allclose(torch.cov(path), cov, atol=0.02)


def test_a_path_takes_the_noises_in_order():
    x_0, eps = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(5, 2, 3, dtype=torch.float64)
    eps[2, 0, 1] = 1.0
    path = SHORT.q_path(x_0, eps)
    assert (path[:3] == 0).all() and float(path[3, 0, 1]) == pytest.approx(math.sqrt(BETAS[2]))
    assert float(path[5, 0, 1]) == pytest.approx(math.sqrt(BETAS[2] * (1 - BETAS[3]) * (1 - BETAS[4])))
    assert int((path != 0).sum()) == 3


# Batches, dtypes


def test_a_batch_of_steps_is_the_steps_one_by_one():
    gen = torch.Generator().manual_seed(0)
    x_0, x_t, eps = (torch.randn(4, 2, 3, generator=gen, dtype=torch.float64) for _ in range(3))
    t, s = torch.tensor([1, 2, 500, 1000]), torch.tensor([0, 0, 499, 3])
    q, m, j = LONG.q_posterior(x_0, x_t, t, s), LONG.q_marginal(x_0, t), LONG.q_step(x_0, t, s)
    for k in range(4):
        tk, sk = int(t[k]), int(s[k])
        one = LONG.q_posterior(x_0[k], x_t[k], tk, sk)
        assert torch.allclose(q.mean[k], one.mean, atol=1e-14) and torch.allclose(q.var[k], one.var, atol=0)
        assert torch.allclose(m.mean[k], LONG.q_marginal(x_0[k], tk).mean, atol=1e-14)
        assert torch.allclose(j.mean[k], LONG.q_step(x_0[k], tk, sk).mean, atol=1e-14)
        assert torch.allclose(LONG.q_sample(x_0, t, eps)[k], LONG.q_sample(x_0[k], tk, eps[k]), atol=1e-14)


def test_coefficients_are_formed_in_float64():
    x = torch.ones(1, dtype=torch.float32)
    var = LONG.q_marginal(x, 1).var
    assert var.dtype == torch.float32 and float(var) == pytest.approx(1e-4, rel=1e-7)
    q = LONG.q_posterior(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([2, 3]))
    assert q.mean.dtype == torch.float32 and q.var.shape == (2, 1)
    assert LONG.q_sample(x.bfloat16(), 5, x.bfloat16()).dtype == torch.bfloat16


# Five coordinates of one quantity


@pytest.mark.parametrize("t", [1, 2, 77, 500, 1000])
def test_conversions_agree_with_the_definition_of_x_t(t):
    gen = torch.Generator().manual_seed(t)
    x_0, eps = (torch.randn(50, generator=gen, dtype=torch.float64) for _ in range(2))
    signal = math.sqrt(math.prod((1 - LONG.schedule.betas[1 : t + 1]).tolist()))
    noise = math.sqrt(1 - signal**2)
    x_t = signal * x_0 + noise * eps
    atol = 1e-12 / signal
    assert torch.allclose(LONG.x0_from_eps(x_t, eps, t), x_0, rtol=0, atol=atol)
    assert torch.allclose(LONG.eps_from_x0(x_t, x_0, t), eps, rtol=0, atol=1e-11)
    v = LONG.v_from_x0_eps(x_0, eps, t)
    # v is the derivative of x_t by the angle φ, where x_t = cos φ x_0 + sin φ ε.
    phi = torch.tensor(math.asin(noise), dtype=torch.float64, requires_grad=True)
    for k in range(3):
        (slope,) = torch.autograd.grad(phi.cos() * x_0[k] + phi.sin() * eps[k], phi)
        assert float(v[k]) == pytest.approx(float(slope), abs=1e-11)
    assert torch.allclose(LONG.x0_from_v(x_t, v, t), x_0, rtol=0, atol=1e-11)
    assert torch.allclose(LONG.eps_from_v(x_t, v, t), eps, rtol=0, atol=1e-11)
    leaf = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(LONG.q_marginal(x_0, t).log_prob(leaf).sum(), leaf)
    assert torch.allclose(LONG.score_from_eps(eps, t), score, rtol=1e-9, atol=1e-9)
    assert torch.allclose(LONG.eps_from_score(score, t), eps, rtol=0, atol=1e-10)
    mean = LONG.mean_from_eps(x_t, eps, t)
    assert torch.allclose(mean, LONG.q_posterior(x_0, x_t, t).mean, rtol=0, atol=1e-11)
    assert torch.allclose(LONG.eps_from_mean(x_t, mean, t), eps, rtol=0, atol=1e-9)


# The reverse process


def test_p_mean_variance_without_clip_is_equation_11():
    gen = torch.Generator().manual_seed(0)
    x_t = torch.randn(6, 2, generator=gen, dtype=torch.float64)
    t = torch.tensor([1, 2, 3, 10, 500, 1000])

    def net(x, t):
        return torch.tanh(x) + t.reshape(-1, 1) / 1000

    p, x_0_hat = LONG.p_mean_variance(net, x_t, t)
    assert torch.allclose(p.mean, LONG.mean_from_eps(x_t, net(x_t, t), t), atol=1e-10)
    assert torch.allclose(x_0_hat, LONG.x0_from_eps(x_t, net(x_t, t), t), atol=1e-10)
    assert torch.allclose(p.var[:, 0], LONG.schedule.betas[t], rtol=1e-11)
    tilde, _ = LONG.p_mean_variance(net, x_t, t, sigma2=LONG.sigma2_beta_tilde)
    assert torch.allclose(tilde.var[:, 0], LONG.schedule.beta_tildes[t], rtol=1e-9, atol=1e-18)


def test_the_network_is_given_the_step_as_a_batch_of_integers():
    seen = []

    def net(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    LONG.p_mean_variance(net, torch.zeros(3, 2), 7)
    assert seen[0].dtype == torch.int64 and seen[0].tolist() == [7, 7, 7]


def test_clip_moves_x_0_hat_and_the_mean():
    x_t = f64(3.0)
    p, x_0_hat = LONG.p_mean_variance(zero_net, x_t, 500, clip=1.0)
    assert float(x_0_hat[0]) == 1.0
    assert float(p.mean[0]) == pytest.approx(float(LONG.q_posterior(f64(1.0), x_t, 500).mean[0]))
    assert float(LONG.p_mean_variance(zero_net, -x_t, 500, clip=0.5)[1][0]) == -0.5


@pytest.mark.parametrize("t, s", [(1000, 999), (500, 499), (500, 100), (2, 1)])
def test_beta_is_exact_for_unit_gaussian_data_and_beta_tilde_for_a_point(t, s):
    x_t = f64(0.7)
    for data, sigma2 in (
        (GaussianMixture([1.0], [0.0], [1.0]), LONG.sigma2_beta),
        (GaussianMixture([1.0], [0.4], [0.0]), LONG.sigma2_beta_tilde),
    ):
        _, true_var = Oracle(data, LONG).q_s_moments(x_t, t, s)
        assert float(sigma2(x_t, t, s)) == pytest.approx(float(true_var), rel=1e-9)


@pytest.mark.parametrize("t, s", [(5, 4), (5, 1), (2, 1)])
def test_interpolated_variance_is_geometric_between_the_two(t, s):
    x_t = f64(0.3, -0.8)
    low, high = (f(x_t, t, s).expand(2) for f in (SHORT.sigma2_beta_tilde, SHORT.sigma2_beta))
    for v in (0.0, 0.3, 1.0, 1.7, -0.5):
        want = [float(a) ** (1 - v) * float(b) ** v for a, b in zip(low, high)]
        assert SHORT.sigma2_interpolated(v, x_t, t, s).expand(2).tolist() == pytest.approx(want, rel=1e-12)
    mixed = SHORT.sigma2_interpolated(f64(0.0, 1.0), x_t, t, s)
    assert mixed.tolist() == pytest.approx([float(low[0]), float(high[1])], rel=1e-12)


def test_interpolated_variance_is_finite_at_the_last_step():
    x_1 = f64(0.0)
    ends = [float(LONG.sigma2_interpolated(v, x_1, 1)) for v in (0.0, 1.0)]
    assert ends == pytest.approx([float(LONG.schedule.beta_tildes[2]), 1e-4], rel=1e-9)


@pytest.mark.parametrize("t, s", [(5, 4), (5, 2), (3, 0), (1, 0)])
def test_variance_from_the_noise_error_by_linear_algebra(t, s):
    # x_0 ~ N(0, 0.3): Var(ε | x_t) and Var(x_s | x_t) from the covariance of the path.
    mean, cov = chain_joint(BETAS, mean=0.0, var=0.3)
    noise, signal = math.sqrt(1 - float(SHORT.schedule.alpha_bars[t])), math.sqrt(float(SHORT.schedule.alpha_bars[t]))
    unit = torch.eye(6, dtype=torch.float64)
    for row, kind in ((unit[s], "x_s"), ((unit[t] - signal * unit[0]) / noise, "eps")):
        L = torch.stack([row, unit[t]])
        _, V = condition_joint(L @ mean, L @ cov @ L.T, f64(0.4), keep=1)
        if kind == "x_s":
            want = float(V[0, 0])
        else:
            got = SHORT.sigma2_from_eps_error(V[0, 0], f64(0.4), t, s)
    assert float(got) == pytest.approx(want, rel=1e-10)


# Losses


def test_simple_loss_is_the_mean_square_and_has_the_gradient():
    gen = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(5, 2, generator=gen, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([1, 5, 50, 500, 1000])
    k = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    loss = LONG.simple_loss(lambda x, t: k * x, x_0, t, eps)
    loss.backward()
    want, slope = 0.0, 0.0
    for i in range(5):
        x_t = LONG.q_sample(x_0[i], int(t[i]), eps[i])
        want += float(((eps[i] - 0.8 * x_t) ** 2).sum()) / 10
        slope += float((-2 * x_t * (eps[i] - 0.8 * x_t)).sum()) / 10
    assert loss.item() == pytest.approx(want) and float(k.grad) == pytest.approx(slope)


@pytest.mark.parametrize("t", [1, 2, 349, 1000])
@pytest.mark.parametrize("kind", ["sigma2_beta", "sigma2_beta_tilde_clipped"])
def test_loss_weights_are_half_the_curvature_of_the_bound(t, kind):
    gen = torch.Generator().manual_seed(t)
    x_0, eps = (torch.randn(2, 3, generator=gen, dtype=torch.float64) for _ in range(2))
    x_t, sigma2 = LONG.q_sample(x_0, t, eps), getattr(LONG, kind)
    to_eps = {
        "mean": lambda y: LONG.eps_from_mean(x_t, y, t),
        "eps": lambda y: y,
        "x_0": lambda y: LONG.eps_from_x0(x_t, y, t),
        "v": lambda y: LONG.eps_from_v(x_t, y, t),
        "score": lambda y: LONG.eps_from_score(y, t),
    }
    weights = LONG.loss_weights(x_t, t, sigma2)
    for name, to in to_eps.items():
        y = torch.zeros_like(x_t).requires_grad_()
        term = LONG.vlb_term(lambda x, t, y=y, to=to: to(y), x_0, t, eps, sigma2, levels=None).sum()
        (slope,) = torch.autograd.grad(term, y, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), y)
        want = (bend / 2).expand_as(x_t)
        assert torch.allclose(getattr(weights, name).expand_as(x_t), want, rtol=1e-8, atol=0), name


def test_loss_weights_of_a_batch_and_of_any_reverse_variance():
    x_t, t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 5, 1000])
    weights = LONG.loss_weights(x_t, t)
    for k, name in itertools.product(range(3), weights._fields):
        w = getattr(weights, name)
        assert w.shape == (3, 1) and w.dtype == torch.float32
        assert float(w[k]) == pytest.approx(float(getattr(LONG.loss_weights(x_t[k].double(), int(t[k])), name)), rel=1e-5)
    halved = LONG.loss_weights(x_t, t, lambda x, t, s: 2 * LONG.sigma2_beta(x, t, s))
    assert torch.allclose(halved.v, weights.v / 2)


def test_vlb_terms_add_up_to_the_elbo_of_a_linear_model():
    """-Σ_t E[term_t] = E_q[log p(x_0..x_T) - log q(x_1..x_T | x_0)] - (the prior's part), by Gaussian algebra."""
    slope = [0.9, 0.8, 0.7, 0.95, 0.85]
    x_0 = 0.7

    def net(x, t):  # an eps-model that makes μ_θ = slope_t · x_t
        return SHORT.eps_from_mean(x, torch.tensor(slope, dtype=torch.float64)[t - 1].unsqueeze(1) * x, t)

    mean, cov = chain_joint(BETAS, mean=x_0, var=0.0)
    expected_log_ratio = 0.0
    for t in range(1, 6):
        beta = BETAS[t - 1]
        square = (mean[t - 1] - slope[t - 1] * mean[t]) ** 2 + cov[t - 1, t - 1]
        square = square - 2 * slope[t - 1] * cov[t - 1, t] + slope[t - 1] ** 2 * cov[t, t]
        log_p = -0.5 * (math.log(2 * math.pi * beta) + square / beta)
        log_q = -0.5 * (math.log(2 * math.pi * beta) + 1)
        expected_log_ratio += float(log_p - log_q)
    entropy_T = 0.5 * math.log(2 * math.pi * math.e * (1 - float(SHORT.schedule.alpha_bars[5])))
    # The chain's q(x_t | x_{t-1}) and the terms' q(x_{t-1} | x_t, x_0) differ by telescoping factors: only H(q(x_T|x_0)) stays.
    z = grid(-10, 10, 4001)
    weight = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    total = 0.0
    for t in range(1, 6):
        term = SHORT.vlb_term(net, torch.full((len(z), 1), x_0, dtype=torch.float64), t, z.unsqueeze(1), levels=None)
        total += float(integrate(weight * term, z))
    assert -total == pytest.approx(expected_log_ratio - entropy_T, abs=1e-9)


def test_vlb_term_against_torch_distributions():
    gen = torch.Generator().manual_seed(0)
    x_0 = (torch.randint(0, 256, (3, 1, 4, 4), generator=gen) * 2 / 255 - 1).double()
    eps = torch.randn(3, 1, 4, 4, generator=gen, dtype=torch.float64)
    t = torch.tensor([1, 2, 700])
    term = LONG.vlb_term(zero_net, x_0, t, eps)
    x_t = LONG.q_sample(x_0, t, eps)
    betas, tildes = LONG.schedule.betas[t], LONG.schedule.beta_tildes[t]
    for k in (1, 2):
        mu = x_t[k] / (1 - betas[k]).sqrt()
        q = torch.distributions.Normal(LONG.q_posterior(x_0[k], x_t[k], int(t[k])).mean, tildes[k].sqrt())
        p = torch.distributions.Normal(mu, betas[k].sqrt())
        assert float(term[k]) == pytest.approx(float(torch.distributions.kl_divergence(q, p).sum()), rel=1e-10)
    p = torch.distributions.Normal(x_t[0] / (1 - betas[0]).sqrt(), betas[0].sqrt())
    low = torch.where(x_0[0] > -0.999, p.cdf(x_0[0] - 1 / 255), 0.0)
    high = torch.where(x_0[0] < 0.999, p.cdf(x_0[0] + 1 / 255), 1.0)
    assert float(term[0]) == pytest.approx(float(-(high - low).log().sum()), rel=1e-8)


# A learned variance


class Twice:
    """ε̂ = a x and v = b + c x, for points (B, 2); counts its calls."""

    def __init__(self, a=0.8, b=0.3, c=0.1):
        self.numbers, self.calls = torch.tensor([a, b, c], dtype=torch.float64, requires_grad=True), 0

    def __call__(self, x_t, t):
        self.calls += 1
        a, b, c = self.numbers
        return torch.cat([a * x_t, b + c * x_t], dim=1)


@pytest.mark.parametrize("levels", [None, 256])
def test_hybrid_term_against_torch_distributions(levels):
    """Mean square + λ T KL / D, the KL by torch; slopes: of a from the square alone, of b and c from the KL alone."""
    gen, net = torch.Generator().manual_seed(0), Twice()
    x_0, eps = 2 * torch.randint(0, 256, (4, 2), generator=gen) / 255 - 1, torch.randn(4, 2, generator=gen, dtype=torch.float64)
    x_0, t, weight = x_0.double(), torch.tensor([2, 10, 300, 1000]), 0.02
    term = LONG.hybrid_term(net, x_0, t, eps, weight, levels)
    assert term.shape == (4,) and net.calls == 1
    slopes = torch.autograd.grad(term.mean(), net.numbers)[0]

    bars = LONG.schedule.alpha_bars[t][:, None]
    betas = 1 - bars / LONG.schedule.alpha_bars[t - 1][:, None]
    tildes = (1 - LONG.schedule.alpha_bars[t - 1][:, None]) / (1 - bars) * betas
    x_t = bars.sqrt() * x_0 + (1 - bars).sqrt() * eps
    numbers = net.numbers.detach().clone().requires_grad_()
    square = (eps - numbers[0] * x_t).square().mean(1)
    gap = betas / ((1 - betas) * (1 - bars)).sqrt() * (eps - 0.8 * x_t)  # between the two means; 0.8 is no parameter here
    sigma2 = betas ** (numbers[1] + numbers[2] * x_t) * tildes ** (1 - numbers[1] - numbers[2] * x_t)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(gap, tildes.sqrt()), torch.distributions.Normal(torch.zeros(4, 2).double(), sigma2.sqrt())
    )
    want = square + weight * 1000 * kl.mean(1)
    assert torch.allclose(term, want, rtol=1e-8)
    assert torch.allclose(slopes, torch.autograd.grad(want.mean(), numbers)[0], rtol=1e-7)
    plain = LONG.simple_loss(lambda x, t: 0.8 * x, x_0, t, eps)
    assert LONG.hybrid_term(net, x_0, t, eps, 0.0, levels).mean().item() == pytest.approx(float(plain), rel=1e-12)


def test_hybrid_term_at_t_1_is_the_decoder():
    x_0, eps, net = f64(0.2, -1.0).reshape(2, 1), f64(0.5, -0.3).reshape(2, 1), Twice()
    x_0 = torch.round((x_0 + 1) * 127.5) / 127.5 - 1
    got = LONG.hybrid_term(net, x_0, 1, eps, 0.5, 256)
    x_1 = math.sqrt(0.9999) * x_0 + 0.01 * eps
    v, tilde_2 = 0.3 + 0.1 * x_1, 0.01**2 / float(1 - LONG.schedule.alpha_bars[2]) * float(LONG.schedule.betas[2])
    p = torch.distributions.Normal((x_1 - 0.01 * 0.8 * x_1) / math.sqrt(0.9999), (1e-4**v * tilde_2 ** (1 - v)).sqrt())
    low, high = torch.where(x_0 > -0.999, p.cdf(x_0 - 1 / 255), 0.0), p.cdf(x_0 + 1 / 255)
    want = (eps - 0.8 * x_1) ** 2 - 500 * (high - low).log()
    assert torch.allclose(got, want[:, 0], rtol=1e-6)


def test_the_halves_of_a_learned_variance_cost_one_pass():
    gen, net = torch.Generator().manual_seed(1), Twice()
    x_t = torch.randn(3, 2, generator=gen, dtype=torch.float64)
    halves = LearnedVariance(LONG, net)
    for t, s in ((500, None), (500, 400), (1, None)):
        p, _ = LONG.p_mean_variance(halves.eps_model, x_t, t, s, halves.sigma2)
        want, _ = LONG.p_mean_variance(lambda x, t: 0.8 * x, x_t, t, s)
        assert torch.allclose(p.mean, want.mean)
        assert torch.allclose(p.var, LONG.sigma2_interpolated(0.3 + 0.1 * x_t, x_t, t, s))
    assert net.calls == 3
    halves.eps_model(x_t.float(), torch.tensor([5, 6, 7]))  # a bound is formed in float64 after a float32 pass
    halves.sigma2(x_t.float().double(), torch.tensor([5, 6, 7]))
    assert net.calls == 4


@pytest.mark.parametrize("other", ["x_t", "t", "again", "changed in place"])
def test_a_kept_v_is_never_used_for_another_state(other):
    net, x_t, t = Twice(), f64(0.1, 0.2, 0.3, 0.4).reshape(2, 2), torch.tensor([7, 9])
    halves = LearnedVariance(LONG, net)
    halves.eps_model(x_t, t)
    if other == "again":
        halves.sigma2(x_t, t)
    if other == "changed in place":
        x_t.mul_(3)
    x_t, t = (3 * x_t if other == "x_t" else x_t), (t + 1 if other == "t" else t)
    assert torch.allclose(halves.sigma2(x_t, t), LONG.sigma2_interpolated(0.3 + 0.1 * x_t, x_t, t))
    assert net.calls == 2


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LONG.hybrid_term(zero_net, f64(1.0)[:, None], 5, f64(0.0)[:, None]), ValueError, "twice the channels"),
        (lambda: LONG.hybrid_term(Twice(), torch.zeros(2, 2), 5, torch.zeros(2, 1)), ValueError, "its own noise"),
        (lambda: LONG.hybrid_term(Twice(), torch.zeros(2, 2), 0, torch.zeros(2, 2)), ValueError, "t = 0"),
        (lambda: LONG.hybrid_term(Twice(), torch.zeros(2, 2), 5, torch.zeros(2, 2), -0.1), ValueError, "vlb_weight = -0.1"),
        (lambda: LONG.hybrid_term(Twice(), torch.zeros(2, 2), 5, torch.zeros(2, 2), "a lot"), TypeError, "vlb_weight must be"),
        (lambda: LearnedVariance(LONG, zero_net).eps_model(f64(1.0), torch.tensor([5])), ValueError, "learned variance"),
    ],
)
def test_a_learned_variance_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LONG.q_marginal(f64(1.0), 0), ValueError, r"t = 0 is outside 1\.\.1000"),
        (lambda: LONG.q_marginal(f64(1.0), 1001), ValueError, r"t = 1001 is outside 1\.\.1000"),
        (lambda: LONG.q_marginal(f64(1.0), -1), ValueError, "t = -1"),
        (lambda: LONG.q_marginal(f64(1.0, 2.0), torch.tensor([1, 0])), ValueError, "values from 0 to 1"),
        (lambda: LONG.q_marginal(f64(1.0), 1.0), TypeError, "t must be an int"),
        (lambda: LONG.q_marginal(f64(1.0), True), TypeError, "t must be an int"),
        (lambda: LONG.q_marginal(f64(1.0), torch.tensor([1.0])), TypeError, "t must hold integers"),
        (lambda: LONG.q_marginal(f64(1.0), torch.tensor([[1]])), ValueError, r"shape \(B,\)"),
        (lambda: LONG.q_marginal(f64(1.0, 2.0), torch.tensor([1, 2, 3])), ValueError, "t has 3 entries"),
        (lambda: LONG.q_marginal(torch.zeros(2, dtype=torch.uint8), 1), TypeError, r"images scaled to \[-1, 1\]"),
        (lambda: LONG.q_marginal(f64(float("nan")), 1), ValueError, "x_0 holds 1 value"),
        (lambda: LONG.q_marginal([1.0], 1), TypeError, "x_0 must be a torch tensor"),
        (lambda: LONG.q_sample(torch.zeros(2, 3), 1, torch.zeros(2, 4)), ValueError, r"x_0 \(2, 3\), eps \(2, 4\)"),
        (lambda: LONG.q_sample(torch.zeros(2), 1, torch.full((2,), math.inf)), ValueError, "eps holds 2 value"),
        (lambda: LONG.q_posterior(f64(1.0), f64(1.0), 5, 5), ValueError, "s must be smaller than t"),
        (lambda: LONG.q_posterior(f64(1.0), f64(1.0), 5, -1), ValueError, r"s = -1 is outside 0\.\.1000"),
        (lambda: LONG.q_posterior(f64(1.0, 1.0), f64(1.0, 1.0, 1.0), 5), ValueError, "do not broadcast"),
        (lambda: LONG.q_step(f64(1.0), 3, 4), ValueError, "s must be smaller"),
        (lambda: LONG.q_path(f64(1.0), f64(1.0)), ValueError, "eps must have shape"),
        (lambda: LONG.q_path(torch.tensor([1]), torch.zeros(1000, 1)), TypeError, "x_0 has dtype"),
        (lambda: LONG.p_mean_variance(lambda x, t: x[:, :1], torch.zeros(2, 3), 5), ValueError, "eps_model returned shape"),
        (lambda: LONG.p_mean_variance(zero_net, f64(1.0), 5, clip=-1.0), ValueError, "clip = -1.0"),
        (lambda: LONG.p_mean_variance(zero_net, torch.tensor(1.0), 5), ValueError, "batch axis"),
        (lambda: LONG.simple_loss(zero_net, torch.zeros(2, 3), 5, torch.zeros(2, 1)), ValueError, "its own noise"),
        (lambda: LONG.vlb_term(zero_net, torch.zeros(2, 3), 5, torch.zeros(3)), ValueError, "its own noise"),
        (lambda: LONG.vlb_term(zero_net, f64(1.0), 1, f64(0.0), LONG.sigma2_beta_tilde), ValueError, "var is 0"),
        (lambda: LONG.loss_weights(f64(1.0), 1, LONG.sigma2_beta_tilde), ValueError, "sigma2 must be > 0"),
        (lambda: LONG.loss_weights(f64(1.0), 0), ValueError, r"t = 0 is outside 1\.\.1000"),
        (lambda: LONG.loss_weights(torch.tensor([1]), 5), TypeError, "x_t has dtype"),
        (lambda: LONG.sigma2_from_eps_error(-0.1, f64(1.0), 5), ValueError, "eps_error must be >= 0"),
        (lambda: LONG.sigma2_from_eps_error(float("nan"), f64(1.0), 5), ValueError, "eps_error holds 1 value"),
        (lambda: LONG.sigma2_interpolated(float("inf"), f64(1.0), 5), ValueError, "v holds 1 value"),
        (lambda: LONG.sigma2_interpolated(torch.zeros(3), f64(1.0, 2.0), 5), ValueError, "do not broadcast"),
        (lambda: LONG.x0_from_eps(f64(1.0), f64(1.0), 0), ValueError, "t = 0"),
        (lambda: LONG.score_from_eps(torch.tensor([1]), 5), TypeError, "eps has dtype"),
        (lambda: GaussianDiffusion([0.1]), TypeError, "schedule must be a NoiseSchedule"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_gaussians_keep_their_types():
    assert isinstance(LONG.q_marginal(f64(1.0), 1), Gaussian)


@pytest.mark.parametrize("betas", [[0.3], [0.3, 0.2], [0.3, 0.2, 0.1]])
def test_the_clipped_variance_at_t_1_is_the_next_one_or_beta_1(betas):
    diffusion = GaussianDiffusion(NoiseSchedule.from_betas(betas))
    # By hand: the variance of x_1 given x_2 and x_0, precisions 1/0.3 and 0.8/0.2 added; alone, β_1.
    want = 0.3 if len(betas) == 1 else 1 / (1 / 0.3 + 0.8 / 0.2)
    assert float(diffusion.sigma2_beta_tilde_clipped(f64(0.5), 1)) == pytest.approx(want, rel=1e-12)
    if len(betas) > 1:
        assert float(diffusion.sigma2_beta_tilde_clipped(f64(0.5), 2)) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("t, s", [(1, 0), (7, 6), (10, 2)])
def test_q_ddim_keeps_the_marginal_and_is_the_posterior_at_eta_1(eta, t, s):
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    x_0 = torch.tensor([0.7, -1.3], dtype=torch.float64)
    bar_t, bar_s = (math.prod(1 - b for b in diffusion.schedule.betas.tolist()[: k + 1]) for k in (t, s))
    # Push q(x_t | x_0) through the conditional: it is affine in x_t, so two values of x_t give slope and mean.
    at_mean = diffusion.q_ddim(x_0, math.sqrt(bar_t) * x_0, t, s, eta)
    slope = diffusion.q_ddim(x_0, math.sqrt(bar_t) * x_0 + 1, t, s, eta).mean - at_mean.mean
    assert torch.allclose(at_mean.mean, math.sqrt(bar_s) * x_0, atol=1e-13)
    assert torch.allclose(slope**2 * (1 - bar_t) + at_mean.var, torch.full_like(x_0, 1 - bar_s), atol=1e-13)
    assert torch.allclose(
        at_mean.var, torch.full_like(x_0, eta**2 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)), atol=1e-14
    )
    if eta == 1:
        x_t = torch.tensor([0.2, 3.0], dtype=torch.float64)
        p, q = diffusion.q_ddim(x_0, x_t, t, s, eta), diffusion.q_posterior(x_0, x_t, t, s)
        assert torch.allclose(p.mean, q.mean, atol=1e-13) and torch.allclose(p.var, q.var, atol=1e-14)


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("t, s", [(2, 1), (7, 6), (10, 3)])
def test_ddim_weight_is_the_kl_per_squared_error(eta, t, s):
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    x_0, eps, eps_hat = (torch.tensor(v, dtype=torch.float64) for v in ([0.7, -1.3], [0.3, -0.2], [-0.5, 1.1]))
    x_t = diffusion.q_sample(x_0, t, eps)
    laws = []
    for guess in (x_0, diffusion.x0_from_eps(x_t, eps_hat, t)):
        q = diffusion.q_ddim(guess, x_t, t, s, eta)
        laws.append(torch.distributions.Normal(q.mean, q.var.sqrt()))
    kl = torch.distributions.kl_divergence(*laws)
    assert torch.allclose(diffusion.ddim_weight(x_t, t, s, eta) * (eps - eps_hat) ** 2, kl, rtol=1e-10)
    if eta == 1 and s == t - 1:
        want = diffusion.loss_weights(x_t, t, diffusion.sigma2_beta_tilde).eps
        assert torch.allclose(diffusion.ddim_weight(x_t, t), want, rtol=1e-10)


def test_ddim_weight_takes_a_batch_of_steps_and_refuses_where_no_error_is_allowed():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    x_t = torch.zeros(3, 2, dtype=torch.float64)
    t = torch.tensor([2, 5, 9])
    got = diffusion.ddim_weight(x_t, t, eta=0.5)
    for row, k in zip(got, t.tolist()):
        assert torch.allclose(row, diffusion.ddim_weight(x_t[0], k, eta=0.5))
    for kwargs in ({"t": 3, "eta": 0.0}, {"t": 1}, {"t": 5, "s": 0}):
        with pytest.raises(ValueError, match="the weight infinite"):
            diffusion.ddim_weight(x_t, **kwargs)
    with pytest.raises(ValueError, match=r"eta = 1.2 is outside"):
        diffusion.ddim_weight(x_t, 3, eta=1.2)


def test_ddim_s_law_is_a_point_unless_noise_is_asked_for():
    q = LONG.q_ddim(f64(0.3), f64(-1.0), 500)
    assert float(q.var) == 0
    bar, before = (float(LONG.schedule.alpha_bars[t]) for t in (500, 499))
    eps = (-1.0 - math.sqrt(bar) * 0.3) / math.sqrt(1 - bar)
    assert float(q.mean) == pytest.approx(math.sqrt(before) * 0.3 + math.sqrt(1 - before) * eps, rel=1e-12)


def test_the_decoder_in_a_batch_does_not_spoil_the_gradients():
    net, x_0 = Twice(), torch.full((2, 2), 1 / 255).double()  # at t = 1 the KL's own formula would divide 0 by 0
    term = LONG.hybrid_term(net, x_0, torch.tensor([1, 300]), f64(0.4, -0.3, 0.1, 0.2).reshape(2, 2), 1.0)
    (slopes,) = torch.autograd.grad(term.sum(), net.numbers)
    assert slopes.isfinite().all() and (slopes != 0).all()


# Names, shapes, precision and defaults -----------------------------------------------------------------------------


def test_it_is_shown_by_its_schedule():
    assert repr(SHORT) == f"GaussianDiffusion(NoiseSchedule(T=5, alpha_bar_T={math.prod(1 - b for b in BETAS):.3g}))"


TWO = {
    "x0_from_eps": ("x_t", "eps"),
    "eps_from_x0": ("x_t", "x_0"),
    "v_from_x0_eps": ("x_0", "eps"),
    "x0_from_v": ("x_t", "v"),
    "eps_from_v": ("x_t", "v"),
    "mean_from_eps": ("x_t", "eps"),
    "eps_from_mean": ("x_t", "mean"),
    "q_sample": ("x_0", "eps"),
    "q_posterior": ("x_0", "x_t"),
    "q_ddim": ("x_0", "x_t"),
}


@pytest.mark.parametrize("method", TWO)
def test_both_arguments_are_looked_at(method):
    first, second = TWO[method]
    call = lambda a, b: getattr(LONG, method)(**{first: a, second: b, "t": 5})  # noqa: E731
    good = torch.zeros(2)
    with pytest.raises(TypeError, match=f"^{first} has dtype"):
        call(good.long(), good)
    with pytest.raises(TypeError, match=f"^{second} has dtype"):
        call(good, good.long())
    with pytest.raises(ValueError, match=rf"{first} \(2,\), {second} \(3,\)"):
        call(good, torch.zeros(3))
    with pytest.raises(ValueError, match=f"^{second} holds 2"):
        call(good, good / 0)


def test_one_step_for_a_batch_or_one_for_each_and_nothing_else():
    x = torch.zeros(2, 3)
    for call in (
        lambda t: LONG.q_marginal(x, t),
        lambda t: LONG.q_step(x, t),
        lambda t: LONG.q_posterior(x, x, t),
        lambda t: LONG.predict(zero_net, x, t),
        lambda t: LONG.sigma2_beta(x, t),
    ):
        with pytest.raises(ValueError, match="t has 3 entries"):
            call(torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match="s has 1 entries"):
        LONG.q_step(x, torch.tensor([5, 6]), torch.tensor([1]))
    with pytest.raises(ValueError, match="t has 1 entries"):
        LONG.q_marginal(torch.tensor(1.0), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"s = 6 is outside 0\.\.5"):
        SHORT.q_step(x, 5, 6)
    assert SHORT.q_step(x, 5, 0).var.shape == (1, 1) and SHORT.alpha_bar(0, (2,), low=0).tolist() == [1.0]
    with pytest.raises(ValueError, match="when = 0"):
        SHORT.alpha_bar(0, (2,), name="when")


def test_single_precision_results_of_double_precision_coefficients():
    x, t = torch.full((2, 1), 0.5), torch.tensor([1, 1000])
    bars, betas = LONG.schedule.alpha_bars[t], LONG.schedule.betas[t]
    tildes = torch.tensor([float(LONG.schedule.beta_tildes[2]), float(LONG.schedule.beta_tildes[1000])])
    for got, want in (
        (LONG.q_marginal(x, t).var, 1 - bars),
        (LONG.q_step(x, t).var, betas),
        (LONG.sigma2_beta(x, t), betas),
        (LONG.sigma2_beta_tilde_clipped(x, t), tildes),
        (LONG.sigma2_interpolated(1.0, x, t), betas),
        (LONG.sigma2_from_eps_error(1.0, x, t), betas / (1 - betas)),
        (LONG.q_sample(x, t, 0 * x), bars.sqrt() / 2),
        (LONG.score_from_eps(x, t), -0.5 / (1 - bars).sqrt()),
        (LONG.eps_from_score(x, t), -0.5 * (1 - bars).sqrt()),
    ):
        assert got.dtype == torch.float32 and got.shape == (2, 1)
        assert got[:, 0].tolist() == pytest.approx(want.tolist(), rel=3e-7)
    assert LONG.sigma2_from_eps_error(torch.tensor([[0.0], [1.0]]), x, t).dtype == torch.float32
    # β̃_1 + β_1²/(α_1 β_1) · error: all of it is the error's.
    assert float(LONG.sigma2_from_eps_error(0.25, x[:1], 1)) == pytest.approx(0.25 * 1e-4 / 0.9999, rel=1e-6)
    assert LONG.sigma2_from_eps_error(0, x, 1).tolist() == [[0.0]]


def test_the_defaults_of_the_hybrid_loss_and_of_the_decoder():
    x_0, eps, net = torch.full((1, 2), 1 / 255).double(), f64(0.4, -0.3).reshape(1, 2), Twice()
    at = [LONG.hybrid_term(net, x_0, 300, eps, *weight).item() for weight in ((), (0.0,), (1.0,))]
    assert (at[0] - at[1]) / (at[2] - at[1]) == pytest.approx(0.001, rel=1e-6)
    # At t = 1 the default decoder is that of 256 grey values.
    by_levels = [LONG.hybrid_term(net, x_0, 1, eps, 0.5, levels).item() for levels in (256, None)]
    assert LONG.hybrid_term(net, x_0, 1, eps, 0.5).item() == by_levels[0] != by_levels[1]
    p, _ = LONG.p_mean_variance(lambda x, t: 0 * x, x_0, 1)
    normal = torch.distributions.Normal(p.mean, p.var.sqrt())
    want = -(normal.cdf(x_0 + 1 / 255) - normal.cdf(x_0 - 1 / 255)).log().sum(1)
    assert torch.allclose(LONG.bound_term(p, x_0, x_0, 1), want, rtol=1e-6)
    with pytest.raises(ValueError, match="vlb_weight = inf"):
        LONG.hybrid_term(net, x_0, 5, eps, math.inf)


def test_a_learned_variance_of_pictures_in_single_precision():
    def network(x_t, t):
        assert x_t.shape == (2, 3, 4, 4) and t.tolist() == [5, 5]
        return torch.cat([0.5 * x_t, torch.full_like(x_t, 0.25)], 1).double()

    x_t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    learned = LearnedVariance(LONG, network)
    p, _ = LONG.p_mean_variance(learned.eps_model, x_t, 5, sigma2=learned.sigma2)
    beta, tilde = float(LONG.schedule.betas[5]), float(LONG.schedule.beta_tildes[5])
    assert p.var.shape == x_t.shape and p.var.dtype == torch.float32
    assert torch.allclose(p.var.double(), torch.full_like(p.var, beta**0.25 * tilde**0.75).double(), rtol=1e-6)
    assert learned.eps_model(x_t, torch.tensor([5, 5])).dtype == torch.float32
    for shape in ((2, 6, 4, 5), (2, 5, 4, 4), (1, 6, 4, 4)):
        with pytest.raises(ValueError, match="twice the channels"):
            LearnedVariance(LONG, lambda x, t, shape=shape: torch.zeros(shape)).eps_model(x_t, torch.tensor([5, 5]))
    with pytest.raises(ValueError, match="twice the channels"):
        LearnedVariance(LONG, lambda x, t: torch.zeros(4)).eps_model(torch.zeros(2), torch.tensor([5, 5]))


def test_the_state_that_v_belongs_to_is_kept_without_its_graph():
    x_t = f64(0.1, 0.2).reshape(1, 2).requires_grad_()
    learned = LearnedVariance(LONG, Twice())
    learned.eps_model(x_t, torch.tensor([7]))
    assert not learned._kept[0].requires_grad


def test_per_sample_sums_what_is_behind_the_batch():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert per_sample(x).tolist() == [15.0, 51.0] and per_sample(x[:, 0, 0]).tolist() == [0.0, 6.0]
    assert per_sample(torch.zeros(0, 3)).shape == (0,) and per_sample(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: per_sample(torch.tensor(1.0)), ValueError, "x must have a batch axis"),
        (lambda: per_sample([1.0]), TypeError, "x must be a Tensor"),
        (lambda: LONG.q_path(f64(1.0), torch.zeros(1000, 1).long()), TypeError, "eps has dtype"),
        (lambda: LONG.q_path(f64(1.0), torch.zeros(999, 1)), ValueError, r"eps must have shape \(1000, 1\)"),
        (lambda: LONG.q_step(torch.tensor([1]), 5), TypeError, "x_s has dtype"),
        (
            lambda: LONG.q_step(f64(1.0, 1.0), torch.tensor([5, 6]), torch.tensor([4, 6])),
            ValueError,
            r"s = \[4, 6\], t = \[5, 6\]",
        ),
        (lambda: LONG.q_ddim(f64(1.0), f64(1.0), 5, eta=-0.1), ValueError, r"eta = -0.1 is outside \[0, 1\]"),
        (lambda: LONG.sigma2_beta(torch.tensor([1]), 5), TypeError, "x_t has dtype"),
        (lambda: LONG.sigma2_beta_tilde(torch.tensor([1]), 5), TypeError, "x_t has dtype"),
        (lambda: LONG.sigma2_interpolated(0.5, f64(1.0), 0), ValueError, "t = 0"),
        (lambda: LONG.sigma2_from_eps_error(torch.zeros(3), f64(1.0, 2.0), 5), ValueError, r"eps_error \(3,\), x_t \(2,\)"),
        (lambda: LONG.sigma2_from_eps_error(torch.tensor([0.1, -0.1]), f64(1.0, 2.0), 5), ValueError, "got -0.1"),
        (lambda: LONG.sigma2_interpolated(torch.zeros(3), f64(1.0, 2.0), 5), ValueError, r"v \(3,\), x_t \(2,\)"),
        (lambda: LONG.predict(lambda x, t: None, f64(1.0), 5), TypeError, r"eps_model\(x_t, t\) must be a Tensor"),
        (lambda: LONG.predict(zero_net, torch.tensor([1]), 5), TypeError, "x_t has dtype"),
        (lambda: LONG.p_mean_variance(zero_net, f64(1.0), 5, clip=0.0), ValueError, "clip = 0.0"),
        (lambda: LONG.p_mean_variance(zero_net, f64(1.0), 5, clip=math.inf), ValueError, "clip = inf"),
        (lambda: LONG.simple_loss(zero_net, torch.zeros(0, 3), 5, torch.zeros(0, 3)), ValueError, "empty batch"),
        (lambda: LONG.simple_loss(zero_net, torch.zeros(2).long(), 5, torch.zeros(2)), TypeError, "x_0 has dtype"),
        (lambda: LONG.simple_loss(zero_net, torch.zeros(2), 5, torch.zeros(2).long()), TypeError, "eps has dtype"),
        (lambda: LONG.loss_weights(torch.zeros(2, 2), torch.tensor([5, 1]), LONG.sigma2_beta_tilde), ValueError, "it is 0.0"),
        (lambda: LONG.ddim_weight(torch.tensor([1]), 5), TypeError, "x_t has dtype"),
        (lambda: LONG.ddim_weight(torch.zeros(2, 2), torch.tensor([5, 1])), ValueError, "the weight infinite"),
        (lambda: LONG.bound_term(Gaussian(f64(0), f64(1)), f64(0, 0), f64(0, 0), 5), ValueError, "must have one shape"),
        (lambda: LONG.bound_term(Gaussian(f64(0, 0), f64(1)), f64(0, 0), f64(0), 5), ValueError, "x_0, x_t, p_mean must have"),
        (lambda: LONG.bound_term(Gaussian(f64(0, 0), f64(1)), f64(0), f64(0, 0), 5), ValueError, r"got \(1,\), \(2,\), \(2,\)"),
    ],
)
def test_more_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
