"""The score-matching objectives against quadrature and enumeration, and against each other up to their constants."""

import itertools
import math

import pytest
import torch

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule
from ddpm_edu.routes import grid, integrate
from ddpm_edu.scores import (
    EnergyMLP,
    denoising_loss,
    divergence,
    energy_score,
    evaluate,
    explicit_loss,
    implicit_loss,
    sliced_loss,
)

LINE = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
PLANE = GaussianMixture.with_covariances(
    [0.4, 0.6], [[-1.0, 0.3], [0.8, -0.5]], [[[0.30, 0.10], [0.10, 0.20]], [[0.25, -0.08], [-0.08, 0.40]]]
)


def net(x):
    """A score that is nobody's: not even a gradient in the plane."""
    return torch.tanh(1.3 * x) - 0.7 * x + 0.2 * x.roll(1, -1) ** 2


def plane(reach=5.0, n=301):
    axis = grid(-reach, reach, n)
    points = torch.cartesian_prod(axis, axis)
    weight = (2 * reach / (n - 1)) ** 2
    return points, weight


@torch.no_grad()
def fisher(data, x, weight):
    return (data.log_prob(x).exp() * data.score(x).square().reshape(len(x), -1).sum(1)).sum() * weight


def test_implicit_is_explicit_minus_half_the_fisher_information_in_the_plane():
    x, weight = plane()
    p = PLANE.log_prob(x).exp() * weight
    with torch.no_grad():
        gap = (p * (explicit_loss(net, x, PLANE.score(x)) - implicit_loss(net, x))).sum()
    assert float(gap - fisher(PLANE, x, weight) / 2) == pytest.approx(0, abs=1e-10)


def test_sliced_averages_to_implicit_over_the_signs():
    x = PLANE.sample(20, torch.Generator().manual_seed(0))
    signs = [torch.tensor(s, dtype=torch.float64).expand(20, 2) for s in itertools.product([-1.0, 1.0], repeat=2)]
    for exact_norm in (False, True):
        mean = torch.stack([sliced_loss(net, x, v, exact_norm) for v in signs]).mean(0)
        assert torch.allclose(mean, implicit_loss(net, x), atol=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_denoising_is_explicit_on_the_noised_law_up_to_its_constant(sigma):
    u, e = grid(-8, 8, 801), grid(-8, 8, 401)
    score = lambda x: torch.tanh(2 * x) - x  # noqa: E731
    x, eps = u.repeat_interleave(len(e)), e.repeat(len(u))
    table = denoising_loss(score, x, sigma, eps).reshape(len(u), len(e))
    dsm = integrate(integrate(table * torch.exp(-(e**2) / 2) / math.sqrt(2 * math.pi), e) * LINE.log_prob(u).exp(), u)
    y, law = grid(-12, 12, 4001), LINE.noised(sigma)
    q = law.log_prob(y).exp()
    esm = integrate(q * explicit_loss(score, y, law.score(y)), y)
    constant = 0.5 / sigma**2 - 0.5 * integrate(q * law.score(y) ** 2, y)
    assert float(dsm - esm - constant) == pytest.approx(0, abs=1e-10)


def test_one_sigma_for_each_sample_is_the_loop_over_them():
    gen = torch.Generator().manual_seed(1)
    x, eps = torch.randn(2, 5, 2, generator=gen, dtype=torch.float64)
    sigmas = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    one_by_one = torch.cat([denoising_loss(net, x[k : k + 1], float(s), eps[k : k + 1]) for k, s in enumerate(sigmas)])
    assert torch.allclose(denoising_loss(net, x, sigmas, eps), one_by_one)


def test_simple_loss_is_denoising_score_matching_of_the_shrunk_data():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
    gen = torch.Generator().manual_seed(2)
    x_0, eps = torch.randn(2, 4, 3, generator=gen, dtype=torch.float64)
    for t in (1, 5, 10):
        bar = float(diffusion.schedule.alpha_bars[t])
        eps_model = lambda x, t: torch.sin(x)  # noqa: E731
        score = lambda x, t=t: diffusion.score_from_eps(torch.sin(x), t)  # noqa: E731
        dsm = denoising_loss(score, math.sqrt(bar) * x_0, math.sqrt(1 - bar), eps).mean()
        simple = diffusion.simple_loss(eps_model, x_0, t, eps) * 3
        assert float(simple) == pytest.approx(2 * (1 - bar) * float(dsm), rel=1e-12)


def test_divergence_is_the_trace_of_the_jacobian_and_of_any_shape():
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = lambda x: torch.sin(x) * x.flatten(1).sum(1).reshape(-1, 1, 1, 1)  # noqa: E731
    s, div = divergence(field, x)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: field(one[None])[0]))(x).reshape(3, 8, 8)
    assert torch.allclose(s, field(x)) and torch.allclose(div, jacobians.diagonal(dim1=1, dim2=2).sum(1))
    v = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = torch.einsum("bi,bij,bj->b", v.flatten(1), jacobians, v.flatten(1))
    assert torch.allclose(divergence(field, x, v)[1], want)
    on_a_line = divergence(torch.sin, torch.linspace(0, 1, 5))[1]
    assert torch.allclose(on_a_line, torch.linspace(0, 1, 5).cos())


def test_results_carry_gradients_only_where_gradients_are_on():
    energy = EnergyMLP(2, 8).double()
    x = torch.randn(6, 2, dtype=torch.float64)
    implicit_loss(energy.score, x).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in energy.network[:-1].parameters())
    with torch.no_grad():
        s, div = divergence(energy.score, x)
        assert not s.requires_grad and not div.requires_grad and not energy.score(x).requires_grad


def test_energy_score_is_blind_to_the_normaliser():
    x = PLANE.sample(8, torch.Generator().manual_seed(0))
    for constant in (0.0, 7.0):
        score = energy_score(lambda u, c=constant: c - PLANE.log_prob(u))
        assert torch.allclose(score(x), PLANE.score(x), atol=1e-12)


def test_energy_mlp_has_a_finite_integral_and_a_symmetric_jacobian():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        energy = EnergyMLP(2, 8).double()
    with torch.no_grad():
        sums = [(-energy(x)).exp().sum() * w for x, w in (plane(8.0, 201), plane(16.0, 401))]
    assert float(sums[0] / sums[1]) == pytest.approx(1, abs=1e-9)
    J = torch.autograd.functional.jacobian(lambda u: energy.score(u[None])[0], torch.tensor([0.3, -0.8], dtype=torch.float64))
    assert torch.allclose(J, J.T)


X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: evaluate(lambda x: x[:, :1], X), ValueError, r"score returned shape \(4, 1\), x has shape \(4, 2\)"),
        (lambda: evaluate(lambda x: 3.0, X), ValueError, "score returned float"),
        (lambda: evaluate(torch.sin, torch.tensor(1.0)), ValueError, "batch axis"),
        (lambda: explicit_loss(torch.sin, X, X[:, 0]), ValueError, "true_score has shape"),
        (lambda: implicit_loss(lambda x: x.detach(), X), ValueError, "no gradient with respect to x"),
        (lambda: sliced_loss(torch.sin, X, X[:1]), ValueError, r"v has shape \(1, 2\)"),
        (lambda: denoising_loss(torch.sin, X, 0.0, X), ValueError, "sigma must be > 0"),
        (lambda: denoising_loss(torch.sin, X, math.nan, X), ValueError, "sigma must be > 0"),
        (lambda: denoising_loss(torch.sin, X, torch.ones(2), X), ValueError, r"sigma must be a number or have shape \(4,\)"),
        (lambda: denoising_loss(torch.sin, X, 1.0, X[0]), ValueError, "each coordinate needs its own noise"),
        (lambda: denoising_loss(torch.sin, X.long(), 1.0, X), TypeError, "x has dtype"),
        (lambda: energy_score(lambda x: x)(X), ValueError, r"energy returned shape \(4, 2\)"),
        (lambda: EnergyMLP(2)(torch.zeros(4, 3)), ValueError, r"takes \(B, 2\)"),
        (lambda: EnergyMLP(0), ValueError, "dim = 0"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_sliced_loss_is_the_second_derivative_along_v_plus_half_a_square():
    x = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    v = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda u: net(u[None])[0], x[0])
    bend, along, norm = float(v[0] @ J @ v[0]), float(v[0] @ net(x)[0]), float((net(x)[0] ** 2).sum())
    assert sliced_loss(net, x, v).item() == pytest.approx(bend + along**2 / 2, rel=1e-12)
    assert sliced_loss(net, x, v, exact_norm=True).item() == pytest.approx(bend + norm / 2, rel=1e-12)


def test_denoising_by_hand():
    x, eps = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    # At x̃ = (1.1, 1.8) the score -x̃ is to be -ε/σ = (-2.5, 5): ½ (1.4² + 6.8²).
    assert denoising_loss(lambda u: -u, x, 0.2, eps).tolist() == pytest.approx([(1.4**2 + 6.8**2) / 2], rel=1e-14)


def test_the_caller_s_x_and_its_gradients_are_left_alone():
    x = torch.ones(2, 2, dtype=torch.float64)
    for call in (lambda x: divergence(torch.sin, x), energy_score(lambda u: u.square().sum(1))):
        call(x)
        assert not x.requires_grad
    leaf = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(energy_score(lambda u: u.pow(3).sum(1))(leaf).sum(), leaf)
    assert slope.tolist() == [[-6.0, -6.0]] * 2  # the score is -3 x²
    with torch.no_grad():
        assert not energy_score(lambda u: u.pow(3).sum(1))(leaf).requires_grad


def test_divergence_is_formed_in_the_precision_of_x():
    x = torch.ones(3, 2, dtype=torch.float64) / 3
    _, div = divergence(torch.sin, x)
    assert div.dtype == torch.float64 and div.tolist() == pytest.approx([2 * math.cos(1 / 3)] * 3, rel=1e-15)


def test_an_energy_that_does_not_depend_on_x_has_no_score():
    level = torch.ones((), requires_grad=True)
    assert energy_score(lambda x: level.expand(len(x)))(X).abs().max() == 0


def test_the_energy_without_its_network_is_a_parabola_and_the_sizes_are_the_ones_asked_for():
    energy = EnergyMLP(3, 5, 1)
    assert [tuple(p.shape) for p in energy.parameters()] == [(5, 3), (5,), (1, 5), (1,)]
    assert [tuple(p.shape) for p in EnergyMLP().parameters()] == [(64, 2), (64,), (64, 64), (64,), (1, 64), (1,)]
    for p in energy.parameters():
        torch.nn.init.zeros_(p)
    assert energy(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]])).tolist() == [4.5, 0.5]
    assert energy.score(torch.tensor([[1.0, 2.0, 2.0]])).tolist() == [[-1.0, -2.0, -2.0]]
    torch.nn.init.ones_(energy.network[-1].bias)
    assert energy(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]])).tolist() == [5.5, 1.5]  # what the network says is added


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: evaluate(torch.sin, X.long()), TypeError, "x has dtype"),
        (lambda: explicit_loss(torch.sin, X, X.long()), TypeError, "true_score has dtype"),
        (lambda: divergence(torch.sin, X, X.long()), TypeError, "v has dtype"),
        (lambda: divergence(torch.sin, X.long()), TypeError, "x has dtype"),
        (lambda: denoising_loss(torch.sin, X, 1.0, X.long()), TypeError, "eps has dtype"),
        (lambda: denoising_loss(torch.sin, X, math.inf, X), ValueError, "sigma must be > 0 and finite"),
        (lambda: denoising_loss(torch.sin, X, torch.tensor([1.0, -1.0, 1.0, 1.0]), X), ValueError, "sigma must be > 0"),
        (lambda: denoising_loss(torch.sin, X, torch.ones(4, 1), X), ValueError, r"sigma must be .* got shape \(4, 1\)"),
        (lambda: energy_score(lambda x: x.sum(1))(X.long()), TypeError, "x has dtype"),
        (lambda: EnergyMLP(2)(torch.zeros(2)), ValueError, r"takes \(B, 2\)"),
        (lambda: EnergyMLP(2, 0), ValueError, "width = 0"),
        (lambda: EnergyMLP(2, 8, 0), ValueError, "layers = 0"),
    ],
)
def test_more_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_gradients_not_even_the_directions_carry_one():
    v = torch.ones(2, 2, requires_grad=True)
    with torch.no_grad():
        s, along = divergence(torch.sin, torch.zeros(2, 2), v)
    assert not s.requires_grad and not along.requires_grad and along.tolist() == [2.0, 2.0]
