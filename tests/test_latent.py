"""The one-latent model against quadrature, torch.distributions and autograd; its estimators against exact values."""

import math

import pytest
import torch

from ddpm_edu import Gaussian
from ddpm_edu.latent import (
    LinearGaussianModel,
    effective_sample_size,
    effective_share,
    log_mean_weight,
    reparameterised_gradient,
    score_function_gradient,
)
from ddpm_edu.routes import density_moments, grid, integrate


def gaussian(mean, var):
    return Gaussian(torch.tensor(mean, dtype=torch.float64), torch.tensor(var, dtype=torch.float64))


Z = grid(-12, 12)
MODELS = [
    (LinearGaussianModel(gaussian(0.0, 1.0), 2.0, 1.0), 2.5),
    (LinearGaussianModel(gaussian(-0.7, 0.5), -1.3, 0.4), 0.2),
    (LinearGaussianModel(gaussian(0.3, 2.0), 0.0, 0.6), -1.0),
]
QS = [gaussian(0.5, 0.5), gaussian(-1.0, 0.1), gaussian(0.2, 1.5)]


@pytest.mark.parametrize("model, x", MODELS)
def test_evidence_and_posterior_by_quadrature(model, x):
    x = torch.tensor(x, dtype=torch.float64)
    normal = torch.distributions.Normal
    prior, decoder = normal(model.prior.mean, model.prior.var.sqrt()), normal(model.slope * Z, model.noise_var**0.5)
    joint = prior.log_prob(Z) + decoder.log_prob(x)
    assert torch.allclose(model.log_joint(x, Z), joint, atol=1e-12)
    log_Z, mean, var = density_moments(lambda _: joint, Z)
    posterior = model.posterior(x)
    assert [float(model.log_prob(x)), float(posterior.mean), float(posterior.var)] == pytest.approx(
        [float(log_Z), float(mean), float(var)], abs=1e-9
    )


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("model, x", MODELS)
def test_bound_gap_and_terms_by_quadrature(model, x, q):
    x = torch.tensor(x, dtype=torch.float64)
    mass = q.log_prob(Z).exp()
    elbo = integrate(mass * model.log_weight(x, Z, q), Z)
    evidence = integrate(model.log_joint(x, Z).exp(), Z).log()
    assert float(model.elbo(x, q)) == pytest.approx(float(elbo), abs=1e-9)
    assert float(model.gap(x, q)) == pytest.approx(float(evidence - elbo), abs=1e-9) and model.gap(x, q) > 0
    assert float(model.reconstruction(x, q)) == pytest.approx(
        float(integrate(mass * model.decoder(Z).log_prob(x), Z)), abs=1e-9
    )


def test_the_posterior_closes_the_gap():
    for model, x in MODELS:
        x = torch.tensor(x, dtype=torch.float64)
        posterior = model.posterior(x)
        assert float(model.gap(x, posterior)) == pytest.approx(0, abs=1e-14)
        weights = model.log_weight(x, torch.linspace(-3, 3, 7, dtype=torch.float64), posterior)
        assert torch.allclose(weights, model.log_prob(x).expand(7), atol=1e-12)


def test_log_mean_weight_survives_what_exp_does_not():
    w = torch.tensor([[0.2, 3.0], [0.5, 1.0], [0.8, 2.0]], dtype=torch.float64)
    assert torch.allclose(log_mean_weight(w.log()), w.mean(0).log())
    assert torch.allclose(log_mean_weight(w.log() - 5000), w.mean(0).log() - 5000)


def test_effective_sample_size():
    w = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    assert float(effective_sample_size(w.log() - 3000)) == pytest.approx(float(w.sum() ** 2 / (w**2).sum()))
    assert float(effective_sample_size(torch.full((50,), -7.0, dtype=torch.float64))) == pytest.approx(50)
    assert float(effective_sample_size(torch.tensor([0.0, -900.0, -900.0]))) == pytest.approx(1)


@pytest.mark.parametrize("q", [gaussian(0.4, 0.5), gaussian(0.1, 0.2), gaussian(-0.3, 3.0)])
def test_effective_share_by_quadrature(q):
    target = gaussian(0.1, 0.3)
    squares = integrate(torch.exp(2 * target.log_prob(Z) - q.log_prob(Z)), Z)
    assert float(effective_share(target, q)) == pytest.approx(1 / float(squares), abs=1e-10)


def test_effective_share_is_zero_where_the_weights_have_no_variance():
    target = Gaussian(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    q = Gaussian(torch.zeros(3, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.51], dtype=torch.float64))
    share = effective_share(target, q)
    assert share[:2].tolist() == [0, 0] and share[2] > 0


@pytest.mark.parametrize("estimate", [score_function_gradient, reparameterised_gradient])
def test_gradients_are_unbiased(estimate):
    """Averaged over a grid of eps with its density, each is the derivative of ∫ q f."""
    mean, sigma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.4, 0.7))

    def f(z):
        return torch.sin(2 * z) + 0.3 * z**2

    density = torch.exp(-0.5 * ((Z - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    want = torch.autograd.grad(integrate(density * f(Z), Z), (mean, sigma))
    eps = grid(-9, 9)
    mass = gaussian(0.0, 1.0).log_prob(eps).exp()
    got = [float(integrate(mass * g, eps)) for g in estimate(f, gaussian(0.4, 0.49), eps)]
    assert got == pytest.approx([float(w) for w in want], abs=1e-9)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LinearGaussianModel(0.0, 1.0, 1.0), TypeError, "prior must be a Gaussian"),
        (lambda: LinearGaussianModel(gaussian(0.0, 0.0), 1.0, 1.0), ValueError, "prior.var"),
        (lambda: LinearGaussianModel(gaussian(0.0, 1.0), 1.0, 0.0), ValueError, "noise_var = 0.0"),
        (lambda: LinearGaussianModel(gaussian(0.0, 1.0), "2", 1.0), TypeError, "slope must be a number"),
        (lambda: LinearGaussianModel(gaussian(0.0, 1.0), math.inf, 1.0), ValueError, "slope = inf"),
        (lambda: MODELS[0][0].log_prob(torch.tensor(2)), TypeError, "x has dtype"),
        (lambda: MODELS[0][0].decoder(torch.tensor(math.nan)), ValueError, "z holds 1"),
        (lambda: effective_sample_size(torch.tensor(0.3)), ValueError, "log_w"),
        (lambda: log_mean_weight(torch.zeros(0)), ValueError, "log_w"),
        (lambda: effective_share(gaussian(0.0, 1.0), gaussian(0.0, 0.0)), ValueError, "effective_share needs var > 0"),
        (lambda: score_function_gradient(torch.sin, gaussian(0.0, 0.0), torch.zeros(2)), ValueError, "needs var > 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
