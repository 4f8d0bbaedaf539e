"""The Gaussian rules against torch.distributions, quadrature, scipy and multivariate linear algebra."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddpm_edu.gaussian import (
    FullGaussian,
    Gaussian,
    condition,
    condition_joint,
    discretised_log_prob,
    product,
    push_forward,
)
from ddpm_edu.routes import density_moments, grid, integrate

means = st.floats(-3, 3)
variances = st.floats(0.05, 4)


def g(mean, var):
    return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64))


def normal(h):
    return torch.distributions.Normal(h.mean, h.var.sqrt())


@given(means, variances, means, variances)
@settings(max_examples=40, deadline=None)
def test_density_entropy_and_kl_against_torch(m1, v1, m2, v2):
    p, q = g(m1, v1), g(m2, v2)
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.allclose(p.log_prob(x), normal(p).log_prob(x), atol=1e-12)
    assert torch.allclose(p.entropy(), normal(p).entropy(), atol=1e-12)
    assert torch.allclose(p.kl(q), torch.distributions.kl_divergence(normal(p), normal(q)), atol=1e-10)


def test_kl_by_quadrature_and_its_direction():
    p, q = g(0.3, 0.5), g(-1.0, 2.0)
    x = grid(-12, 12)
    by_grid = integrate(p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)), x)
    assert float(p.kl(q)) == pytest.approx(float(by_grid), abs=1e-10)
    assert abs(float(p.kl(q) - q.kl(p))) > 0.1


def test_sample_is_the_reparameterisation_and_has_the_law():
    p = g([1.0, -2.0], [0.25, 9.0])
    eps = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert p.sample(eps=eps).tolist() == [1.5, -5.0]
    many = Gaussian(p.mean.expand(20000, 2), p.var).sample(torch.Generator().manual_seed(0))
    for k in range(2):
        assert stats.kstest(many[:, k].numpy(), "norm", args=(float(p.mean[k]), float(p.var[k]) ** 0.5)).pvalue > 1e-4
    again = Gaussian(p.mean.expand(20000, 2), p.var).sample(torch.Generator().manual_seed(0))
    assert torch.equal(many, again)


@given(means, variances, means, variances)
@settings(max_examples=25, deadline=None)
def test_product_against_quadrature(m1, v1, m2, v2):
    p, q = g(m1, v1), g(m2, v2)
    got, log_Z = product(p, q)
    want_Z, mean, var = density_moments(lambda x: p.log_prob(x) + q.log_prob(x), grid(-30, 30, 60001))
    assert float(log_Z) == pytest.approx(float(want_Z), abs=1e-8)
    assert float(got.mean) == pytest.approx(float(mean), abs=1e-8)
    assert float(got.var) == pytest.approx(float(var), rel=1e-7)


@given(means, variances, st.floats(-2, 2), variances, means)
@settings(max_examples=25, deadline=None)
def test_condition_and_push_forward_against_quadrature(m, v, a, noise, y):
    prior = g(m, v)
    x = grid(-40, 40, 80001)
    log_joint = prior.log_prob(x) + g(y, noise).log_prob(a * x)
    log_evidence, mean, var = density_moments(lambda x: log_joint, x)
    got = condition(prior, torch.tensor(y, dtype=torch.float64), a, noise)
    assert float(got.mean) == pytest.approx(float(mean), abs=1e-7)
    assert float(got.var) == pytest.approx(float(var), rel=1e-6)
    evidence = push_forward(prior, a, noise).log_prob(torch.tensor(y, dtype=torch.float64))
    assert float(evidence) == pytest.approx(float(log_evidence), abs=1e-8)


def test_push_forward_shifts_and_condition_takes_a_point():
    assert float(push_forward(g(1.0, 2.0), 3.0, 0.5, b=-1.0).mean) == 2.0
    assert float(push_forward(g(1.0, 2.0), 3.0, 0.5, b=-1.0).var) == 18.5
    point = condition(g(0.7, 0.0), torch.tensor(5.0, dtype=torch.float64), 1.0, 0.1)
    assert float(point.mean) == 0.7 and float(point.var) == 0.0


def test_condition_joint_against_the_precision_matrix():
    gen = torch.Generator().manual_seed(3)
    A = torch.randn(5, 5, generator=gen, dtype=torch.float64)
    cov, mean = A @ A.T + torch.eye(5, dtype=torch.float64), torch.randn(5, generator=gen, dtype=torch.float64)
    y = torch.randn(3, generator=gen, dtype=torch.float64)
    got_mean, got_cov = condition_joint(mean, cov, y, keep=2)
    precision = torch.linalg.inv(cov)  # given the rest, a block of the precision is the precision
    want_cov = torch.linalg.inv(precision[:2, :2])
    want_mean = mean[:2] - want_cov @ precision[:2, 2:] @ (y - mean[2:])
    assert torch.allclose(got_cov, want_cov, atol=1e-12) and torch.allclose(got_mean, want_mean, atol=1e-12)


def levels(n):
    return torch.linspace(-1, 1, n, dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 3, 17, 256])
@pytest.mark.parametrize("mean, var", [(0.0, 1.0), (0.3, 1e-4), (-1.4, 0.01), (1.0, 4.0)])
def test_decoder_sums_to_one_and_equals_clip_and_round(n, mean, var):
    log_p = discretised_log_prob(levels(n), g(mean, var), n)
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-12)
    edges = torch.cat([torch.tensor([-math.inf]), (levels(n)[1:] + levels(n)[:-1]) / 2, torch.tensor([math.inf])])
    cdf = torch.as_tensor(stats.norm.cdf(edges.numpy(), mean, var**0.5))
    assert torch.allclose(log_p.exp(), cdf[1:] - cdf[:-1], atol=1e-12)


def test_decoder_far_in_the_tails():
    for x, mean in ((1.0, -1.0), (-1.0, 1.0), (levels(256)[127].item(), 1.0), (levels(256)[100].item(), 1.0)):
        x = torch.tensor(x, dtype=torch.float64)
        sigma, half = 0.01, 1 / 255
        low, high = (float(x) - half - mean) / sigma, (float(x) + half - mean) / sigma
        if float(x) == 1:
            want = stats.norm.logsf(low)
        elif float(x) == -1:
            want = stats.norm.logcdf(high)
        else:  # left of the mean: the upper edge rules
            want = stats.norm.logcdf(high) + math.log1p(-math.exp(stats.norm.logcdf(low) - stats.norm.logcdf(high)))
        assert float(discretised_log_prob(x, g(mean, sigma**2))) == pytest.approx(want, rel=1e-10)
    mirrored = discretised_log_prob(levels(256), g(-0.4, 0.01)).flip(0)
    assert torch.allclose(discretised_log_prob(levels(256), g(0.4, 0.01)), mirrored, rtol=1e-9)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: g(0.0, -1.0), ValueError, "var must be >= 0, got -1"),
        (lambda: g(float("nan"), 1.0), ValueError, "mean holds 1 value"),
        (lambda: Gaussian(0.0, torch.tensor(1.0)), TypeError, "mean must be a torch tensor"),
        (lambda: Gaussian(torch.tensor([1, 2]), torch.tensor(1.0)), TypeError, "mean has dtype torch.int64"),
        (lambda: Gaussian(torch.zeros(2), torch.ones(3)), ValueError, r"do not broadcast: mean \(2,\), var \(3,\)"),
        (lambda: g(0.0, 0.0).log_prob(torch.zeros(1)), ValueError, "var is 0"),
        (lambda: g(0.0, 0.0).entropy(), ValueError, "var is 0"),
        (lambda: g(0.0, 1.0).kl(g(0.0, 0.0)), ValueError, "var is 0"),
        (lambda: g(0.0, 1.0).log_prob(torch.tensor([1])), TypeError, "x has dtype"),
        (lambda: g([0.0, 1.0], 1.0).sample(eps=torch.zeros(3)), ValueError, r"eps \(3,\)"),
        (lambda: product(g(0.0, 0.0), g(0.0, 1.0)), ValueError, "var is 0"),
        (lambda: condition(g(0.0, 0.0), torch.tensor(1.0), 1.0, 0.0), ValueError, "must be > 0"),
        (lambda: condition_joint(torch.zeros(2), torch.eye(3), torch.zeros(1), 1), ValueError, "want mean"),
        (lambda: condition_joint(torch.zeros(2), torch.eye(2), torch.zeros(1), 2), ValueError, "want mean"),
        (lambda: discretised_log_prob(torch.tensor([1.5]), g(0.0, 1.0)), ValueError, r"\[-1, 1\]|between two levels"),
        (lambda: discretised_log_prob(torch.tensor([0.002]), g(0.0, 1.0)), ValueError, "between two levels"),
        (lambda: discretised_log_prob(torch.tensor([1 + 2 / 255]), g(0.0, 1.0)), ValueError, r"lie in \[-1, 1\]"),
        (lambda: discretised_log_prob(torch.zeros(1), g(0.0, 0.0), 3), ValueError, "var is 0"),
        (lambda: discretised_log_prob(torch.zeros(1), g(0.0, 1.0), 1), ValueError, "levels = 1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_kl_from_a_point_is_infinite():
    assert float(g(0.0, 0.0).kl(g(0.0, 1.0))) == math.inf


# Natural parameters and full covariances -------------------------------------------------------------------------


def full(n, seed):
    gen = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=gen, dtype=torch.float64)
    mean = torch.randn(n, generator=gen, dtype=torch.float64)
    return FullGaussian(mean, A @ A.T + 0.1 * torch.eye(n, dtype=torch.float64))


def multivariate(h):
    return torch.distributions.MultivariateNormal(h.mean, h.cov)


@given(means, variances)
@settings(max_examples=25, deadline=None)
def test_natural_parameters_against_quadrature_and_autograd(m, v):
    p = g(m, v)
    eta_1, eta_2 = (eta.detach().requires_grad_() for eta in p.natural())
    x = grid(-40, 40, 80001)
    log_Z, mean, var = density_moments(lambda x: (eta_1 * x + eta_2 * x**2).detach(), x)
    back = Gaussian.from_natural(eta_1, eta_2)
    A = back.log_partition()
    assert A.item() == pytest.approx(float(log_Z), abs=1e-9)
    assert (back.mean.item(), back.var.item()) == pytest.approx((float(mean), float(var)), abs=1e-8)
    first, second = torch.autograd.grad(A, (eta_1, eta_2))
    assert (float(first), float(second)) == pytest.approx((m, v + m**2), abs=1e-9)


@pytest.mark.parametrize("n, seed", [(1, 0), (2, 1), (5, 2)])
def test_full_gaussian_against_torch(n, seed):
    p, q = full(n, seed), full(n, seed + 10)
    x = torch.randn(4, 3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(p.log_prob(x), multivariate(p).log_prob(x), rtol=1e-10)
    assert torch.allclose(p.entropy(), multivariate(p).entropy(), rtol=1e-12)
    assert torch.allclose(p.kl(q), torch.distributions.kl_divergence(multivariate(p), multivariate(q)), rtol=1e-9)
    eta_1, eta_2 = p.natural()
    by_torch = multivariate(p).log_prob(x) + p.log_partition()  # log density = η·T - A
    assert torch.allclose((x @ eta_1) + ((x @ eta_2) * x).sum(-1), by_torch, rtol=1e-9)
    back = FullGaussian.from_natural(eta_1, eta_2)
    assert torch.allclose(back.mean, p.mean, rtol=1e-9) and torch.allclose(back.cov, p.cov, rtol=1e-9)


def test_full_gaussian_samples_and_affine_have_the_law():
    p = full(3, 4)
    eps = torch.randn(40000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([0.5, -1.0], dtype=torch.float64)
    y, law = p.sample(eps=eps) @ A.T + b, p.affine(A, b)
    for k in range(2):
        assert stats.kstest(y[:, k].numpy(), "norm", args=(float(law.mean[k]), float(law.cov[k, k]) ** 0.5)).pvalue > 1e-4
    assert float(torch.cov(y.T)[0, 1]) == pytest.approx(float(law.cov[0, 1]), abs=0.05 * float(law.cov.diagonal().max()))
    one = p.sample(torch.Generator().manual_seed(5))
    assert one.shape == (3,) and torch.equal(one, p.sample(torch.Generator().manual_seed(5)))


def test_full_gaussian_with_a_diagonal_is_the_sum_over_coordinates():
    p, q = g([0.3, -1.0, 2.0], [0.5, 2.0, 1.0]), g([1.0, 0.0, 0.5], [1.5, 0.7, 1.0])
    fp, fq = (FullGaussian(h.mean, torch.diag(h.var)) for h in (p, q))
    x = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert float(fp.log_prob(x)) == pytest.approx(float(p.log_prob(x).sum()), abs=1e-12)
    assert float(fp.kl(fq)) == pytest.approx(float(p.kl(q).sum()), abs=1e-12)
    assert float(fp.entropy()) == pytest.approx(float(p.entropy().sum()), abs=1e-12)
    assert float(fp.log_partition()) == pytest.approx(float(p.log_partition().sum()), abs=1e-12)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: g(0.0, 0.0).natural(), ValueError, "var is 0"),
        (lambda: g(0.0, 0.0).log_partition(), ValueError, "var is 0"),
        (lambda: Gaussian.from_natural(torch.tensor(1.0), torch.tensor(0.5)), ValueError, "eta_2 must be < 0.*0.5"),
        (lambda: Gaussian.from_natural(torch.tensor(1), torch.tensor(-0.5)), TypeError, "eta_1 has dtype"),
        (lambda: FullGaussian(torch.zeros(2), torch.eye(3)), ValueError, "want mean"),
        (lambda: FullGaussian(torch.zeros(2, 2), torch.eye(2)), ValueError, "want mean"),
        (lambda: FullGaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), ValueError, "symmetric.*0.5"),
        (lambda: FullGaussian(torch.zeros(2), torch.diag(torch.tensor([1.0, -2.0]))), ValueError, "positive definite.*-2"),
        (lambda: full(2, 0).log_prob(torch.zeros(3)), ValueError, r"x must have shape \(..., 2\)"),
        (lambda: full(2, 0).sample(eps=torch.zeros(3, 1)), ValueError, r"eps must have shape \(..., 2\)"),
        (lambda: full(2, 0).kl(full(3, 0)), ValueError, "self has 2 coordinates, other has 3"),
        (lambda: full(2, 0).affine(torch.zeros(2, 3)), ValueError, r"A must have shape \(m, 2\)"),
        (lambda: full(2, 0).affine(torch.zeros(1, 2).double()), ValueError, "positive definite"),
        (lambda: FullGaussian.from_natural(torch.zeros(2), torch.eye(2)), ValueError, "positive definite"),
    ],
)
def test_bad_input_to_natural_and_full(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Shapes, precision and refusals ------------------------------------------------------------------------------------


def test_draws_are_made_in_the_mean_s_precision_and_shape():
    p = Gaussian(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([[4.0], [9.0]], dtype=torch.float64))
    z = torch.randn(2, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    want = [[1 + 2 * float(z[0, 0]), 2 + 2 * float(z[0, 1])], [1 + 3 * float(z[1, 0]), 2 + 3 * float(z[1, 1])]]
    assert p.sample(torch.Generator().manual_seed(7)).tolist() == [pytest.approx(row, rel=1e-15) for row in want]
    q = FullGaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([[4.0, 2.0], [2.0, 10.0]], dtype=torch.float64))
    z = torch.randn(2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)  # L = [[2, 0], [1, 3]]
    want = [2 * float(z[0]), float(z[0]) + 3 * float(z[1])]
    assert q.sample(torch.Generator().manual_seed(8)).tolist() == pytest.approx(want, rel=1e-14)


def test_entropy_and_bounds_of_shapes():
    p = Gaussian(torch.zeros(3, 1, dtype=torch.float64), torch.full((2,), 1 / (2 * math.pi * math.e), dtype=torch.float64))
    assert p.entropy().shape == (3, 2) and p.entropy().abs().max() < 1e-15
    assert discretised_log_prob(torch.zeros(0), Gaussian(torch.zeros(1), torch.ones(1))).shape == (0,)


def test_plain_numbers_are_taken_in_double_precision():
    got = push_forward(g(1.0, 1.0), 0.1, 0.3, b=0.7)
    assert (float(got.mean), float(got.var)) == pytest.approx((0.8, 0.31), rel=1e-15)
    got = condition(g(0.0, 1.0), torch.tensor(1.0, dtype=torch.float64), 0.1, 0.3)  # gain 0.1 / 0.31
    assert (float(got.mean), float(got.var)) == pytest.approx((0.1 / 0.31, 0.3 / 0.31), rel=1e-15)


def test_an_affine_map_without_a_shift_keeps_the_origin():
    p = FullGaussian(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    q = p.affine(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    assert q.mean.tolist() == [11.0] and q.cov.tolist() == [[25.0]]
    assert p.affine(torch.tensor([[3.0, 4.0]], dtype=torch.float64), -1.0).mean.tolist() == [10.0]


def test_rounding_errors_in_a_large_covariance_are_no_asymmetry():
    cov = torch.tensor([[4e6, 1e6], [1e6 + 20, 4e6]], dtype=torch.float64)
    assert FullGaussian(torch.zeros(2, dtype=torch.float64), cov).root.shape == (2, 2)
    with pytest.raises(ValueError, match="symmetric"):
        FullGaussian(torch.zeros(2, dtype=torch.float64), cov * 1e-6 + torch.tensor([[0.0, 0.001], [0.0, 0.0]]))


def test_the_two_natural_parameters_of_a_correlated_pair_by_hand():
    p = FullGaussian(torch.tensor([1.0, 0.0]).double(), torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double())
    eta_1, eta_2 = p.natural()  # cov⁻¹ = [[1, -1], [-1, 2]]
    assert eta_1.tolist() == pytest.approx([1.0, -1.0])
    assert eta_2.tolist() == [pytest.approx([-0.5, 0.5]), pytest.approx([0.5, -1.0])]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: g([0.0, 1.0], 1.0).log_prob(torch.zeros(3)), ValueError, r"x \(3,\), mean \(2,\)"),
        (lambda: g([0.0, 1.0], 1.0).kl(g([0.0, 1.0, 2.0], 1.0)), ValueError, r"other_mean \(3,\)"),
        (lambda: g(0.0, 1.0).kl(3.0), TypeError, "other must be a Gaussian"),
        (lambda: g(0.0, 1.0).sample(eps=torch.tensor([1])), TypeError, "eps has dtype"),
        (lambda: Gaussian.from_natural(torch.zeros(2), -torch.ones(3)), ValueError, r"eta_1 \(2,\), eta_2 \(3,\)"),
        (lambda: Gaussian.from_natural(torch.tensor(1.0), torch.tensor(0.0)), ValueError, "eta_2 must be < 0"),
        (lambda: Gaussian.from_natural(torch.tensor(1.0), torch.tensor(-1)), TypeError, "eta_2 has dtype"),
        (lambda: product(g(0.0, 1.0), g(0.0, 0.0)), ValueError, "var is 0"),
        (lambda: condition(g([0.0, 1.0], 1.0), torch.zeros(3), 1.0, 1.0), ValueError, r"y \(3,\), mean \(2,\)"),
        (lambda: condition(g(0.0, 1.0), torch.tensor(1), 1.0, 1.0), TypeError, "y has dtype"),
        (lambda: condition_joint(torch.zeros(2), torch.eye(2), torch.zeros(2), 0), ValueError, "keep = 0"),
        (lambda: condition_joint(torch.zeros(3), torch.eye(3), torch.zeros(1), 1), ValueError, r"y \(1,\), keep = 1"),
        (lambda: condition_joint(torch.zeros(2).long(), torch.eye(2), torch.zeros(1), 1), TypeError, "mean has dtype"),
        (lambda: discretised_log_prob(torch.zeros(3), g([0.0, 1.0], 1.0)), ValueError, r"x \(3,\), mean \(2,\)"),
        (lambda: discretised_log_prob(torch.tensor([-1 - 2 / 255]), g(0.0, 1.0)), ValueError, r"lie in \[-1, 1\]"),
        (lambda: FullGaussian(torch.zeros(()), torch.eye(1)), ValueError, "want mean"),
        (lambda: full(2, 0).sample(eps=torch.tensor(1.0)), ValueError, r"eps must have shape \(..., 2\)"),
        (lambda: full(2, 0).affine(torch.zeros(2, dtype=torch.float64)), ValueError, r"A must have shape \(m, 2\)"),
        (lambda: full(2, 0).affine(torch.eye(2).double(), torch.zeros(3)), ValueError, r"shape \(2,\), as A has 2 rows"),
        (lambda: FullGaussian.from_natural(torch.zeros(2), torch.eye(2).long()), TypeError, "eta_2 has dtype"),
    ],
)
def test_more_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_errors_count_the_points():
    with pytest.raises(ValueError, match=r"entropy needs var > 0 everywhere; var is 0 \(a point\) in 2 place\(s\)"):
        g([0.0, 0.0, 0.0], [1.0, 0.0, 0.0]).entropy()


@pytest.mark.parametrize("x", [-1.0, -1 + 2 / 255, -1 / 255, 1 / 255, 1 - 2 / 255, 1.0])
def test_the_decoder_s_bins_end_half_way_to_the_neighbours(x):
    mean, sigma = 0.9 * x + 0.01, 0.02
    low = -math.inf if x == -1 else x - 1 / 255
    high = math.inf if x == 1 else x + 1 / 255
    want = math.log(stats.norm.cdf(high, mean, sigma) - stats.norm.cdf(low, mean, sigma))
    assert float(discretised_log_prob(torch.tensor(x, dtype=torch.float64), g(mean, sigma**2))) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: p.sample(eps=torch.zeros(3)), r"var \(2,\), eps \(3,\)"),
        (lambda p: p.log_prob(torch.zeros(3)), r"x \(3,\), mean \(\), var \(2,\)"),
        (lambda p: p.kl(g(0.0, [1.0] * 3)), r"var \(2,\), other_mean \(\), other_var \(3,\)"),
        (lambda p: product(p, g([0.0] * 3, 1.0)), r"g_mean \(\), g_var \(2,\), h_mean \(3,\), h_var \(\)"),
        (lambda p: product(p, g(0.0, [1.0] * 3)), r"g_mean \(\), g_var \(2,\), h_mean \(\), h_var \(3,\)"),
        (lambda p: product(g([0.0] * 3, 1.0), p), r"g_mean \(3,\), g_var \(\), h_mean \(\), h_var \(2,\)"),
        (lambda p: product(g([0.0] * 3, 1.0), g([0.0] * 2, 1.0)), r"g_mean \(3,\), g_var \(\), h_mean \(2,\), h_var \(\)"),
        (lambda p: condition(g(0.0, 1.0), torch.zeros(3), 1.0, torch.ones(2)), r"y \(3,\), mean \(\), var \(2,\)"),
        (lambda p: discretised_log_prob(torch.ones(3), p), r"x \(3,\), mean \(\), var \(2,\)"),
        (lambda p: push_forward(g([0.0] * 2, 1.0), torch.ones(3), 1.0), r"a \(3,\), g.mean \(2,\)"),
        (lambda p: push_forward(g(0.0, 1.0), 1.0, -0.5), "var must be >= 0, got -0.5: it is a variance"),
        (lambda p: condition(p, torch.zeros(2), 1.0, torch.tensor([1.0, -0.5])), "var must be >= 0, got -0.5"),
        (lambda p: condition_joint(torch.zeros(2), torch.eye(2), torch.zeros(0), 2), "with 0 < keep < n"),
        (
            lambda p: condition_joint(torch.zeros(2), torch.ones(2, 2) - torch.eye(2), torch.zeros(1), 1),
            "cov has no inverse on the 1",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(g(0.0, [1.0, 2.0]))


def test_several_coordinates_at_once_are_each_by_itself():
    p = Gaussian.from_natural(torch.tensor([1.0, 2.0]), torch.tensor([-0.5, -2.0]))
    assert p.mean.tolist() == [1.0, 0.5] and p.var.tolist() == [1.0, 0.25]
    got = condition(g([0.0, 1.0], [1.0, 3.0]), torch.tensor([2.0, 4.0]).double(), 1.0, torch.tensor([1.0, 0.0]))
    assert got.mean.tolist() == [1.0, 4.0] and got.var.tolist() == [0.5, 0.0]
    mean, cov = condition_joint(torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 4.0]]), torch.tensor([2.0]), 1)
    assert mean.tolist() == [0.5] and cov.tolist() == [[1.75]]
