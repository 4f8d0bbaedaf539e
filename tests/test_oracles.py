"""The oracles against quadrature, autograd, sampling and brute force."""

import math

import pytest
import torch

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle
from ddpm_edu.gaussian import condition_joint
from ddpm_edu.oracles import ClassOracle, LinearGaussianChain, SDEOracle
from ddpm_edu.routes import chain_joint, density_moments, grid, integrate, reverse_joint
from ddpm_edu.sde import VPSDE

DIFFUSION = GaussianDiffusion(NoiseSchedule.linear())
LINE = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
PLANE = GaussianMixture([0.2, 0.5, 0.3], [[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]], [[0.1, 0.2], [0.05, 0.3], [0.2, 0.1]])


def on_the_line(t):
    return Oracle(LINE, DIFFUSION), torch.linspace(-2.5, 2.5, 9, dtype=torch.float64), t


def test_mixture_density_integrates_to_one_and_has_its_moments():
    log_Z, mean, var = density_moments(LINE.log_prob, grid(-6, 6))
    assert float(log_Z) == pytest.approx(0, abs=1e-12)
    assert [float(m) for m in LINE.moments()] == pytest.approx([float(mean), float(var)], abs=1e-10)
    torch_mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(PLANE.weights),
        torch.distributions.Independent(torch.distributions.Normal(PLANE.means, PLANE.variances.sqrt()), 1),
    )
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(PLANE.log_prob(x), torch_mixture.log_prob(x), atol=1e-12)
    assert torch.allclose(PLANE.moments()[0], torch_mixture.mean) and torch.allclose(PLANE.moments()[1], torch_mixture.variance)


def test_samples_follow_the_mixture():
    x = LINE.sample(40000, torch.Generator().manual_seed(0)).sort().values
    u = grid(-4, 4, 8001)
    cdf = torch.cumulative_trapezoid(LINE.log_prob(u).exp(), u)
    here = cdf[((x + 4) * 1000).long().clamp(0, 7999)]
    steps = torch.arange(1, 40001, dtype=torch.float64) / 40000
    assert float((here - steps).abs().max()) < 2.3 / math.sqrt(40000)


@pytest.mark.parametrize("t", [1, 50, 300, 1000])
def test_marginal_by_integrating_the_forward_kernel(t):
    oracle, x_t, _ = on_the_line(t)
    x_0 = grid(-4, 4)
    for x in x_t:
        kernel = DIFFUSION.q_marginal(x_0, t).log_prob(x) + LINE.log_prob(x_0)
        assert float(oracle.log_q(x.reshape(1), t)) == pytest.approx(float(integrate(kernel.exp(), x_0).log()), abs=1e-8)


@pytest.mark.parametrize("t", [2, 50, 300, 1000])
def test_x_0_and_reverse_moments_by_bayes_on_a_grid(t):
    oracle, x_t, _ = on_the_line(t)
    mean, var = oracle.x_0_moments(x_t, t)
    back_mean, back_var = oracle.q_s_moments(x_t, t, t // 2)
    for k, x in enumerate(x_t):
        x_0 = grid(-4, 4)
        _, m, v = density_moments(lambda u, x=x: DIFFUSION.q_marginal(u, t).log_prob(x) + LINE.log_prob(u), x_0)
        assert float(mean[k]) == pytest.approx(float(m), abs=1e-8) and float(var[k]) == pytest.approx(float(v), abs=1e-8)
        centre, width = float(back_mean[k]), float(back_var[k]) ** 0.5
        x_s = grid(centre - 12 * width, centre + 12 * width)
        law = oracle.q_s_log_prob(x_s, x.expand_as(x_s), t, t // 2)
        log_Z, m, v = density_moments(lambda u, law=law: law, x_s)
        assert float(log_Z) == pytest.approx(0, abs=1e-7)
        assert centre == pytest.approx(float(m), abs=1e-7) and float(back_var[k]) == pytest.approx(float(v), rel=1e-6)


@pytest.mark.parametrize("data, shape", [(LINE, (7,)), (PLANE, (7, 2))])
@pytest.mark.parametrize("t", [1, 300, 1000])
def test_score_and_eps_star_by_autograd(data, shape, t):
    oracle = Oracle(data, DIFFUSION)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(oracle.q_t(t).log_prob(x).sum(), x)
    x = x.detach()
    assert torch.allclose(oracle.score(x, t), slope, atol=1e-8)
    assert torch.allclose(oracle.q_t(t).score(x), slope, atol=1e-8)
    noise = math.sqrt(1 - float(DIFFUSION.schedule.alpha_bars[t]))
    assert torch.allclose(oracle(x, t), -noise * slope, atol=1e-9)


def test_a_batch_of_steps_is_the_steps_one_by_one():
    oracle = Oracle(PLANE, DIFFUSION)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.tensor([1, 10, 500, 1000])
    for k in range(4):
        one = x[k : k + 1]
        assert torch.allclose(oracle.eps_star(x, t)[k : k + 1], oracle.eps_star(one, int(t[k])), atol=1e-10)
        assert torch.allclose(oracle.log_q(x, t)[k], oracle.log_q(one, int(t[k]))[0], atol=1e-10)
        assert torch.allclose(oracle.q_s_moments(x, t)[1][k : k + 1], oracle.q_s_moments(one, int(t[k]))[1], atol=1e-14)


def test_eps_star_minimises_the_simple_loss():
    """E[(ε - f(x_t))²] by double quadrature: ε* beats every perturbed copy, by the mean square of the perturbation."""
    oracle, t = Oracle(LINE, DIFFUSION), 200
    x_0, eps = grid(-3, 3, 1201), grid(-8, 8, 1201)
    weight = LINE.log_prob(x_0).exp().unsqueeze(1) * torch.exp(-0.5 * eps**2) / math.sqrt(2 * math.pi)
    x_t = DIFFUSION.q_sample(x_0.unsqueeze(1), t, eps.unsqueeze(0))
    star = oracle.eps_star(x_t.flatten(), t).reshape(x_t.shape)
    best = integrate(integrate(weight * (eps - star) ** 2, eps), x_0)
    for bump in (0.1 * torch.ones_like(x_t), 0.1 * torch.sin(3 * x_t)):
        loss = integrate(integrate(weight * (eps - star - bump) ** 2, eps), x_0)
        extra = integrate(integrate(weight * bump**2, eps), x_0)
        assert float(loss - best) == pytest.approx(float(extra), rel=1e-6)


def test_finite_data_is_the_ideal_denoiser():
    points = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    oracle = Oracle(GaussianMixture.of_points(points), DIFFUSION)
    x_t = 0.3 * points[:2] + 0.1
    t = 400
    signal = math.sqrt(float(DIFFUSION.schedule.alpha_bars[t]))
    weights = torch.softmax(
        torch.stack([-((x_t - signal * p) ** 2).sum((1, 2, 3)) / (2 * (1 - signal**2)) for p in points], 1), 1
    )
    assert torch.allclose(oracle.x_0_moments(x_t, t)[0], torch.einsum("bk,kchw->bchw", weights, points), atol=1e-12)
    near = DIFFUSION.q_sample(points, 1, torch.zeros_like(points))
    assert torch.allclose(oracle.x_0_moments(near, 1)[0], points, atol=1e-12)
    draws = oracle.sample_x_0(near, 1, torch.Generator().manual_seed(0))
    assert torch.equal(draws, points)


def test_sample_x_0_has_the_posteriors_moments():
    oracle = Oracle(LINE, DIFFUSION)
    x_t = torch.full((50000,), 0.1, dtype=torch.float64)
    draws = oracle.sample_x_0(x_t, 300, torch.Generator().manual_seed(1))
    mean, var = oracle.x_0_moments(x_t[:1], 300)
    assert float(draws.mean()) == pytest.approx(float(mean), abs=5 * float(var) ** 0.5 / math.sqrt(50000))
    assert float(draws.var()) == pytest.approx(float(var), rel=0.03)


TILTED = GaussianMixture.with_covariances(
    [0.4, 0.6], [[-1.0, 0.0], [0.5, 1.0]], [[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.15], [-0.15, 0.6]]]
)


def test_full_covariances_against_torch_and_by_conditioning_the_joint():
    covs = TILTED.axes @ torch.diag_embed(TILTED.variances) @ TILTED.axes.mT
    assert covs[0].tolist() == [pytest.approx([0.5, 0.3]), pytest.approx([0.3, 0.4])]
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(TILTED.weights), torch.distributions.MultivariateNormal(TILTED.means, covs)
    )
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.allclose(TILTED.log_prob(x), mixture.log_prob(x), atol=1e-12)
    assert torch.allclose(TILTED.moments()[1], mixture.variance, atol=1e-12)
    (slope,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    x = x.detach()
    assert torch.allclose(TILTED.score(x), slope, atol=1e-10)

    # One component alone: x_0 given x_t by conditioning the joint Gaussian of (x_0, x_t).
    one, t = GaussianMixture.with_covariances([1.0], TILTED.means[:1], covs[:1]), 200
    bar = float(DIFFUSION.schedule.alpha_bars[t])
    joint = torch.cat(
        [
            torch.cat([covs[0], math.sqrt(bar) * covs[0]], 1),
            torch.cat([math.sqrt(bar) * covs[0], bar * covs[0] + (1 - bar) * torch.eye(2, dtype=torch.float64)], 1),
        ]
    )
    mean = torch.cat([one.means[0], math.sqrt(bar) * one.means[0]])
    want_mean, want_cov = condition_joint(mean, joint, x[0], keep=2)
    oracle = Oracle(one, DIFFUSION)
    got_mean, got_var = oracle.x_0_moments(x[:1], t)
    assert torch.allclose(got_mean[0], want_mean, atol=1e-12) and torch.allclose(got_var[0], want_cov.diagonal(), atol=1e-12)
    draws = oracle.sample_x_0(x[:1].expand(100_000, 2), t, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.cov(draws.T), want_cov, atol=0.01)
    many = TILTED.sample(100_000, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.cov(many.T).diagonal(), mixture.variance, atol=0.02)
    assert abs(float(torch.cov(many.T)[0, 1] - 0.4 * 0.3 + 0.6 * 0.15 - 0.4 * 0.6 * 1.5 * 1.0)) < 0.02

    oracle = Oracle(TILTED, DIFFUSION)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(oracle.q_t(t).log_prob(leaf).sum(), leaf)
    assert torch.allclose(oracle.score(x, t), slope, atol=1e-10)
    assert torch.allclose(oracle.eps_star(x, t), -math.sqrt(1 - bar) * slope, atol=1e-10)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: GaussianMixture([0.5, 0.4], [0.0, 1.0], [1.0, 1.0]), ValueError, "sum to 1"),
        (lambda: GaussianMixture([1.5, -0.5], [0.0, 1.0], [1.0, 1.0]), ValueError, "positive"),
        (lambda: GaussianMixture([1.0], [0.0, 1.0], [1.0, 1.0]), ValueError, "weights must be 2"),
        (lambda: GaussianMixture([1.0], [0.0], [-1.0]), ValueError, "variances must be >= 0"),
        (lambda: GaussianMixture([0.5, 0.5], [0.0, 1.0], [1.0, 1.0, 1.0]), ValueError, "broadcast"),
        (
            lambda: GaussianMixture.with_covariances([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]),
            ValueError,
            "semi-definite",
        ),
        (lambda: GaussianMixture.with_covariances([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), ValueError, "symmetric"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [1.0], 2 * torch.eye(2).reshape(1, 2, 2)), ValueError, "orthonormal"),
        (lambda: GaussianMixture([1.0], [float("nan")], [1.0]), ValueError, "means holds 1"),
        (lambda: LINE.sample(0), ValueError, "n = 0"),
        (lambda: LINE.log_prob(torch.zeros(3, 2)), ValueError, r"x has shape \(3, 2\)"),
        (lambda: PLANE.log_prob(torch.zeros(3)), ValueError, r"wanted \(B, 2\)"),
        (lambda: Oracle(LINE, DIFFUSION).eps_star(torch.zeros(3), 0), ValueError, "t = 0"),
        (lambda: Oracle(LINE, DIFFUSION).eps_star(torch.zeros(3, 1), 5), ValueError, "x_t has shape"),
        (lambda: Oracle(LINE, DIFFUSION).q_t(1001), ValueError, "t = 1001"),
        (lambda: Oracle(LINE, DIFFUSION).q_s_moments(torch.zeros(3), 5, 7), ValueError, "s must be smaller"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# The chain whose likelihood is known


def random_chain(T, seed):
    gen = torch.Generator().manual_seed(seed)
    betas, g, h, r = torch.rand(4, T, generator=gen, dtype=torch.float64)
    diffusion = GaussianDiffusion(NoiseSchedule.from_betas(0.05 + 0.4 * betas))
    return LinearGaussianChain(diffusion, 0.3 + 0.7 * g, h - 0.5, 0.1 + r)


def numbers(chain):
    return [table[1:] for table in (chain.slopes, chain.offsets, chain.variances)]


@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_chain_against_its_joint_covariance(T):
    chain = random_chain(T, seed=T)
    mean, cov = reverse_joint(*numbers(chain))
    for t in range(T + 1):
        p = chain.marginal(t)
        assert float(p.mean) == pytest.approx(float(mean[t]), abs=1e-13) and float(p.var) == pytest.approx(float(cov[t, t]))
    x_0 = torch.tensor([[0.4, -1.0], [2.0, 0.1]], dtype=torch.float64)
    law = torch.distributions.Normal(mean[0], cov[0, 0].sqrt())
    assert torch.allclose(chain.log_prob(x_0), law.log_prob(x_0).sum(1), atol=1e-12)
    for t in range(1, T + 1):
        order = [t, t - 1]
        m, V = condition_joint(mean[order], cov[order][:, order], torch.tensor([0.3], dtype=torch.float64), keep=1)
        own = chain.forward(torch.tensor(0.3, dtype=torch.float64), t)
        assert float(own.mean) == pytest.approx(float(m[0]), abs=1e-12) and float(own.var) == pytest.approx(float(V[0, 0]))


@pytest.mark.parametrize("T", [1, 2, 5])
def test_the_chain_as_a_network_has_its_own_reverse_steps(T):
    chain = random_chain(T, seed=10 + T)
    x_t = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    for t in range(1, T + 1):
        p, _ = chain.diffusion.p_mean_variance(chain, x_t, t, sigma2=chain.sigma2)
        g, h, r = (float(table[t - 1]) for table in numbers(chain))
        assert torch.allclose(p.mean, g * x_t + h, atol=1e-12) and p.var.tolist() == pytest.approx([r])
    steps = torch.arange(1, T + 1)[torch.tensor([0, T // 2, T - 1])]
    p, _ = chain.diffusion.p_mean_variance(chain, x_t.unsqueeze(1).expand(3, 2), steps, sigma2=chain.sigma2)
    assert p.mean.shape == (3, 2) and torch.allclose(p.mean[:, 0], chain.slopes[steps] * x_t + chain.offsets[steps], atol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 5])
def test_bound_and_gap_of_the_chain_as_divergences_of_joint_gaussians(T):
    chain, x_0 = random_chain(T, seed=20 + T), 0.8
    MVN, kl = torch.distributions.MultivariateNormal, torch.distributions.kl_divergence
    mean, cov = reverse_joint(*numbers(chain))
    order = [*range(1, T + 1), 0]
    m, V = condition_joint(mean[order], cov[order][:, order], torch.tensor([x_0], dtype=torch.float64), keep=T)
    q_mean, q_cov = chain_joint(chain.diffusion.schedule.betas[1:], mean=x_0, var=0.0)
    gap = kl(MVN(q_mean[1:], q_cov[1:, 1:]), MVN(m, V))
    at = torch.tensor([x_0], dtype=torch.float64)
    gaps, terms = chain.gap_terms(at), chain.bound_terms(at)
    assert gaps.shape == (1, T) and terms.shape == (1, T + 1) and (gaps >= 0).all()
    assert float(gaps.sum()) == pytest.approx(float(gap), abs=1e-11)
    assert float(terms.sum()) == pytest.approx(float(gap - chain.log_prob(at)), abs=1e-11)
    # Coordinates are independent: their terms add up.
    pair = torch.tensor([[x_0, -0.3]], dtype=torch.float64)
    apart = chain.bound_terms(pair.reshape(2))
    assert torch.allclose(chain.bound_terms(pair)[0], apart.sum(0), atol=1e-12)


def test_one_number_stands_for_all_steps():
    diffusion = GaussianDiffusion(NoiseSchedule.constant(3, 0.2))
    one, many = LinearGaussianChain(diffusion, 0.9, 0.1, 0.3), LinearGaussianChain(diffusion, [0.9] * 3, [0.1] * 3, [0.3] * 3)
    x_0 = torch.tensor([0.5], dtype=torch.float64)
    assert torch.equal(one.bound_terms(x_0), many.bound_terms(x_0))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda d: LinearGaussianChain(d, [1.0, 1.0], 0.0, 1.0), ValueError, "slopes must be one number or T = 3 numbers"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, [1.0, 0.0, 1.0]), ValueError, "variances must be > 0, got 0.0"),
        (lambda d: LinearGaussianChain(d, 1.0, math.nan, 1.0), ValueError, "offsets holds 1"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).reverse(torch.zeros(1), 0), ValueError, "t = 0"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).forward(torch.zeros(1), 4), ValueError, "t = 4"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).marginal(-1), ValueError, "t = -1"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).sigma2(torch.zeros(1), 3, 1), ValueError, "s = 1 is not t - 1"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).log_prob(torch.tensor([1])), TypeError, "x_0 has dtype"),
        (lambda d: LinearGaussianChain(d, 1.0, 0.0, 1.0).bound_terms(torch.tensor(1.0)), ValueError, "x_0 has shape"),
    ],
)
def test_bad_chains(call, error, message):
    with pytest.raises(error, match=message):
        call(GaussianDiffusion(NoiseSchedule.constant(3, 0.2)))


def test_noised_is_the_convolution_and_curvature_bounds_it():
    data = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
    x, y = torch.linspace(-4, 4, 8001, dtype=torch.float64), torch.tensor([-1.0, 0.1, 2.0], dtype=torch.float64)
    bell = torch.exp(-((y[:, None] - x) ** 2) / (2 * 0.3**2)) / (0.3 * (2 * torch.pi) ** 0.5)
    want = torch.trapezoid(bell * data.log_prob(x).exp(), x)
    assert torch.allclose(data.noised(0.3).log_prob(y).exp(), want, atol=1e-10)
    s = data.score(x)
    bends = (s[:-2] - s[2:]) / (x[2:] - x[:-2])
    assert data.curvature == pytest.approx(20) and 19 < float(bends.max()) <= data.curvature + 1e-9
    assert GaussianMixture.of_points(torch.zeros(3, 2)).curvature == float("inf")
    with pytest.raises(ValueError, match="sigma = -1"):
        data.noised(-1.0)


# Data in classes ------------------------------------------------------------------------------------------------------


def test_the_exact_classifier_is_bayes_rule_on_a_grid():
    data, labels = GaussianMixture([0.2, 0.5, 0.3], [-1.0, 0.3, 1.1], [0.1, 0.2, 0.05]), torch.tensor([1, 0, 1])
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    oracle = ClassOracle(data, diffusion, labels)
    u = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    numbers = (0.2, -1.0, 0.1), (0.5, 0.3, 0.2), (0.3, 1.1, 0.05)
    parts = torch.stack([w * torch.distributions.Normal(m, v**0.5).log_prob(u).exp() for w, m, v in numbers])
    for t in (1, 5, 10):
        a = float(diffusion.schedule.alpha_bars[t])
        for x in (-1.3, 0.2, 1.0):
            seen = torch.distributions.Normal(a**0.5 * u, (1 - a) ** 0.5).log_prob(torch.tensor(x)).exp()
            joint = torch.stack([(parts[1] * seen).sum(), ((parts[0] + parts[2]) * seen).sum()])
            got = oracle.log_prob_y(torch.tensor([x], dtype=torch.float64), t)
            assert torch.allclose(got[0].exp(), joint / joint.sum(), atol=1e-10)


def test_told_the_class_it_is_the_oracle_of_that_class_and_untold_that_of_all():
    data, labels = GaussianMixture([0.2, 0.5, 0.3], [[-1.0, 0], [0.3, 1], [1.1, 0]], [0.1, 0.2, 0.05]), torch.tensor([1, 0, 1])
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    oracle, x_t, t = ClassOracle(data, diffusion, labels), torch.randn(3, 2, dtype=torch.float64), torch.tensor([2, 5, 9])
    assert oracle.config == {"classes": 2} and oracle.of_class(1).weights.tolist() == pytest.approx([0.4, 0.6])
    got = oracle(x_t, t, torch.tensor([0, 1, 2]))
    one = Oracle(GaussianMixture([1.0], [[0.3, 1.0]], [0.2]), diffusion)
    other = Oracle(GaussianMixture([0.4, 0.6], [[-1.0, 0], [1.1, 0]], [0.1, 0.05]), diffusion)
    for k, want in enumerate((one, other, Oracle(data, diffusion))):
        assert torch.allclose(got[k], want(x_t, t)[k], atol=1e-12)
    assert torch.equal(oracle(x_t, t), oracle(x_t, t, torch.tensor([2, 2, 2])))


def test_class_oracle_refuses():
    data, diffusion = GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.1, 0.1]), GaussianDiffusion(NoiseSchedule.linear(10))
    with pytest.raises(TypeError, match="labels must be an int64"):
        ClassOracle(data, diffusion, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="every class from 0 to 2"):
        ClassOracle(data, diffusion, torch.tensor([0, 2]))
    oracle = ClassOracle(data, diffusion, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"one class 0\.\.2"):
        oracle(torch.zeros(1, dtype=torch.float64), 3, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"k = 2 is outside 0\.\.1"):
        oracle.of_class(2)


# Precision, shapes and refusals ------------------------------------------------------------------------------------


def test_single_precision():
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]])
    data = GaussianMixture([0.5, 0.5], means, [0.1, 0.2], torch.linalg.qr(torch.rand(2, 2, 2, generator=_seed(0)))[0])
    assert {x.dtype for x in (data.weights, data.means, data.variances, data.axes, data.sample(3, _seed(0)))} == {torch.float32}
    assert GaussianMixture.of_points(means).weights.dtype == torch.float32
    assert GaussianMixture.of_points(means).weights.tolist() == [0.5, 0.5]
    # Data in float64, states in float32: the answers are right to single precision.
    oracle, x_t = Oracle(LINE, DIFFUSION), torch.tensor([0.3, -0.7])
    for answer in (oracle.eps_star, oracle.score, oracle.log_q):
        single, double = answer(x_t, torch.tensor([300, 301])), answer(x_t.double(), torch.tensor([300, 301]))
        assert torch.allclose(single.double(), double, rtol=1e-5)
    coarse = GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 2.0]], torch.tensor([[[0.6, -0.8], [0.8, 0.6]]]))
    assert coarse.axes.dtype == torch.float64  # orthonormal up to the rounding of float32, and so accepted


def _seed(k):
    return torch.Generator().manual_seed(k)


@pytest.mark.parametrize("k", range(8))
def test_a_covariance_of_lower_rank_is_semi_definite_up_to_rounding(k):
    u = torch.randn(3, generator=_seed(k), dtype=torch.float64)
    data = GaussianMixture.with_covariances([1.0], [[0.0, 0.0, 0.0]], torch.outer(u, u)[None])
    assert (data.variances >= 0).all() and data.moments()[1].tolist() == pytest.approx((u**2).tolist())
    assert torch.equal(data.sample(4, _seed(1)), data.sample(4, _seed(1)))


def test_variances_may_be_a_number_one_for_each_component_or_one_for_each_coordinate():
    means = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    for given, want in (
        (0.5, [[0.5, 0.5]] * 3),
        ([0.1, 0.2, 0.3], [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]),
        ([0.1, 0.2], [[0.1, 0.2]] * 3),
    ):
        assert GaussianMixture([0.2, 0.3, 0.5], means, given).variances.tolist() == want
    images = GaussianMixture([0.5, 0.5], torch.zeros(2, 1, 2, 2), [1.0, 2.0])
    assert images.event == (1, 2, 2) and images.variances.mean((1, 2, 3)).tolist() == [1.0, 2.0]


def test_noise_keeps_the_axes_and_nothing_is_no_noise():
    got = TILTED.noised(0.5)
    covs = got.axes @ torch.diag_embed(got.variances) @ got.axes.mT
    assert covs[1].tolist() == [pytest.approx([0.45, -0.15]), pytest.approx([-0.15, 0.85])]
    assert torch.equal(TILTED.noised(0.0).variances, TILTED.variances)
    assert LINE.curvature == pytest.approx(20.0)


def test_a_batch_of_starting_points_has_the_likelihood_of_clean_data_at_0():
    oracle, x = Oracle(LINE, DIFFUSION), torch.tensor([0.1, -1.0], dtype=torch.float64)
    numbers = ((0.3, -1.2, 0.05), (0.7, 0.8, 0.10))
    p = sum(w * torch.exp(-((x - m) ** 2) / (2 * v)) / math.sqrt(2 * math.pi * v) for w, m, v in numbers)
    assert torch.allclose(oracle.log_q(x, 0), p.log(), rtol=1e-12)
    # One step back, s left out: the law of x_1 given x_2 integrates to 1.
    u = grid(-3, 3, 4001)
    log_q = oracle.q_s_log_prob(u, torch.full_like(u, 0.4), 2)
    assert float(integrate(log_q.exp(), u)) == pytest.approx(1, abs=1e-9)
    assert torch.allclose(oracle.sigma2_optimal(x, 300, 200), oracle.q_s_moments(x, 300, 200)[1], rtol=0, atol=0)


def test_draws_of_x_0_are_the_generator_s():
    oracle, x_t = Oracle(TILTED, DIFFUSION), torch.zeros(6, 2, dtype=torch.float64)
    a, b = (oracle.sample_x_0(x_t, 500, _seed(3)) for _ in range(2))
    assert torch.equal(a, b) and float(a.std()) > 0.1


def test_in_continuous_time_against_quadrature_and_autograd():
    oracle = SDEOracle(LINE, VPSDE(0.2, 6.0))
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    x_0 = grid(-4, 4)
    for t in (0.1, 0.5, 1.0):
        bar = math.exp(-(0.2 * t + 2.9 * t * t))  # minus the integral of β
        for k in range(5):
            kernel = torch.distributions.Normal(math.sqrt(bar) * x_0, math.sqrt(1 - bar)).log_prob(x[k])
            want = integrate((kernel + LINE.log_prob(x_0)).exp(), x_0).log()
            assert float(oracle.log_q(x[k : k + 1], t)) == pytest.approx(float(want), abs=1e-8)
        leaf = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(oracle.log_q(leaf, t).sum(), leaf)
        assert torch.allclose(oracle(x, t), slope, atol=1e-10)
    tilted = SDEOracle(TILTED, VPSDE(0.2, 6.0)).q_t(0.5)
    bar = math.exp(-(0.1 + 2.9 / 4))
    covs = tilted.axes @ torch.diag_embed(tilted.variances) @ tilted.axes.mT
    assert covs[0].tolist() == [
        pytest.approx([bar * 0.5 + 1 - bar, bar * 0.3]),
        pytest.approx([bar * 0.3, bar * 0.4 + 1 - bar]),
    ]
    with pytest.raises(ValueError, match=r"t must be one time in \[0, 1\]"):
        oracle.q_t(torch.tensor([0.1, 0.2]))
    assert torch.equal(oracle.q_t(torch.tensor(0.25)).means, oracle.q_t(0.25).means)


def test_classes_of_tilted_data_and_of_clean_data():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    oracle = ClassOracle(TILTED, diffusion, torch.tensor([1, 0]))
    one = oracle.of_class(1)
    covs = one.axes @ torch.diag_embed(one.variances) @ one.axes.mT
    assert one.weights.tolist() == [1.0] and covs[0].tolist() == [pytest.approx([0.5, 0.3]), pytest.approx([0.3, 0.4])]
    x = torch.tensor([[0.0, 0.3], [-1.0, 0.0]], dtype=torch.float64)
    laws = [torch.distributions.MultivariateNormal(TILTED.means[k], c) for k, c in ((1, _cov(1)), (0, _cov(0)))]
    joint = torch.stack([math.log(w) + law.log_prob(x) for w, law in zip((0.6, 0.4), laws)], 1)
    assert torch.allclose(oracle.log_prob_y(x, 0), joint.log_softmax(1), atol=1e-10)
    rows = [oracle.log_prob_y(x[k : k + 1], t)[0] for k, t in enumerate((3, 8))]
    assert torch.allclose(oracle.log_prob_y(x, torch.tensor([3, 8])), torch.stack(rows), atol=1e-12)
    for y, error, message in (
        (torch.tensor([0.0, 1.0]), TypeError, r"y must be an int64 tensor of classes 0\.\.2"),
        (torch.tensor([0]), ValueError, r"got shape \(1,\)"),
        (torch.tensor([-1, 0]), ValueError, "one class"),
        ([0, 1], TypeError, "y must be a Tensor"),
    ):
        with pytest.raises(error, match=message):
            oracle(x, 3, y)
    with pytest.raises(ValueError, match="k = -1"):
        oracle.of_class(-1)
    with pytest.raises(TypeError, match="labels must be an int64"):
        ClassOracle(TILTED, diffusion, [1, 0])
    with pytest.raises(TypeError, match=r"of shape \(2,\)"):
        ClassOracle(TILTED, diffusion, torch.tensor([0, 1, 1]))


def _cov(k):
    return torch.tensor([[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.15], [-0.15, 0.6]]][k], dtype=torch.float64)


def test_the_chain_in_single_precision_and_in_batches():
    chain = LinearGaussianChain(GaussianDiffusion(NoiseSchedule.constant(3, 0.2)), [0.9, 0.8, 0.7], 0.1, [0.3, 0.4, 0.5])
    p = chain.reverse(torch.ones(2, 4), torch.tensor([1, 3]))
    assert p.mean.dtype == torch.float32 and p.mean[:, 0].tolist() == pytest.approx([1.0, 0.8])
    assert p.var.shape == (2, 1) and p.var[:, 0].tolist() == pytest.approx([0.3, 0.5])
    assert chain.sigma2(torch.ones(2), torch.tensor([2, 3]), torch.tensor([1, 2])).tolist() == pytest.approx([0.4, 0.5])
    assert chain.sigma2(torch.ones(1), 3, 2).tolist() == pytest.approx([0.5])
    assert chain.slopes.tolist() == [1.0, 0.9, 0.8, 0.7] and chain.offsets[0] == 0 and chain.variances[0] == 0
    assert chain.marginal(torch.tensor(3)).var == 1 and chain.log_prob(torch.ones(2, 4)).dtype == torch.float64
    assert chain.log_prob(torch.ones(2, 4)).shape == (2,)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: GaussianMixture([1.0], 0.0, [1.0]), ValueError, r"means must have shape \(K, \*event\)"),
        (lambda: GaussianMixture([], [], []), ValueError, "K >= 1"),
        (lambda: GaussianMixture([0.5, 0.6], [0.0, 1.0], [1.0, 1.0]), ValueError, "sum to 1"),
        (lambda: GaussianMixture([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]), ValueError, "positive"),
        (lambda: GaussianMixture([1.0], [0.0], [math.inf]), ValueError, "variances holds 1"),
        (lambda: GaussianMixture([1.0], torch.tensor([0]), [1.0]), TypeError, "means has dtype"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [1.0], torch.eye(2)), ValueError, r"got shape \(2, 2\)"),
        (
            lambda: GaussianMixture([1.0], [[0.0, 0.0]], [1.0], torch.tensor([[[1.0, 0.1], [0.0, 1.0]]])),
            ValueError,
            "orthonormal",
        ),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [1.0], torch.eye(2).long()), TypeError, "axes has dtype"),
        (lambda: GaussianMixture.with_covariances([1.0], [[0.0]], [[1.0]]), ValueError, r"got shape \(1, 1\)"),
        (lambda: GaussianMixture.with_covariances([1.0], [[0.0]], [[[1.0, 0.0]]]), ValueError, r"got shape \(1, 1, 2\)"),
        (lambda: GaussianMixture.of_points(torch.tensor(1.0)), ValueError, "points must have shape"),
        (lambda: GaussianMixture.of_points(torch.zeros(0, 2)), ValueError, "K >= 1"),
        (lambda: GaussianMixture.of_points([1.0]), TypeError, "points must be a torch tensor"),
        (lambda: LINE.log_prob(torch.zeros(2, dtype=torch.int64)), TypeError, "x has dtype"),
        (lambda: LINE.noised(math.inf), ValueError, "sigma = inf"),
        (lambda: Oracle(LINE, DIFFUSION).q_t(torch.tensor([1, 2])), ValueError, r"t must be one step.*\(2,\)"),
        (lambda: Oracle(LINE, DIFFUSION).q_t(-1), ValueError, r"t = -1 is outside 0\.\."),
        (lambda: Oracle(LINE, NoiseSchedule.linear(3)), TypeError, "diffusion must be a GaussianDiffusion"),
        (lambda: Oracle([0.0], DIFFUSION), TypeError, "data must be a GaussianMixture"),
        (lambda: SDEOracle([0.0], VPSDE()), TypeError, "data must be a GaussianMixture"),
        (lambda: LinearGaussianChain(NoiseSchedule.linear(3), 1.0, 0.0, 1.0), TypeError, "diffusion must be"),
        (lambda: LinearGaussianChain(DIFFUSION, torch.ones(1, 1000), 0.0, 1.0), ValueError, r"got shape \(1, 1000\)"),
        (lambda: random_chain(3, 0).forward(torch.tensor([1]), 2), TypeError, "x_s has dtype"),
        (lambda: random_chain(3, 0).reverse(torch.zeros(2), torch.tensor([1, 2, 3])), ValueError, "t has 3 entries"),
        (
            lambda: random_chain(3, 0).sigma2(torch.zeros(2), torch.tensor([2, 3]), torch.tensor([1, 1])),
            ValueError,
            "not t - 1",
        ),
        (lambda: random_chain(3, 0).gap_terms(torch.tensor(1.0)), ValueError, r"x_0 has shape \(\)"),
    ],
)
def test_more_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Edges that small edits of the code would move ------------------------------------------------------------------------


def test_points_on_a_line_weigh_the_same_in_double_precision():
    points = GaussianMixture.of_points(torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64))
    assert points.event == () and points.weights.tolist() == [1 / 3] * 3


def test_the_same_generator_gives_the_same_samples():
    first, second = (PLANE.sample(50, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_covariances_given_as_lists_are_taken_in_double_precision():
    mixture = GaussianMixture.with_covariances([1.0], [[0.1, 0.2]], [[[0.3, 0.1], [0.1, 0.7]]])
    trace, determinant = float(mixture.variances.sum()), float(mixture.variances.prod())
    assert trace == pytest.approx(1.0, rel=1e-14) and determinant == pytest.approx(0.3 * 0.7 - 0.01, rel=1e-13)


def test_covariances_may_be_singular_large_or_zero_and_must_be_square():
    direction = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    for scale in (1e8, 1.0, 0.0):  # all variance on one line: rounding puts some eigenvalues below 0
        mixture = GaussianMixture.with_covariances([1.0], torch.zeros(1, 3), scale * direction.outer(direction)[None])
        assert (mixture.variances >= 0).all() and float(mixture.variances.sum()) == pytest.approx(14 * scale, rel=1e-12)
    with pytest.raises(ValueError, match="symmetric matrices"):
        GaussianMixture.with_covariances([1.0], torch.zeros(1, 3), torch.zeros(1, 2, 3))


def test_the_chain_refuses_a_first_variance_of_zero_and_a_step_before_the_first():
    short = GaussianDiffusion(NoiseSchedule.from_betas([0.1, 0.3]))
    with pytest.raises(ValueError, match="variances must be > 0"):
        LinearGaussianChain(short, 0.9, 0.0, [0.0, 0.2])
    chain = LinearGaussianChain(short, 0.9, 0.1, 0.2)
    assert chain.marginal(2).var.dtype == chain.marginal(0).var.dtype == torch.float64
    with pytest.raises(ValueError, match="t = 0 is outside"):
        chain.forward(torch.zeros(1), 0)
    single = torch.tensor([0.1, 0.7])
    assert torch.equal(chain.forward(single, 1).mean, chain.forward(single.double(), 1).mean)


@pytest.mark.parametrize("shape", [(4, 3), (4,), (4, 2, 1), (2,)])
def test_a_state_of_another_shape_than_the_data_is_refused(shape):
    with pytest.raises(ValueError, match="x"):
        PLANE.log_prob(torch.zeros(shape, dtype=torch.float64))
