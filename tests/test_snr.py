"""Curves of log SNR against their schedules, the bound's SNR form against the KLs, wrappers against the converters."""

import math
from fractions import Fraction

import pytest
import torch
from scipy.integrate import quad

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle, ancestral
from ddpm_edu.likelihood import L_t
from ddpm_edu.samplers import ddim
from ddpm_edu.sde import VPSDE
from ddpm_edu.snr import (
    CosineLogSNR,
    LearnedLogSNR,
    LinearBetaLogSNR,
    LinearLogSNR,
    continuous_loss,
    eps_model_from_v,
    eps_model_from_x0,
    snr_term,
)

CURVES = [LinearLogSNR, CosineLogSNR, LinearBetaLogSNR, LearnedLogSNR]
f64 = dict(dtype=torch.float64)
TIMES = torch.linspace(0, 1, 401, **f64)
DATA = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
DIFFUSION = GaussianDiffusion(NoiseSchedule.linear(100, 1e-3, 0.1))


def draws(n, seed=0, shape=()):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=gen, **f64) for _ in range(2)]


# Curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("ends", [(10.0, -10.0), (9.21, -10.1), (2.0, 1.0), (25.0, -25.0)])
def test_curves_fall_from_one_end_to_the_other(kind, ends):
    lam = kind(*ends)(TIMES).detach()
    assert lam.dtype == torch.float64 and (lam.diff() < 0).all()
    assert [float(lam[0]), float(lam[-1])] == pytest.approx(list(ends), abs=1e-9)


def test_the_cosine_is_the_cosine_schedule():
    uncut = NoiseSchedule.cosine(100, offset=0.0)
    lam = CosineLogSNR(float(uncut.log_snr[5]), float(uncut.log_snr[95]))(torch.arange(91, **f64) / 90)
    assert torch.allclose(torch.sigmoid(lam), uncut.alpha_bars[5:96], rtol=1e-10)


def test_linear_beta_is_the_sde():
    sde = VPSDE(0.5, 8.0)
    u = torch.linspace(0.02, 1, 50, **f64)
    lam = torch.logit(sde.alpha_bar(u))
    got = LinearBetaLogSNR(float(lam[0]), float(lam[-1]), 0.5, 8.0)(torch.linspace(0, 1, 50, **f64))
    assert torch.allclose(got, lam, atol=1e-10)


def test_learned_curve_falls_for_any_parameters_and_keeps_its_ends():
    learned = LearnedLogSNR(7.0, -5.0, bends=5)
    assert (learned(TIMES) - LinearLogSNR(7.0, -5.0)(TIMES)).abs().max() < 0.5  # it starts near the straight line
    gen = torch.Generator().manual_seed(0)
    for _ in range(20):
        with torch.no_grad():
            for p in (learned.a, learned.h, learned.w, learned.c):
                p.copy_(torch.randn(p.shape, generator=gen, **f64))
        lam = learned(TIMES).detach()
        assert (lam.diff() < 0).all() and [float(lam[0]), float(lam[-1])] == pytest.approx([7.0, -5.0], abs=1e-12)


def test_ends_learn_only_when_asked():
    for asked in (False, True):
        learned = LearnedLogSNR(7.0, -5.0, learn_ends=asked)
        assert learned.low.requires_grad is asked and learned.span.requires_grad is asked
        learned(TIMES)[0].backward() if asked else None
        if asked:  # the first end is low + exp(span)
            assert float(learned.low.grad) == pytest.approx(1) and float(learned.span.grad) == pytest.approx(12)


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize(
    "ends, name", [((1.0, 1.0), "high"), ((-3.0, 3.0), "high"), ((40.0, 0.0), "high"), ((0.0, -31.0), "low")]
)
def test_ends_that_are_refused(kind, ends, name):
    with pytest.raises(ValueError, match=name):
        kind(*ends)


@pytest.mark.parametrize("kind", CURVES)
def test_times_that_are_refused(kind):
    curve = kind()
    for t in (torch.tensor([0.0, 1.1]), torch.tensor([-0.1]), torch.tensor([math.nan])):
        with pytest.raises(ValueError, match=r"t holds .* \[0, 1\]"):
            curve(t)
    for t in (0.5, torch.tensor([0, 1])):
        with pytest.raises(TypeError, match="t must be a floating tensor"):
            curve(t)


def test_other_arguments_that_are_refused():
    with pytest.raises(ValueError, match="beta_max"):
        LinearBetaLogSNR(5.0, -5.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="bends"):
        LearnedLogSNR(bends=0)


# Chains -----------------------------------------------------------------------------------------------------------


def test_log_snr_of_a_schedule():
    schedule = NoiseSchedule.linear()
    assert schedule.log_snr[0] == math.inf
    for t in (1, 500, 1000):
        exact = Fraction(float(schedule.alpha_bars[t]))
        assert float(schedule.log_snr[t]) == pytest.approx(math.log(exact / (1 - exact)), abs=1e-12)


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("T", [2, 3, 50])
def test_a_chain_passes_through_its_curve(kind, T):
    curve = kind(6.0, -7.0)
    schedule = NoiseSchedule.from_log_snr(curve, T)
    want = [1 / (1 + math.exp(-curve(torch.tensor(k / (T - 1), **f64)).item())) for k in range(T)]
    assert schedule.T == T and schedule.alpha_bars[1:].tolist() == pytest.approx(want, rel=1e-12)


def test_chains_that_are_refused():
    for T in (1, 0):
        with pytest.raises(ValueError, match="T = "):
            NoiseSchedule.from_log_snr(LinearLogSNR(), T)
    with pytest.raises(ValueError, match=r"alpha_bars\[2\]"):
        NoiseSchedule.from_log_snr(lambda u: 3 + u, 4)  # it rises
    with pytest.raises(ValueError, match="log_snr must return 4 finite numbers"):
        NoiseSchedule.from_log_snr(lambda u: 3 - u[:2], 4)
    with pytest.raises(ValueError, match="log_snr must return 4 finite numbers"):
        NoiseSchedule.from_log_snr(lambda u: -torch.log(u), 4)  # infinite at u = 0


# The price of a step ----------------------------------------------------------------------------------------------


def test_a_term_is_the_kl_with_beta_tilde():
    x_0, eps = draws(99, shape=(3,))
    t = torch.arange(2, 101)
    guess = torch.sin(eps)
    x_t = DIFFUSION.q_sample(x_0, t, eps)
    got = snr_term(DIFFUSION, lambda x, t: guess, x_0, t, eps)
    want = L_t(DIFFUSION, lambda x, t: guess, x_0, x_t, t, DIFFUSION.sigma2_beta_tilde)
    assert torch.allclose(got, want, rtol=1e-9, atol=0)


def test_any_pair_in_exact_arithmetic():
    diffusion = GaussianDiffusion(NoiseSchedule.linear())
    bars = diffusion.schedule.alpha_bars
    x_0, eps = torch.tensor([[0.7]], **f64), torch.tensor([[-0.4]], **f64)
    for s, t in ((1, 2), (1, 1000), (499, 500), (999, 1000), (3, 700)):
        b_s, b_t = (Fraction(float(bars[k])) for k in (s, t))
        slope2 = b_s * ((1 - b_t / b_s) / (1 - b_t)) ** 2
        beta_tilde = (1 - b_s) / (1 - b_t) * (1 - b_t / b_s)
        error2 = (1 - b_t) / b_t * Fraction(1) ** 2  # ε̂ is off by 1
        want = float(slope2 / (2 * beta_tilde) * error2)
        assert float(snr_term(diffusion, lambda x, t: eps + 1, x_0, t, eps, s)) == pytest.approx(want, rel=1e-12)


def test_gradients_flow_into_the_network():
    x_0, eps = draws(4)
    scale = torch.tensor(0.5, requires_grad=True, **f64)
    snr_term(DIFFUSION, lambda x, t: scale * x, x_0, 7, eps).sum().backward()
    assert torch.isfinite(scale.grad) and scale.grad != 0


def test_prices_that_are_refused():
    x_0, eps = draws(3)
    model = lambda x, t: x  # noqa: E731
    for t in (1, torch.tensor([4, 1, 2])):  # s = 0 has no finite SNR
        with pytest.raises(ValueError, match="s = "):
            snr_term(DIFFUSION, model, x_0, t, eps)
    for s in (7, 8, 101):
        with pytest.raises(ValueError, match="s"):
            snr_term(DIFFUSION, model, x_0, 7, eps, s)
    with pytest.raises(ValueError, match="both must be the same"):
        snr_term(DIFFUSION, model, x_0, 7, eps[:1])
    with pytest.raises(ValueError, match="returned shape"):
        snr_term(DIFFUSION, lambda x, t: x[:, None], x_0, 7, eps)


# The continuous loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CURVES)
def test_its_mean_over_time_is_half_the_integral_over_lambda(kind):
    # A network whose error is cos λ whatever x: then no average over data is needed, only one over a fine grid of times.
    curve, t = kind(3.0, -4.0), (torch.arange(20000, **f64) + 0.5) / 20000
    x_0, eps = draws(len(t))
    with torch.no_grad():
        loss = continuous_loss(curve, lambda x, lam: eps + torch.cos(lam), x_0, t, eps)
    want = 0.5 * quad(lambda lam: math.cos(lam) ** 2, -4, 3)[0]
    assert loss.shape == t.shape and not loss.requires_grad and float(loss.mean()) == pytest.approx(want, rel=1e-5)


def test_it_is_the_limit_of_the_chain_s_terms():
    curve, n = CosineLogSNR(4.0, -4.0), 20000
    diffusion = GaussianDiffusion(NoiseSchedule.from_log_snr(curve, n + 1))
    x_0, eps = draws(5, shape=(2,))
    t = torch.tensor([2, 5000, 10000, 15000, 20000])
    step = snr_term(diffusion, lambda x, t: 0.3 * x, x_0, t, eps)
    loss = continuous_loss(curve, lambda x, lam: 0.3 * x, x_0, (t - 1).double() / n, eps)
    assert torch.allclose(n * step, loss, rtol=3e-3)


def test_the_network_sees_the_state_of_its_lambda():
    x_0, eps = draws(3)
    t = torch.tensor([0.1, 0.5, 0.9], **f64)
    seen = []
    continuous_loss(LinearLogSNR(2.0, -2.0), lambda x, lam: seen.append((x, lam)) or x, x_0, t, eps)
    x, lam = seen[0]
    assert lam.tolist() == pytest.approx([1.6, 0.0, -1.6])
    a = 1 / (1 + torch.exp(-lam))
    assert torch.allclose(x, a.sqrt() * x_0 + (1 - a).sqrt() * eps)


def test_the_schedule_gets_the_gradient_of_its_second_moment():
    learned, (x_0, eps) = LearnedLogSNR(3.0, -3.0, bends=3), draws(50)
    t = (torch.arange(50, **f64) + 0.5) / 50

    def second():
        return continuous_loss(learned, lambda x, lam: torch.sigmoid(lam) * x, x_0, t, eps).square().mean()

    second().backward()
    for name, k in (("a", ()), ("h", 1), ("w", 0), ("c", 2)):
        p = getattr(learned, name)
        with torch.no_grad():
            p[k] += 1e-5
            up = float(second())
            p[k] -= 2e-5
            down = float(second())
            p[k] += 1e-5
        assert float(p.grad[k]) == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-9)


def test_it_keeps_the_dtype_of_the_data():
    x_0, eps = (x.float().reshape(2, 1, 2, 2) for x in draws(8))
    loss = continuous_loss(LinearLogSNR(), lambda x, lam: x, x_0, torch.tensor([0.2, 0.7]), eps)
    assert loss.dtype == torch.float32 and loss.shape == (2,)


def test_losses_that_are_refused():
    (x_0, eps), t = draws(3), torch.tensor([0.1, 0.5, 0.9], **f64)
    model = lambda x, lam: x  # noqa: E731
    with pytest.raises(ValueError, match="log_snr must fall"):
        continuous_loss(lambda t: 3 * t, model, x_0, t, eps)  # time the other way round
    with pytest.raises(ValueError, match="t has shape"):
        continuous_loss(LinearLogSNR(), model, x_0, t[:2], eps)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        continuous_loss(LinearLogSNR(), model, x_0, 1000 * t, eps)  # a step number
    with pytest.raises(ValueError, match="both must be the same"):
        continuous_loss(LinearLogSNR(), model, x_0, t, eps[:1])
    with pytest.raises(ValueError, match="eps_model returned shape"):
        continuous_loss(LinearLogSNR(), lambda x, lam: x[:, None], x_0, t, eps)


# Other targets ----------------------------------------------------------------------------------------------------


def test_every_sampler_takes_a_wrapped_network():
    oracle, (x_T, _) = Oracle(DATA, DIFFUSION), draws(16)

    def v_model(x_t, t):  # from the definition of v and the exact posterior mean
        a = DIFFUSION.schedule.alpha_bars[t]
        x_0 = oracle.x_0_moments(x_t, t)[0]
        return a.sqrt() * (x_t - a.sqrt() * x_0) / (1 - a).sqrt() - (1 - a).sqrt() * x_0

    as_v = eps_model_from_v(DIFFUSION, v_model)
    as_x0 = eps_model_from_x0(DIFFUSION, lambda x, t: oracle.x_0_moments(x, t)[0])
    for sampler in (
        lambda m: ddim(DIFFUSION, m, x_T, 10),
        lambda m: ancestral(DIFFUSION, m, x_T, 10, generator=torch.Generator().manual_seed(1)),
    ):
        want, *others = ([*sampler(model)][-1].x_t for model in (oracle, as_v, as_x0))
        for got in others:
            assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("wrap, name", [(eps_model_from_v, "v_model"), (eps_model_from_x0, "x0_model")])
def test_answers_that_are_refused(wrap, name):
    with pytest.raises(ValueError, match=f"{name} returned shape"):
        wrap(DIFFUSION, lambda x, t: x[:, :1])(torch.zeros(3, 2), torch.tensor([1, 2, 3]))
