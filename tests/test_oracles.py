"""The oracles against quadrature, autograd, sampling and brute force."""

import math

import pytest
import torch

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle
from ddpm_edu.gaussian import condition_joint
from ddpm_edu.oracles import ClassOracle, LinearGaussianChain
from ddpm_edu.routes import chain_joint, density_moments, grid, integrate, reverse_joint

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
