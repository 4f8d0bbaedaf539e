"""The bound, term by term: against quadrature, torch.distributions, Gaussian algebra and a chain of known likelihood."""

import math

import pytest
import torch

from ddpm_edu import Gaussian, GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle
from ddpm_edu.likelihood import (
    L_0,
    L_T,
    Bound,
    L_t,
    bits_per_dim,
    consistency_terms,
    eps_errors,
    flow_log_prob,
    linear_eps_errors,
    path_log_ratio,
    posterior_terms,
    sampled_bits,
    variational_bound,
)
from ddpm_edu.oracles import LinearGaussianChain, SDEOracle
from ddpm_edu.routes import chain_joint, grid, integrate, push_density, quadratic_moments, reverse_joint
from ddpm_edu.sde import VPSDE

BETAS = [0.1, 0.2, 0.3, 0.4]
SHORT = GaussianDiffusion(NoiseSchedule.from_betas(BETAS))
SLOPES, OFFSETS, VARIANCES = [0.9, 0.8, 0.7, 0.6], [0.1, 0.0, -0.1, 0.05], [0.2, 0.3, 0.5, 0.65]
CHAIN = LinearGaussianChain(SHORT, SLOPES, OFFSETS, VARIANCES)
LONG = GaussianDiffusion(NoiseSchedule.linear())
MVN = torch.distributions.MultivariateNormal


def Normal(mean, std):
    """torch's, with plain numbers taken as float64."""
    return torch.distributions.Normal(*(torch.as_tensor(v, dtype=torch.float64) for v in (mean, std)))


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def net(x_t, t):
    return torch.tanh(x_t) * 0.9 + t.to(x_t.dtype).reshape(-1, *(1,) * (x_t.ndim - 1)) / 50


def images(n, generator, shape=(1, 3, 2)):
    return torch.randint(0, 256, (n, *shape), generator=generator).double() * 2 / 255 - 1


def reverse_by_hand(x_t, t, eps_hat, diffusion=SHORT):
    """Mean of p_θ(x_{t-1} | x_t) from β alone."""
    betas = diffusion.schedule.betas.tolist()
    alpha_bar = math.prod(1 - b for b in betas[1 : t + 1])
    return (x_t - betas[t] / math.sqrt(1 - alpha_bar) * eps_hat) / math.sqrt(1 - betas[t])


# One term at a time


def test_L_T_is_the_kl_to_the_prior_summed_over_coordinates():
    x_0 = images(3, torch.Generator().manual_seed(0))
    alpha_bar = math.prod(1 - b for b in BETAS)
    q = Normal(math.sqrt(alpha_bar) * x_0, math.sqrt(1 - alpha_bar))
    want = torch.distributions.kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2, 3))
    assert L_T(SHORT, x_0).shape == (3,)
    assert torch.allclose(L_T(SHORT, x_0), want, atol=1e-12)
    assert float(L_T(LONG, torch.ones(1, 1))) == pytest.approx(2.0e-5, rel=0.02)


@pytest.mark.parametrize("t", [2, 3, 4])
@pytest.mark.parametrize("kind", ["beta", "own"])
def test_L_t_by_bayes_rule_on_a_grid(t, kind):
    """The posterior is prior × likelihood, normalised numerically; the KL is an integral: no formula of the package."""
    x_0, x_t = 0.7, -0.4
    own = None if kind == "beta" else (lambda x, t, s=None: torch.full_like(x, 0.37))
    got = L_t(SHORT, net, f64(x_0), f64(x_t), t, own)
    u = grid(-8, 8, 8001)
    alpha_bar_s = math.prod(1 - b for b in BETAS[: t - 1])
    beta = BETAS[t - 1]
    log_q = Normal(math.sqrt(alpha_bar_s) * x_0, math.sqrt(1 - alpha_bar_s)).log_prob(u)
    log_q = log_q + Normal(math.sqrt(1 - beta) * u, math.sqrt(beta)).log_prob(f64(x_t))
    log_q = log_q - torch.log(integrate(log_q.exp(), u))
    mean = reverse_by_hand(x_t, t, float(net(f64(x_t), torch.tensor([t]))))
    p = Normal(mean, math.sqrt(beta if kind == "beta" else 0.37))
    want = integrate(log_q.exp() * (log_q - p.log_prob(u)), u)
    assert got.shape == (1,) and float(got) == pytest.approx(float(want), abs=1e-11)


def test_L_t_of_a_batch_is_the_terms_one_by_one_and_sums_over_coordinates():
    gen = torch.Generator().manual_seed(1)
    x_0, x_t = (torch.randn(3, 2, 2, generator=gen, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([4, 2, 3])
    got = L_t(SHORT, net, x_0, x_t, t)
    for k in range(3):
        single = sum(
            float(L_t(SHORT, net, x_0[k, i, j].reshape(1), x_t[k, i, j].reshape(1), int(t[k])))
            for i in range(2)
            for j in range(2)
        )
        assert float(got[k]) == pytest.approx(single, abs=1e-12)


def test_L_0_integrates_the_bin():
    gen = torch.Generator().manual_seed(2)
    x_0 = images(4, gen)
    x_0[0, 0, 0, 0], x_0[1, 0, 0, 0] = -1.0, 1.0
    x_1 = x_0 + 0.1 * torch.randn(x_0.shape, generator=gen, dtype=torch.float64)
    mean = reverse_by_hand(x_1, 1, net(x_1, torch.ones(4, dtype=torch.int64)))
    p = Normal(mean, math.sqrt(BETAS[0]))
    low = torch.where(x_0 > -0.999, p.cdf(x_0 - 1 / 255), 0.0)
    high = torch.where(x_0 < 0.999, p.cdf(x_0 + 1 / 255), 1.0)
    want = -(high - low).log().sum((1, 2, 3))
    assert torch.allclose(L_0(SHORT, net, x_0, x_1), want, atol=1e-9)
    density = -p.log_prob(x_0).sum((1, 2, 3))
    assert torch.allclose(L_0(SHORT, net, x_0, x_1, levels=None), density, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_L_0_gives_all_grey_levels_together_probability_1(levels):
    every = torch.linspace(-1, 1, levels, dtype=torch.float64)
    x_1 = torch.full((levels,), 0.3, dtype=torch.float64)
    assert float(torch.exp(-L_0(SHORT, net, every, x_1, levels=levels)).sum()) == pytest.approx(1.0, abs=1e-12)


def test_beta_tilde_has_no_L_0_but_its_clipped_version_has():
    x = f64(0.2, 0.4)
    with pytest.raises(ValueError, match="var is 0"):
        L_0(SHORT, net, x, x, SHORT.sigma2_beta_tilde, levels=None)
    mean = reverse_by_hand(x, 1, net(x, torch.ones(2, dtype=torch.int64)))
    var = (1 - 0.9) / (1 - 0.9 * 0.8) * 0.2  # β̃_2
    got = L_0(SHORT, net, x, x, SHORT.sigma2_beta_tilde_clipped, levels=None)
    assert torch.allclose(got, -Normal(mean, math.sqrt(var)).log_prob(x), atol=1e-12)


# All terms


def test_every_term_of_the_bound_has_the_right_mean():
    x_0 = f64(0.7).expand(40_000)
    bound = variational_bound(
        SHORT, CHAIN, x_0, CHAIN.sigma2, levels=None, generator=torch.Generator().manual_seed(3), batch_size=15_000
    )
    assert bound.terms.shape == (40_000, 5) and bound.terms.dtype == torch.float64 and bound.dims == 1
    want = CHAIN.bound_terms(f64(0.7))[0]
    se = bound.terms.std(0) / 200
    assert ((bound.terms.mean(0) - want).abs() <= 5 * se + 1e-12).all()
    assert (se[:-1] < 5e-3).all() and float(bound.terms[:, -1].std()) == pytest.approx(0, abs=1e-15)
    assert torch.equal(bound.nats, bound.terms.sum(1))
    # ‖x_0 - x̂_0‖² is that of the noise, scaled: x_0 - x̂_0 = √(1-ᾱ)/√ᾱ (ε̂ - ε).
    assert (bound.square_errors[:, 0] == 0).all()
    for t in (1, 4):
        eps = torch.randn(100_000, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        alpha_bar = math.prod(1 - b for b in BETAS[:t])
        x_t = math.sqrt(alpha_bar) * 0.7 + math.sqrt(1 - alpha_bar) * eps
        error = (1 - alpha_bar) / alpha_bar * (CHAIN(x_t, t) - eps) ** 2
        se = (error.var() / len(error) + bound.square_errors[:, t].var() / 40_000).sqrt()
        assert abs(float(error.mean() - bound.square_errors[:, t].mean())) < 5 * float(se)


def test_clip_clamps_the_estimate_of_x_0_in_terms_and_errors():
    x_0 = images(3, torch.Generator().manual_seed(0))

    def far(x_t, t):
        return 50 * net(x_t, t)  # a network whose x̂_0 leaves [-1, 1]

    got = variational_bound(SHORT, far, x_0, generator=torch.Generator().manual_seed(1), clip=1.0)
    gen = torch.Generator().manual_seed(1)
    for t in (1, 2, 3, 4):
        eps = torch.randn(x_0.shape, generator=gen, dtype=torch.float64)
        alpha_bar = math.prod(1 - b for b in BETAS[:t])
        x_t = math.sqrt(alpha_bar) * x_0 + math.sqrt(1 - alpha_bar) * eps
        x_0_hat = (x_t - math.sqrt(1 - alpha_bar) * far(x_t, torch.full((3,), t))) / math.sqrt(alpha_bar)
        assert x_0_hat.abs().max() > 1.5  # else nothing is clamped
        x_0_hat = x_0_hat.clamp(-1, 1)
        assert torch.allclose(got.square_errors[:, t], (x_0 - x_0_hat).square().sum((1, 2, 3)), atol=1e-12)
        if t > 1:  # the two means differ by the slope of the posterior's mean in x_0 times the error
            slope = math.sqrt(alpha_bar / (1 - BETAS[t - 1])) * BETAS[t - 1] / (1 - alpha_bar)
            rho = (1 - alpha_bar / (1 - BETAS[t - 1])) / (1 - alpha_bar)
            want = 0.5 * (x_0[0].numel() * (rho - 1 - math.log(rho)) + slope**2 * got.square_errors[:, t] / BETAS[t - 1])
            assert torch.allclose(got.terms[:, t - 1], want, atol=1e-9)


def test_only_the_steps_asked_for():
    x_0 = images(3, torch.Generator().manual_seed(0))
    some = variational_bound(SHORT, net, x_0, steps=[3, 1], generator=torch.Generator().manual_seed(0))
    known = ~some.terms.isnan()
    assert known.all(0).tolist() == [True, False, True, False, True]
    assert (~some.square_errors.isnan()).all(0).tolist() == [True, True, False, True, False]
    # In the order given: t = 3 draws first.
    gen = torch.Generator().manual_seed(0)
    eps = torch.randn(x_0.shape, generator=gen, dtype=torch.float64)
    assert torch.allclose(some.terms[:, 2], L_t(SHORT, net, x_0, SHORT.q_sample(x_0, 3, eps), 3), atol=1e-12)
    eps = torch.randn(x_0.shape, generator=gen, dtype=torch.float64)
    assert torch.allclose(some.terms[:, 0], L_0(SHORT, net, x_0, SHORT.q_sample(x_0, 1, eps)), atol=1e-12)


def test_batches_and_the_seed_decide_the_draws_alone():
    x_0 = images(5, torch.Generator().manual_seed(0))
    runs = [variational_bound(SHORT, net, x_0, generator=torch.Generator().manual_seed(9), batch_size=b) for b in (5, 256, 2)]
    assert torch.equal(runs[0].terms, runs[1].terms)
    assert torch.allclose(runs[0].terms[:, -1], runs[2].terms[:, -1], atol=0) and runs[2].terms.shape == (5, 5)


def test_float32_networks_get_float32_and_the_terms_are_formed_in_float64():
    gen = torch.Generator().manual_seed(4)
    x_0, eps = (torch.randn(6, 4, generator=gen).clamp(-1, 1) for _ in range(2))
    seen = []

    def watched(x_t, t):
        seen.append(x_t.dtype)
        return 0.9 * x_t

    for t in (2, 500, 1000):
        x_t = LONG.q_sample(x_0, t, eps)
        got = L_t(LONG, watched, x_0, x_t, t)
        want = L_t(LONG, lambda x, t: (0.9 * x.float()).double(), x_0.double(), x_t.double(), t)
        assert got.dtype == torch.float64 and torch.allclose(got, want, rtol=1e-12)
    assert set(seen) == {torch.float32}


def test_bits_and_their_split():
    terms = torch.tensor([[1.0, 2.0, 3.0, 0.5], [3.0, 4.0, 5.0, 0.5]], dtype=torch.float64)
    bound = Bound(terms, torch.tensor([[0.0, 2.0, 8.0, 32.0], [0.0, 0.0, 8.0, 0.0]], dtype=torch.float64), dims=2)
    per_nat = 1 / (2 * math.log(2))
    split = bound.bits_per_dim()
    assert split["L_0"] == pytest.approx(2 * per_nat) and split["L_1:T-1"] == pytest.approx(7 * per_nat)
    assert split["L_T"] == pytest.approx(0.5 * per_nat) and split["total"] == pytest.approx(9.5 * per_nat)
    rate, rmse = bound.rate_distortion()
    assert rate.tolist() == pytest.approx([9.5 * per_nat, 7.5 * per_nat, 4.5 * per_nat, 0.5 * per_nat])
    assert rmse.tolist() == pytest.approx([0.0, 127.5 * math.sqrt(0.5), 127.5 * 2, 127.5 * math.sqrt(8)])
    assert float(bits_per_dim(f64(8 * math.log(2)), 4)) == pytest.approx(2.0)
    one_step = Bound(terms[:, [0, 3]], torch.zeros(2, 2, dtype=torch.float64), dims=1).bits_per_dim()
    assert one_step["L_1:T-1"] == 0


def test_progress_goes_to_stderr_only(capsys):
    variational_bound(SHORT, net, f64(0.2, 0.4), levels=None, progress=True)
    out = capsys.readouterr()
    assert out.out == "" and "bound" in out.err


# Along paths


def joint_log_ratio(path):
    """log p(x_0..x_4) - log q(x_1..x_4 | x_0) for one number per path, as two Gaussian vectors: path (5, B)."""
    p = MVN(*reverse_joint(SLOPES, OFFSETS, VARIANCES))
    total = p.log_prob(path.T)
    for b in range(path.shape[1]):
        mean, cov = chain_joint(BETAS, mean=float(path[0, b]), var=0.0)
        total[b] -= MVN(mean[1:], cov[1:, 1:]).log_prob(path[1:, b])
    return total


def test_linear_eps_errors_are_those_of_least_squares():
    gen = torch.Generator().manual_seed(14)
    x_0 = torch.randn(6, 3, generator=gen, dtype=torch.float64) @ torch.randn(3, 3, generator=gen, dtype=torch.float64) + 2
    table = linear_eps_errors(SHORT, x_0)
    assert torch.isnan(table[0]) and table.shape == (5,)
    cov = torch.cov(x_0.T, correction=0)
    for t in range(1, 5):
        bar = math.prod(1 - beta for beta in BETAS[:t])
        joint = bar * cov + (1 - bar) * torch.eye(3, dtype=torch.float64)  # Cov(x_t); Cov(ε, x_t) is √(1-ᾱ_t) I
        left = torch.eye(3, dtype=torch.float64) - (1 - bar) * torch.linalg.inv(joint)
        assert float(table[t]) == pytest.approx(float(left.trace()) / 3, abs=1e-12)
    # A point leaves no error; a number a line has one eigenvalue; images are flattened.
    assert linear_eps_errors(SHORT, torch.ones(4, 2)).nan_to_num().abs().max() == 0
    numbers = torch.randn(50, generator=gen)
    torch.testing.assert_close(linear_eps_errors(SHORT, numbers)[1:], linear_eps_errors(SHORT, numbers.reshape(50, 1, 1))[1:])
    with pytest.raises(ValueError, match="N >= 2"):
        linear_eps_errors(SHORT, torch.zeros(1, 2))


def test_eps_errors_of_a_linear_network_for_gaussian_data():
    # ε_θ = k x_t, x_0 ~ N(0, s²): E (ε - k x_t)² = 1 - 2k√(1-ᾱ) + k² Var(x_t), and E ε_θ² = k² Var(x_t).
    gen = torch.Generator().manual_seed(0)
    s2, k, n = 0.5, 0.6, 40000
    x_0 = math.sqrt(s2) * torch.randn(n, 2, generator=gen, dtype=torch.float64)
    squares, analytic = eps_errors(SHORT, lambda x, t: k * x, x_0, gen, batch_size=15000, steps=[1, 3])
    for t in (1, 3):
        a = float(SHORT.schedule.alpha_bars[t])
        var = a * s2 + 1 - a
        # A mean of 2n squares of numbers below unit variance: standard error at most √(2 / 2n) = 0.005.
        assert float(squares[t]) == pytest.approx(1 - 2 * k * math.sqrt(1 - a) + k * k * var, abs=0.025)
        assert float(analytic[t]) == pytest.approx(1 - k * k * var, abs=0.025)
    assert squares.shape == analytic.shape == (5,) and torch.isnan(squares[[0, 2, 4]]).all()
    with pytest.raises(ValueError, match="N >= 1"):
        eps_errors(SHORT, net, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="steps = 5"):
        eps_errors(SHORT, net, torch.zeros(1, 2), steps=[5])


def test_the_three_forms_are_the_joint_ratio_on_every_path():
    path = torch.randn(5, 20, generator=torch.Generator().manual_seed(5), dtype=torch.float64)  # any path will do
    want = joint_log_ratio(path)
    assert torch.allclose(path_log_ratio(SHORT, CHAIN, path, CHAIN.sigma2), want, atol=1e-11)
    assert torch.allclose(consistency_terms(SHORT, CHAIN, path, CHAIN.sigma2).sum(1), -want, atol=1e-11)
    assert torch.allclose(posterior_terms(SHORT, CHAIN, path, CHAIN.sigma2).sum(1), -want, atol=1e-11)
    vectors = path.reshape(5, 10, 2)
    both = want.reshape(10, 2).sum(1)
    for form in (consistency_terms, posterior_terms):
        assert torch.allclose(form(SHORT, CHAIN, vectors, CHAIN.sigma2).sum(1), -both, atol=1e-11)


def test_each_column_compares_what_it_says():
    path = torch.randn(5, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    consistency, posterior = (f(SHORT, CHAIN, path, CHAIN.sigma2) for f in (consistency_terms, posterior_terms))
    reverse = [Normal(g * path[t] + h, math.sqrt(r)) for t, (g, h, r) in enumerate(zip(SLOPES, OFFSETS, VARIANCES), 1)]
    decoder = -reverse[0].log_prob(path[0])
    assert torch.allclose(consistency[:, 0], decoder, atol=1e-12) and torch.allclose(posterior[:, 0], decoder, atol=1e-12)
    for t in (1, 2, 3):
        log_p = reverse[t].log_prob(path[t])
        forward = Normal(math.sqrt(1 - BETAS[t - 1]) * path[t - 1], math.sqrt(BETAS[t - 1]))
        assert torch.allclose(consistency[:, t], forward.log_prob(path[t]) - log_p, atol=1e-11)
        for b in range(3):
            mean, cov = chain_joint(BETAS, mean=float(path[0, b]), var=0.0)
            gain = cov[t, t + 1] / cov[t + 1, t + 1]
            q = Normal(mean[t] + gain * (path[t + 1, b] - mean[t + 1]), (cov[t, t] - gain * cov[t, t + 1]).sqrt())
            assert float(posterior[b, t]) == pytest.approx(float(q.log_prob(path[t, b]) - log_p[b]), abs=1e-11)
    log_prior = Normal(0.0, 1.0).log_prob(path[4])
    last = Normal(math.sqrt(0.6) * path[3], math.sqrt(0.4)).log_prob(path[4])
    assert torch.allclose(consistency[:, 4], last - log_prior, atol=1e-11)
    given_x_0 = Normal(math.sqrt(0.9 * 0.8 * 0.7 * 0.6) * path[0], math.sqrt(1 - 0.3024)).log_prob(path[4])
    assert torch.allclose(posterior[:, 4], given_x_0 - log_prior, atol=1e-11)


def test_the_posterior_columns_have_the_means_of_the_terms():
    mean, cov = chain_joint(BETAS, mean=0.7, var=0.0)

    def form(z):
        return posterior_terms(SHORT, CHAIN, torch.cat([torch.full((1, len(z)), 0.7, dtype=z.dtype), z.T]), CHAIN.sigma2)

    means, _ = quadratic_moments(form, mean[1:], cov[1:, 1:])
    assert torch.allclose(means, CHAIN.bound_terms(f64(0.7))[0], atol=1e-12)


# A bound indeed


@pytest.mark.parametrize("kind", ["sigma2_beta", "sigma2_beta_tilde_clipped"])
def test_the_bound_lies_below_the_likelihood_of_a_curved_model(kind):
    """log p_θ(x_0) by pushing densities down the chain on a grid; the ELBO by quadrature over the noise."""
    oracle, sigma2 = Oracle(GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.1]), SHORT), getattr(SHORT, kind)
    x, z = grid(-8, 8, 801), grid(-9, 9, 301)
    weight = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    density = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    for t in range(4, 0, -1):
        density = push_density(density, x, SHORT.p_mean_variance(oracle, x, t, sigma2=sigma2)[0].log_prob, x)
    for at in (340, 400, 440):
        x_0 = x[at].expand(301)
        total = L_T(SHORT, x_0[:1]) + integrate(
            weight
            * sum(
                L_t(SHORT, oracle, x_0, SHORT.q_sample(x_0, t, z), t, sigma2)
                if t > 1
                else L_0(SHORT, oracle, x_0, SHORT.q_sample(x_0, 1, z), sigma2, levels=None)
                for t in range(1, 5)
            ),
            z,
        )
        assert 0 < float(total + density[at].log()) < 5


def test_the_bound_is_tight_at_the_exact_reversal():
    model = LinearGaussianChain(LONG, LONG.schedule.alphas[1:].sqrt(), 0.0, LONG.schedule.betas[1:])
    x_0 = f64(-1.3, 0.0, 2.0)
    assert torch.allclose(model.bound_terms(x_0).sum(1), -Normal(0.0, 1.0).log_prob(x_0), atol=1e-9)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: L_T(SHORT, torch.zeros(2, 3, dtype=torch.uint8)), TypeError, "x_0 has dtype"),
        (lambda: L_T(SHORT, f64(math.nan)), ValueError, "x_0 holds 1"),
        (lambda: L_t(SHORT, net, f64(0.1), f64(0.1), 1), ValueError, r"t = 1 is outside 2\.\.4"),
        (lambda: L_t(SHORT, net, f64(0.1), f64(0.1), 5), ValueError, r"t = 5 is outside 2\.\.4"),
        (lambda: L_t(SHORT, net, f64(0.1, 0.2), f64(0.1, 0.2), torch.tensor([2, 1])), ValueError, "from 1 to 2"),
        (lambda: L_t(SHORT, net, f64(0.1), f64(0.1, 0.2), 2), ValueError, r"x_t has shape \(2,\), x_0 has \(1,\)"),
        (lambda: L_t(SHORT, net, torch.tensor([1]), f64(0.1), 2), TypeError, "x_0 has dtype"),
        (lambda: L_0(SHORT, net, f64(0.0), f64(0.1, 0.2)), ValueError, r"x_1 has shape \(2,\), x_0 has \(1,\)"),
        (lambda: L_0(SHORT, net, f64(0.1234), f64(0.1)), ValueError, "grey levels"),
        (lambda: L_0(SHORT, net, torch.tensor([3], dtype=torch.uint8), f64(0.1)), TypeError, "x_0 has dtype"),
        (lambda: variational_bound(SHORT, net, f64(0.0), steps=[0]), ValueError, r"steps = 0 is outside 1\.\.4"),
        (lambda: variational_bound(SHORT, net, f64(0.0), steps=[2.5]), TypeError, "steps must be an int"),
        (lambda: variational_bound(SHORT, net, f64(0.0), batch_size=0), ValueError, "batch_size = 0"),
        (lambda: variational_bound(SHORT, net, torch.tensor([1])), TypeError, "x_0 has dtype"),
        (lambda: variational_bound(SHORT, net, torch.zeros(0, 3)), ValueError, "x_0 has shape"),
        (lambda: variational_bound(SHORT, net, torch.tensor(0.5)), ValueError, "x_0 has shape"),
        (lambda: path_log_ratio(SHORT, net, torch.zeros(4, 3)), ValueError, r"path must have shape \(T \+ 1, B, \.\.\.\)"),
        (lambda: consistency_terms(SHORT, net, torch.zeros(5)), ValueError, "path must have shape"),
        (lambda: posterior_terms(SHORT, net, torch.full((5, 2), math.inf)), ValueError, "path holds 10"),
        (lambda: bits_per_dim(f64(1.0), 0), ValueError, "dims = 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_gaussian_decoder_of_a_chain_is_its_reverse_step():
    p = CHAIN.reverse(f64(0.3, -0.2), torch.tensor([1, 4]))
    assert isinstance(p, Gaussian)
    assert p.mean.tolist() == pytest.approx([0.9 * 0.3 + 0.1, -0.6 * 0.2 + 0.05])
    assert p.var.tolist() == pytest.approx([0.2, 0.65])


# The probability-flow ODE's own likelihood -------------------------------------------------------------------------

SDE = VPSDE()
LINE = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
TILTED = GaussianMixture.with_covariances(
    [0.4, 0.6], [[-1.0, 0.2], [0.6, -0.5]], [[[0.3, 0.2], [0.2, 0.4]], [[0.2, 0.05], [0.05, 0.1]]]
)
PICTURES = GaussianMixture([0.5, 0.5], torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 1, 2, 2), [0.2, 0.4])


def exact_prior(oracle):
    return lambda x_1: oracle.log_q(x_1, 1.0)


@pytest.mark.parametrize("data", [LINE, TILTED, PICTURES], ids=["line", "tilted", "pictures"])
def test_flow_log_prob_is_the_data_s_own_with_the_exact_score(data):
    oracle, x = SDEOracle(data, SDE), data.sample(6, torch.Generator().manual_seed(0))
    flow = flow_log_prob(SDE, oracle, x, prior=exact_prior(oracle))
    assert flow.log_prob.shape == (6,) and flow.x_1.shape == x.shape and flow.evaluations > 10
    assert torch.allclose(flow.log_prob, data.log_prob(x), atol=1e-5)
    # With N(0, I) as the prior, all that changes is the density at the end of the path.
    plain = flow_log_prob(SDE, oracle, x)
    normal = -0.5 * (plain.x_1**2 + math.log(2 * math.pi)).reshape(6, -1).sum(1)
    assert torch.allclose(plain.log_prob - data.log_prob(x), normal - oracle.log_q(plain.x_1, 1.0), atol=1e-5)


def test_flow_of_a_wrong_linear_score_is_the_gaussian_it_generates():
    # score = -x/w for all t is wrong for any data; the model is then N(0, V) with dV/dt = -β(t) (1 - 1/w) V, V(1) = 1.
    w = 0.8
    V = math.exp(10.05 * (1 - 1 / w))
    x = torch.tensor([-0.2, 0.0, 0.5], dtype=torch.float64)
    want = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), math.sqrt(V)).log_prob(x)
    assert torch.allclose(flow_log_prob(SDE, lambda x, t: -x / w, x).log_prob, want, atol=1e-5)


def test_start_leaves_the_first_stretch_out():
    oracle, x = SDEOracle(TILTED, SDE), TILTED.sample(4, torch.Generator().manual_seed(1))
    flow = flow_log_prob(SDE, oracle, x, prior=exact_prior(oracle), start=0.2)
    assert torch.allclose(flow.log_prob, oracle.log_q(x, 0.2), atol=1e-5)


def test_hutchinson_is_exact_for_independent_coordinates_and_unbiased_for_others():
    independent = SDEOracle(GaussianMixture([1.0], [[0.3, -0.5]], [[0.2, 0.7]]), SDE)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = flow_log_prob(SDE, independent, x).log_prob
    assert torch.allclose(flow_log_prob(SDE, independent, x, probes=1).log_prob, exact, atol=1e-6)
    tilted, row = SDEOracle(TILTED, SDE), torch.tensor([[0.4, 0.3]], dtype=torch.float64)
    rows = row.expand(400, 2)
    exact = flow_log_prob(SDE, tilted, row).log_prob
    gen = torch.Generator().manual_seed(0)
    one = flow_log_prob(SDE, tilted, rows, probes=1, generator=gen, rtol=1e-5, atol=1e-6).log_prob
    assert float(one.std()) > 0.05  # two coordinates that hang together are not estimated without error
    assert abs(float(one.mean() - exact)) < 4 * float(one.std()) / 20
    four = flow_log_prob(SDE, tilted, rows, probes=4, generator=gen, rtol=1e-5, atol=1e-6).log_prob
    assert float(four.std()) == pytest.approx(float(one.std()) / 2, rel=0.2)


def test_single_precision_networks_are_asked_in_their_own_precision():
    seen = []
    net = torch.nn.Linear(2, 2)

    def score(x, t):
        seen.append((x.dtype, type(t)))
        return net(x)

    flow = flow_log_prob(SDE, score, torch.zeros(3, 2), probes=2)
    assert set(seen) == {(torch.float32, float)} and flow.log_prob.dtype == torch.float64
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"x_0": torch.zeros(())}, ValueError, "x_0 has shape"),
        ({"x_0": torch.zeros(0, 2)}, ValueError, "B >= 1"),
        ({"x_0": torch.zeros(2, dtype=torch.int64)}, TypeError, "x_0 has dtype"),
        ({"probes": 0}, ValueError, "probes = 0"),
        ({"start": 1.0}, ValueError, r"start = 1.0 is outside \[0, 1\)"),
        ({"rtol": 0.0}, ValueError, "rtol = 0.0"),
        ({"score": lambda x, t: x[:, :1]}, ValueError, r"score returned shape \(3, 1\)"),
        ({"score": lambda x, t: x.detach()}, ValueError, "has no gradient"),
        ({"prior": lambda x: x}, ValueError, r"prior returned shape \(3, 2\)"),
    ],
)
def test_flow_log_prob_refuses(kwargs, error, message):
    with pytest.raises(error, match=message):
        flow_log_prob(**{"sde": SDE, "score": lambda x, t: -x, "x_0": torch.zeros(3, 2), **kwargs})


# The sampled bound --------------------------------------------------------------------------------------------------


def test_sampled_bits_is_the_bound_within_its_own_error():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(12, 0.02, 0.5))
    generator = torch.Generator().manual_seed(0)
    x_0 = (torch.randint(0, 17, (300, 4), generator=generator) / 8 - 1).double()
    labels = torch.arange(300) % 2
    x_0[labels == 1] *= 0.5

    def eps_model_of(y):  # another network for another class
        return lambda x_t, t: x_t * torch.where(y == 1, 0.9, 0.6)[:, None]

    x_0 = (x_0 * 8).round() / 8
    got = sampled_bits(diffusion, eps_model_of, x_0, labels, 30, levels=17, generator=generator)
    whole = [variational_bound(diffusion, eps_model_of(labels), x_0, None, 17, generator, 300) for _ in range(40)]
    want = {key: sum(b.bits_per_dim()[key] for b in whole) / 40 for key in ("total", "L_0", "L_1:T-1", "L_T")}
    assert 0 < got["standard_error"] < 0.05 * got["total"]
    assert abs(got["total"] - want["total"]) < 4 * got["standard_error"]
    assert got["L_T"] == pytest.approx(want["L_T"], rel=1e-12)
    assert got["total"] == pytest.approx(got["L_0"] + got["L_1:T-1"] + got["L_T"])
    runs = [sampled_bits(diffusion, eps_model_of, x_0, labels, 30, levels=17, generator=generator) for _ in range(60)]
    spread = torch.tensor([r["total"] for r in runs]).std().item()
    assert got["standard_error"] == pytest.approx(spread, rel=0.4)  # as large as the estimates really scatter
    assert abs(sum(r["total"] for r in runs) / 60 - want["total"]) < 5 * spread / 60**0.5


def test_sampled_bits_refuses():
    diffusion, x_0 = GaussianDiffusion(NoiseSchedule.linear(12, 0.02, 0.5)), torch.zeros(5, 2)
    with pytest.raises(ValueError, match="per_step = 6"):
        sampled_bits(diffusion, lambda y: lambda x, t: x, x_0, torch.zeros(5), 6)
    with pytest.raises(ValueError, match="5 images, but 4 labels"):
        sampled_bits(diffusion, lambda y: lambda x, t: x, x_0, torch.zeros(4), 3)


# Defaults, batches, precision and refusals -------------------------------------------------------------------------


def counting(sizes):
    def network(x_t, t):
        sizes.append((int(t[0]), len(x_t)))
        return 0.5 * x_t

    return network


def test_batches_are_of_256_and_no_bar_is_shown_unless_asked_for(capsys):
    x_0 = torch.zeros(300, 1)
    sizes = []
    bound = variational_bound(SHORT, counting(sizes), x_0, steps=[2])
    assert sizes == [(2, 256), (2, 44)] and bound.dims == 1 and bound.terms.dtype == torch.float64
    sizes.clear()
    eps_errors(SHORT, counting(sizes), x_0, steps=[3])
    assert sizes == [(3, 256), (3, 44)]
    sizes.clear()
    eps_errors(SHORT, counting(sizes), x_0[:1])
    assert sizes == [(t, 1) for t in (1, 2, 3, 4)]
    variational_bound(SHORT, net, x_0[:2] + 1)
    sampled_bits(SHORT, lambda y: net, x_0[:3] + 1, torch.zeros(3), 2)
    assert capsys.readouterr().err == ""
    sampled_bits(SHORT, lambda y: net, x_0[:3] + 1, torch.zeros(3), 2, progress=True)
    assert "bound" in capsys.readouterr().err


def test_the_sampled_bound_draws_as_many_images_as_it_says():
    x_0, asked = torch.linspace(-1, 1, 60).reshape(60, 1, 1).expand(60, 1, 2), []

    def eps_model_of(labels):
        asked.append(len(labels))
        return net

    args = (SHORT, eps_model_of, x_0, torch.arange(60), 3)
    runs = [sampled_bits(*args, levels=None, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert asked == [30, 3, 3, 3] * 2 and runs[0] == runs[1]
    few = [x_0[:4], torch.arange(4)]
    asked.clear()
    got = sampled_bits(SHORT, eps_model_of, *few, 4, levels=None)
    assert asked == [4] * 4 and 0 < got["standard_error"] < abs(got["total"])
    assert set(sampled_bits(SHORT, eps_model_of, *few, 2, levels=None)) == {"total", "standard_error", "L_0", "L_1:T-1", "L_T"}
    with pytest.raises(ValueError, match="per_step = 1 must be between 2"):
        sampled_bits(SHORT, eps_model_of, *few, 1)


def test_the_sampled_bound_of_equal_images_by_hand():
    """Every image is 0 and the network's answer is 0, so each term is a number; clip changes nothing, sigma2 does."""
    x_0, zero = torch.zeros(40, 2, dtype=torch.float64), lambda y: lambda x, t: torch.zeros_like(x)
    one = SHORT.sigma2_beta
    for sigma2 in (None, lambda x, t, s=None: 2 * one(x, t, s)):
        got = sampled_bits(
            SHORT, zero, x_0, torch.zeros(40), 4, sigma2, levels=None, generator=torch.Generator().manual_seed(0)
        )
        # L_T = KL(N(0, 1-ᾱ) ‖ N(0, 1)) for each coordinate.
        v = 1 - math.prod(1 - b for b in BETAS)
        assert got["L_T"] == pytest.approx(0.5 * (v - 1 - math.log(v)) / math.log(2), rel=1e-12)
        # L_0 lies above its value at x_1 = 0, where the decoder's mean is 0.
        least = 0.5 * math.log(2 * math.pi * 0.1 * (1 if sigma2 is None else 2)) / math.log(2)
        assert least < got["L_0"] < least + 2
    clipped = sampled_bits(
        SHORT, zero, x_0, torch.zeros(40), 4, clip=1e-9, levels=3, generator=torch.Generator().manual_seed(0)
    )
    # x̂_0 = 0 exactly: each middle term is the KL of two variances, β̃ to β, with means at most a hair apart.
    rhos = [(1 - math.prod(1 - b for b in BETAS[: t - 1])) / (1 - math.prod(1 - b for b in BETAS[:t])) for t in (2, 3, 4)]
    want = sum(0.5 * (r - 1 - math.log(r)) for r in rhos) / math.log(2)
    assert clipped["L_1:T-1"] == pytest.approx(want, abs=1e-9)


def test_the_generator_decides_the_draws_and_single_precision_is_kept_for_the_network():
    x_0 = torch.linspace(-1, 1, 6).reshape(3, 2)
    seen = []

    def network(x_t, t):
        seen.append(x_t.dtype)
        return 0.5 * x_t

    a, b = (eps_errors(SHORT, network, x_0, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(a[0][1:], b[0][1:]) and torch.equal(a[1][1:], b[1][1:]) and set(seen) == {torch.float32}
    assert a[0].dtype == a[1].dtype == torch.float64
    gen = torch.Generator().manual_seed(2)
    eps = torch.randn(3, 2, generator=gen)
    x_1 = math.sqrt(0.9) * x_0 + math.sqrt(0.1) * eps
    assert float(a[0][1]) == pytest.approx(float((eps - 0.5 * x_1).square().mean()), rel=1e-6)
    assert float(a[1][1]) == pytest.approx(1 - float((0.5 * x_1).square().mean()), rel=1e-6)
    bound = variational_bound(SHORT, network, x_0, generator=torch.Generator().manual_seed(2), levels=None, steps=[1])
    mean = reverse_by_hand(x_1.double(), 1, 0.5 * x_1.double())
    want = -Normal(mean, math.sqrt(0.1)).log_prob(x_0.double()).sum(1)
    assert torch.allclose(bound.terms[:, 0], want, rtol=1e-6)
    assert L_T(SHORT, x_0).dtype == torch.float64
    path = torch.randn(5, 2, 3, generator=gen)
    for form in (path_log_ratio, consistency_terms, posterior_terms):
        assert torch.allclose(
            form(SHORT, CHAIN, path, CHAIN.sigma2), form(SHORT, CHAIN, path.double(), CHAIN.sigma2), rtol=1e-4
        )
        assert form(SHORT, CHAIN, path, CHAIN.sigma2).dtype == torch.float64


def test_linear_eps_errors_in_single_precision_and_of_two_points():
    table = linear_eps_errors(SHORT, torch.tensor([[0.0, 3.0], [2.0, 3.0]]))  # variances 1 and 0
    assert table.dtype == torch.float64
    for t in range(1, 5):
        bar = math.prod(1 - beta for beta in BETAS[:t])
        assert float(table[t]) == pytest.approx(bar / 2, rel=1e-14)


def test_the_flow_s_signs_are_the_generator_s():
    tilted, x = SDEOracle(TILTED, SDE), torch.tensor([[0.4, 0.3]], dtype=torch.float64)
    a, b = (
        flow_log_prob(SDE, tilted, x.expand(8, 2), probes=1, generator=torch.Generator().manual_seed(5), rtol=1e-4, atol=1e-4)
        for _ in range(2)
    )
    assert torch.equal(a.log_prob, b.log_prob)
    # Signs ±1: two coordinates have two different products of signs, so there are two estimates, and no more.
    assert len({round(float(v), 2) for v in a.log_prob}) == 2


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: eps_errors(SHORT, net, torch.tensor(1.0)), ValueError, r"x_0 has shape \(\)"),
        (lambda: eps_errors(SHORT, net, torch.zeros(1, 2), batch_size=0), ValueError, "batch_size = 0"),
        (lambda: eps_errors(SHORT, net, torch.zeros(1, 2).long()), TypeError, "x_0 has dtype"),
        (lambda: eps_errors(SHORT, net, torch.zeros(1, 2), steps=[0]), ValueError, "steps = 0"),
        (lambda: linear_eps_errors(SHORT, torch.tensor(1.0)), ValueError, r"x_0 has shape \(\)"),
        (lambda: linear_eps_errors(SHORT, torch.zeros(3, 2).long()), TypeError, "x_0 has dtype"),
        (lambda: variational_bound(SHORT, net, f64(0.0), steps=[5]), ValueError, r"steps = 5 is outside 1\.\.4"),
        (lambda: variational_bound(SHORT, net, f64(0.0), clip=0.0), ValueError, "clip = 0.0"),
        (lambda: path_log_ratio(SHORT, net, torch.zeros(6, 3)), ValueError, "path must have shape"),
        (lambda: path_log_ratio(SHORT, net, torch.zeros(5, 3).long()), TypeError, "path has dtype"),
        (lambda: sampled_bits(SHORT, lambda y: net, torch.zeros(3, 1).long(), f64(0, 0, 0), 2), TypeError, "x_0 has dtype"),
        (lambda: L_t(SHORT, net, f64(0.1), torch.tensor([1]), 2), TypeError, "x_t has dtype"),
        (lambda: flow_log_prob(SDE, lambda x, t: -x, torch.zeros(1, 2), start=-0.1), ValueError, "start = -0.1"),
        (lambda: flow_log_prob(SDE, lambda x, t: -x, torch.zeros(1, 2), rtol=1.0), ValueError, "rtol = 1.0"),
        (lambda: flow_log_prob(SDE, lambda x, t: -x, torch.zeros(1, 2), atol=0.0), ValueError, "atol = 0.0"),
        (lambda: flow_log_prob(SDE, lambda x, t: -x, torch.zeros(1, 2), atol=1.0), ValueError, "atol = 1.0"),
    ],
)
def test_more_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Precision, defaults and edges ----------------------------------------------------------------------------------------


def test_single_precision_data_get_double_precision_terms():
    """The network sees float32; the terms are those of float64 arithmetic on the same numbers, to the last digits."""
    x_0 = images(5, torch.Generator().manual_seed(0)).float()
    bound = variational_bound(SHORT, net, x_0, generator=torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    for t in range(1, SHORT.T + 1):
        x_t = SHORT.q_sample(x_0, t, torch.randn(x_0.shape, generator=draws))
        eps_hat = net(x_t, torch.full((5,), t)).double()
        want_mean = reverse_by_hand(x_t.double(), t, eps_hat)
        p = Gaussian(want_mean, SHORT.schedule.betas[t].expand_as(want_mean))
        want = SHORT.bound_term(p, x_0.double(), x_t.double(), t)
        torch.testing.assert_close(bound.terms[:, t - 1], want, rtol=1e-12, atol=0)
        alpha_bar = SHORT.schedule.alpha_bars[t]
        x_0_hat = (x_t.double() - (1 - alpha_bar).sqrt() * eps_hat) / alpha_bar.sqrt()
        square = (x_0.double() - x_0_hat).square().sum((1, 2, 3))
        torch.testing.assert_close(bound.square_errors[:, t], square, rtol=1e-12, atol=0)
        if t == 1:
            torch.testing.assert_close(L_0(SHORT, net, x_0, x_t), want, rtol=1e-12, atol=0)


def test_paths_in_single_precision_are_taken_in_double():
    generator = torch.Generator().manual_seed(0)
    path = SHORT.q_path(torch.randn(6, 2, generator=generator), torch.randn(4, 6, 2, generator=generator)).float()
    for form in (path_log_ratio, consistency_terms, posterior_terms):
        assert torch.equal(form(SHORT, lambda x, t: x.sin(), path), form(SHORT, lambda x, t: x.sin(), path.double()))


def test_one_step_has_the_two_terms_that_are_left():
    one = GaussianDiffusion(NoiseSchedule.from_betas([0.4]))
    path = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ratio = path_log_ratio(one, net, path)
    for form in (consistency_terms, posterior_terms):
        assert form(one, net, path).shape == (5, 2)
        torch.testing.assert_close(-form(one, net, path).sum(1), ratio, rtol=1e-12, atol=1e-12)


def test_errors_of_numbers_in_double_precision():
    """Data of shape (N,), float64: ε is drawn in float64, and both figures are the plain means over those draws."""
    x_0 = torch.linspace(-1, 1, 7, dtype=torch.float64)
    squares, powers = eps_errors(SHORT, net, x_0, torch.Generator().manual_seed(2), steps=[3])
    eps = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eps_hat = net(SHORT.q_sample(x_0, 3, eps), torch.full((7,), 3))
    assert float(squares[3]) == pytest.approx(float((eps - eps_hat).square().mean()), rel=1e-12)
    assert float(powers[3]) == pytest.approx(1 - float(eps_hat.square().mean()), rel=1e-12)


def test_errors_of_single_precision_data_are_summed_in_double():
    x_0 = images(40, torch.Generator().manual_seed(3)).float()
    squares, powers = eps_errors(SHORT, net, x_0, torch.Generator().manual_seed(2), steps=[3])
    eps = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2))
    eps_hat = net(SHORT.q_sample(x_0, 3, eps), torch.full((40,), 3)).double()
    assert float(squares[3]) == pytest.approx(float((eps.double() - eps_hat).square().mean()), rel=1e-12)
    assert float(powers[3]) == pytest.approx(1 - float(eps_hat.square().mean()), rel=1e-12)
    single, double = linear_eps_errors(SHORT, x_0), linear_eps_errors(SHORT, x_0.double())
    torch.testing.assert_close(single, double, rtol=1e-12, atol=0, equal_nan=True)
    assert linear_eps_errors(SHORT, x_0).dtype == torch.float64


def test_the_estimate_takes_256_grey_values_and_its_error_is_double():
    x_0, labels = images(12, torch.Generator().manual_seed(4)), torch.zeros(12, dtype=torch.int64)

    def found(**more):
        return sampled_bits(SHORT, lambda y: net, x_0, labels, 6, generator=torch.Generator().manual_seed(5), **more)

    assert found() == found(levels=256)
    assert found()["standard_error"] != torch.tensor(found()["standard_error"]).float().double().item()


def test_a_bound_s_tables_must_fit():
    table = torch.zeros(3, 5, dtype=torch.float64)
    for terms, errors, dims in ((table, table[:, :4], 2), (table[0], table[0], 2), (table, table, 0), (table, table, 2.0)):
        with pytest.raises((TypeError, ValueError)):
            Bound(terms, errors, dims)
    with pytest.raises(TypeError, match="nats must be a Tensor"):
        bits_per_dim([1.0, 2.0], 2)


def test_a_flow_leaves_no_gradient_behind():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x_0 = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    flow = flow_log_prob(VPSDE(), lambda x, t: -scale * x, x_0)
    assert not flow.log_prob.requires_grad and not flow.x_1.requires_grad
    torch.testing.assert_close(flow.log_prob, Normal(0.0, 1.0).log_prob(f64(0, 0)), rtol=1e-6, atol=1e-6)


def test_atol_alone_can_decide_how_often_the_score_is_asked():
    score, x_0 = SDEOracle(TILTED, SDE), torch.tensor([[0.4, 0.3]], dtype=torch.float64)
    asked = [flow_log_prob(SDE, score, x_0, rtol=1e-12, atol=atol).evaluations for atol in (1e-3, 1e-10)]
    assert asked[0] < asked[1]
