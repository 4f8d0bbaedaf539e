"""What must hold for every schedule and every batch: a batch is its items, dtypes stay, and T = 1 is a diffusion too."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddpm_edu import GaussianDiffusion, NoiseSchedule, data, likelihood, samplers, scores, snr, training, unet, weights
from ddpm_edu.diffusion import LearnedVariance, per_sample
from ddpm_edu.discrete import DiscreteDiffusion, draw, masked_loss
from ddpm_edu.guidance import classifier_guided, guided, log_prob_gradient
from ddpm_edu.plots import Source, show_source
from ddpm_edu.sde import VPSDE

quick = settings(max_examples=12, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
B = 4


@st.composite
def schedules(draw, low=1, high=12):
    """Any schedule that a reader may make: the named ones, or steps of any sizes, from T = 1 on."""
    T = draw(st.integers(low, high))
    kind = draw(st.sampled_from(["linear", "quadratic", "cosine", "constant", "any"]))
    if kind == "any":
        return NoiseSchedule.from_betas(draw(st.lists(st.floats(1e-4, 0.7), min_size=T, max_size=T)))
    if kind == "constant":
        return NoiseSchedule.constant(T, draw(st.floats(1e-4, 0.7)))
    return NoiseSchedule.cosine(T) if kind == "cosine" else getattr(NoiseSchedule, kind)(T, 0.001, draw(st.floats(0.01, 0.7)))


def draws(seed: int, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, 2, 1, 2, generator=g, dtype=torch.float64).to(dtype).clamp(-3, 3) for _ in range(2))


def steps(seed: int, T: int, low: int = 1) -> Tensor:
    return torch.randint(low, T + 1, (B,), generator=torch.Generator().manual_seed(seed))


def net(x: Tensor, t: Tensor) -> Tensor:
    """A network that looks at each sample by itself, and at its t."""
    return torch.tanh(x + 0.1 * t.to(x.dtype).reshape(-1, 1, 1, 1)) + 0.2 * x.flip(-1)


def both(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([net(x, t), torch.sigmoid(x)], 1)


def told(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    return net(x, t) + 0.3 * y.to(x.dtype).reshape(-1, 1, 1, 1)


def classifier(x: Tensor, t: Tensor) -> Tensor:
    return torch.stack([x.flatten(1).sum(1).sin(), (x.flatten(1) ** 2).sum(1), t.to(x.dtype)], 1)


def pair(law) -> Tensor:
    mean, var = torch.broadcast_tensors(law.mean, law.var)
    return torch.stack([mean, var], 1)


def last(walk) -> Tensor:
    *_, end = walk
    return end.x_t


def one_step(d, x, t, s):
    return torch.cat([last(samplers.ddim(d, net, x[i : i + 1], [int(t[i]), 0])) for i in range(len(x))])


# Of a batch -------------------------------------------------------------------------------------------------------

# name: (the smallest t, f(diffusion, x, y, t) with a batch as its first axis)
SAME = {
    "q_marginal": (1, lambda d, x, y, t: pair(d.q_marginal(x, t))),
    "q_sample": (1, lambda d, x, y, t: d.q_sample(x, t, y)),
    "q_step": (1, lambda d, x, y, t: pair(d.q_step(x, t))),
    "q_step from 0": (1, lambda d, x, y, t: pair(d.q_step(x, t, 0))),
    "q_posterior": (1, lambda d, x, y, t: pair(d.q_posterior(x, y, t))),
    "q_ddim": (1, lambda d, x, y, t: pair(d.q_ddim(x, y, t, eta=0.5))),
    "sigma2_beta": (1, lambda d, x, y, t: d.sigma2_beta(x, t).expand_as(x)),
    "sigma2_beta_tilde": (1, lambda d, x, y, t: d.sigma2_beta_tilde(x, t).expand_as(x)),
    "sigma2_beta_tilde_clipped": (1, lambda d, x, y, t: d.sigma2_beta_tilde_clipped(x, t).expand_as(x)),
    "sigma2_interpolated": (1, lambda d, x, y, t: d.sigma2_interpolated(torch.sigmoid(y), x, t)),
    "sigma2_from_eps_error": (1, lambda d, x, y, t: d.sigma2_from_eps_error(0.3, x, t).expand_as(x)),
    "p_mean_variance": (1, lambda d, x, y, t: pair(d.p_mean_variance(net, x, t, clip=1.0)[0])),
    "x0_from_eps": (1, lambda d, x, y, t: d.x0_from_eps(x, y, t)),
    "eps_from_x0": (1, lambda d, x, y, t: d.eps_from_x0(x, y, t)),
    "score_from_eps": (1, lambda d, x, y, t: d.score_from_eps(x, t)),
    "eps_from_score": (1, lambda d, x, y, t: d.eps_from_score(x, t)),
    "v_from_x0_eps": (1, lambda d, x, y, t: d.v_from_x0_eps(x, y, t)),
    "x0_from_v": (1, lambda d, x, y, t: d.x0_from_v(x, y, t)),
    "eps_from_v": (1, lambda d, x, y, t: d.eps_from_v(x, y, t)),
    "mean_from_eps": (1, lambda d, x, y, t: d.mean_from_eps(x, y, t)),
    "eps_from_mean": (1, lambda d, x, y, t: d.eps_from_mean(x, y, t)),
    "loss_weights": (1, lambda d, x, y, t: d.loss_weights(x, t).x_0.expand_as(x)),
    "ddim_weight": (2, lambda d, x, y, t: d.ddim_weight(x, t, eta=0.5).expand_as(x)),
    "hybrid_term": (1, lambda d, x, y, t: d.hybrid_term(both, x, t, y, levels=None)),
    "vlb_term": (1, lambda d, x, y, t: d.vlb_term(net, x, t, y, levels=None)),
    "learned sigma2": (1, lambda d, x, y, t: LearnedVariance(d, both).sigma2(x, t)),
    "snr_term": (2, lambda d, x, y, t: snr.snr_term(d, net, x, t, y)),
    "eps_model_from_v": (1, lambda d, x, y, t: snr.eps_model_from_v(d, net)(x, t)),
    "eps_model_from_x0": (1, lambda d, x, y, t: snr.eps_model_from_x0(d, net)(x, t)),
    "continuous_loss": (
        1, lambda d, x, y, t: snr.continuous_loss(snr.CosineLogSNR(5.0, -5.0), net, x, t.double() / d.T, y).detach()
    ),
    "guided": (1, lambda d, x, y, t: guided(told, t % 3, 2.5, classes=3)(x, t)),
    "classifier_guided": (1, lambda d, x, y, t: classifier_guided(d, net, classifier, t % 3, 2.5)(x, t)),
    "log_prob_gradient": (1, lambda d, x, y, t: log_prob_gradient(classifier, x, t, t % 3)),
    "explicit_loss": (1, lambda d, x, y, t: scores.explicit_loss(torch.tanh, x, y)),
    "implicit_loss": (1, lambda d, x, y, t: scores.implicit_loss(torch.tanh, x).detach()),
    "sliced_loss": (1, lambda d, x, y, t: scores.sliced_loss(torch.tanh, x, y).detach()),
    "denoising_loss": (1, lambda d, x, y, t: scores.denoising_loss(torch.tanh, x, 0.1 * t.to(x.dtype), y)),
    "divergence": (1, lambda d, x, y, t: torch.stack(scores.divergence(lambda u: u.tanh(), x)[1:], 1).detach()),
    "ddim": (1, lambda d, x, y, t: last(samplers.ddim(d, net, x))),
    "ddim, clipped": (1, lambda d, x, y, t: last(samplers.ddim(d, net, x, clip=1.0))),
    "ancestral without noise": (1, lambda d, x, y, t: last(samplers.ancestral(d, net, x, sigma2=lambda x, t, s: 0 * x))),
    "ddim_invert": (1, lambda d, x, y, t: last(samplers.ddim_invert(d, net, x))),
    "slerp": (1, lambda d, x, y, t: samplers.slerp(x, y, 0.3)),
    "langevin without noise": (
        1, lambda d, x, y, t: [*samplers.langevin(lambda u: -u.tanh(), x, 0.1, 3, temperature=0.0)][-1].x
    ),
    "reverse_sde without noise": (
        1, lambda d, x, y, t: last(samplers.reverse_sde(VPSDE(), lambda u, t: -u.tanh(), x, [1.0, 0.9, 0.8], eta=0))
    ),
    "probability_flow": (
        1, lambda d, x, y, t: last(samplers.probability_flow(VPSDE(), lambda u, t: -u.tanh(), x, [0.2, 0.1, 0.0]))
    ),
}  # fmt: skip
DOUBLE = {  # these add up many small numbers, and answer in float64
    "L_T": (1, lambda d, x, y, t: likelihood.L_T(d, x)),
    "L_t": (2, lambda d, x, y, t: likelihood.L_t(d, net, x, y, t)),
    "L_0": (1, lambda d, x, y, t: likelihood.L_0(d, net, grey(x), y)),
    "path_log_ratio": (1, lambda d, x, y, t: likelihood.path_log_ratio(d, net, path(d, x, y))),
    "consistency_terms": (1, lambda d, x, y, t: likelihood.consistency_terms(d, net, path(d, x, y))),
    "posterior_terms": (1, lambda d, x, y, t: likelihood.posterior_terms(d, net, path(d, x, y), d.sigma2_beta)),
}


def grey(x: Tensor) -> Tensor:
    """The nearest of 256 grey values."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def path(d: GaussianDiffusion, x: Tensor, y: Tensor) -> Tensor:
    return d.q_path(x, torch.stack([y * math.cos(k) for k in range(d.T)]))


@pytest.mark.parametrize("name", [*SAME, *DOUBLE])
@quick
@given(st.data(), seeds)
def test_a_batch_is_its_items_in_any_order_and_dtypes_stay(name, data, seed):
    low, f = {**SAME, **DOUBLE}[name]
    diffusion = GaussianDiffusion(data.draw(schedules(low)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    (x, y), t = draws(seed, dtype), steps(seed, diffusion.T, low)
    whole = f(diffusion, x, y, t)
    assert len(whole) == B and whole.dtype == (torch.float64 if name in DOUBLE else dtype) and whole.isfinite().all()

    rounding = 1e-12 if whole.dtype == dtype == torch.float64 else 2e-5
    scale = float(whole.abs().max()) + 1
    items = torch.cat([f(diffusion, x[i : i + 1], y[i : i + 1], t[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(items, whole, rtol=0, atol=rounding * scale)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(f(diffusion, x[order], y[order], t[order]), whole[order], rtol=0, atol=rounding * scale)
    if dtype == torch.float32:  # and it is the float64 answer, rounded
        exact = f(diffusion, x.double(), y.double(), t)
        torch.testing.assert_close(whole.double(), exact.double(), rtol=0, atol=1e-3 * scale)


# Of a schedule ----------------------------------------------------------------------------------------------------


@quick
@given(schedules())
def test_tables(schedule):
    bars, betas, T = schedule.alpha_bars, schedule.betas, schedule.T
    assert all(len(table) == T + 1 and table.dtype == torch.float64 for table in (bars, betas, schedule.alphas, schedule.snr))
    torch.testing.assert_close(bars, torch.exp(torch.log1p(-betas).cumsum(0)), rtol=1e-10, atol=0)
    assert bars[0] == 1 and betas[0] == 0 and (bars[1:] < bars[:-1]).all() and (schedule.snr[1:] < schedule.snr[:-1]).all()
    assert (schedule.beta_tildes <= betas).all() and schedule.beta_tildes[1] == 0
    torch.testing.assert_close(torch.sigmoid(schedule.log_snr[1:]), bars[1:], rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.respaced(T).betas, betas, rtol=1e-9, atol=1e-15)


@quick
@given(schedules(2), st.data())
def test_fewer_steps_of_fewer_steps(schedule, data):
    """Respacing twice is respacing once, and a step of the shorter chain is a jump of the longer one."""
    kept = [*sorted(data.draw(st.sets(st.integers(1, schedule.T), min_size=2)), reverse=True), 0]
    short = schedule.respaced(kept)
    n = data.draw(st.integers(1, short.T))
    again = schedule.respaced([kept[::-1][k] for k in short.steps(n)])
    torch.testing.assert_close(short.respaced(n).alpha_bars, again.alpha_bars, rtol=0, atol=0)
    (x, y), few, many = draws(0), GaussianDiffusion(short), GaussianDiffusion(schedule)
    for k in range(1, short.T + 1):
        t, s = kept[::-1][k], kept[::-1][k - 1]
        torch.testing.assert_close(pair(few.q_step(x, k)), pair(many.q_step(x, t, s)), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(pair(few.q_posterior(x, y, k)), pair(many.q_posterior(x, y, t, s)), rtol=1e-12, atol=1e-12)


@quick
@given(schedules(), seeds, st.floats(0, 1), st.data())
def test_every_family_of_steps_back_keeps_the_marginals(schedule, seed, eta, data):
    """x_t from q(x_t | x_0), then a step of q_ddim: mean and variance of q(x_s | x_0), for any η; η = 1 is the posterior."""
    d, (x_0, _) = GaussianDiffusion(schedule), draws(seed)
    t = data.draw(st.integers(1, d.T))
    s = data.draw(st.integers(0, t - 1))
    at_t, at_s = d.q_marginal(x_0, t), d.q_marginal(x_0, s) if s else None
    step = d.q_ddim(x_0, at_t.mean, t, s, eta)
    slope = d.q_ddim(x_0, at_t.mean + 1, t, s, eta).mean - step.mean
    mean, var = (at_s.mean, at_s.var) if at_s else (x_0, torch.zeros(()))
    torch.testing.assert_close(step.mean, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(slope**2 * at_t.var + step.var, var.expand_as(x_0).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(pair(d.q_ddim(x_0, x_0, t, s, 1.0)), pair(d.q_posterior(x_0, x_0, t, s)), rtol=0, atol=1e-9)


@quick
@given(schedules(), seeds)
def test_weights_of_one_error_in_five_coordinates(schedule, seed):
    """An error of ε is √SNR times one of x_0, √ᾱ of v, √(1-ᾱ) of the score; μ's slope in it is the code's own."""
    d, (x, _) = GaussianDiffusion(schedule), draws(seed)
    t = steps(seed, d.T)
    bar, w = d.alpha_bar(t, x.shape), d.loss_weights(x, t)
    slope = d.mean_from_eps(x, torch.ones_like(x), t) - d.mean_from_eps(x, torch.zeros_like(x), t)
    for weight, factor in ((w.mean, 1 / slope**2), (w.x_0, bar / (1 - bar)), (w.v, bar), (w.score, 1 - bar)):
        torch.testing.assert_close(weight.expand_as(x), (w.eps * factor).expand_as(x), rtol=1e-6, atol=0)


@quick
@given(schedules(2), seeds)
def test_the_bounds_term_is_a_drop_of_snr(schedule, seed):
    """Two modules, one number: L_{t-1} with σ² = β̃ is ½ (SNR(t-1) - SNR(t)) ‖x_0 - x̂_0‖²."""
    d, (x_0, eps) = GaussianDiffusion(schedule), draws(seed)
    t = steps(seed, d.T, 2)
    term = likelihood.L_t(d, net, x_0, d.q_sample(x_0, t, eps), t, d.sigma2_beta_tilde)
    torch.testing.assert_close(term, snr.snr_term(d, net, x_0, t, eps), rtol=1e-6, atol=1e-8)


@quick
@given(schedules(), seeds, st.data())
def test_ddim_with_all_noise_is_ancestral(schedule, seed, data):
    d, (x_T, _) = GaussianDiffusion(schedule), draws(seed)
    n = data.draw(st.integers(1, d.T))
    g = lambda: torch.Generator().manual_seed(seed)  # noqa: E731
    ours = samplers.ddim(d, net, x_T, n, eta=1.0, generator=g())
    other = samplers.ancestral(d, net, x_T, n, d.sigma2_beta_tilde, generator=g())
    for a, b in zip(ours, other, strict=True):
        assert a.t == b.t
        torch.testing.assert_close(a.x_t, b.x_t, rtol=1e-7, atol=1e-7)


@quick
@given(schedules(), seeds)
def test_three_forms_of_the_bound_on_any_path(schedule, seed):
    d, (x_0, eps) = GaussianDiffusion(schedule), draws(seed)
    walk = path(d, x_0, eps)
    whole = -likelihood.path_log_ratio(d, net, walk)
    scale = float(whole.abs().max()) + 1
    for form in (likelihood.consistency_terms, likelihood.posterior_terms):
        terms = form(d, net, walk)
        assert terms.shape == (B, d.T + 1)
        torch.testing.assert_close(terms.sum(1), whole, rtol=0, atol=1e-9 * scale)


@quick
@given(seeds, st.floats(0.01, 0.9))
def test_a_diffusion_of_one_step(seed, beta):
    """T = 1: the posterior is a point, the bound L_0 + L_T, the sample one estimate of x_0."""
    d, (x_0, eps) = GaussianDiffusion(NoiseSchedule.constant(1, beta)), draws(seed)
    x_1 = d.q_sample(x_0, 1, eps)
    torch.testing.assert_close(x_1, math.sqrt(1 - beta) * x_0 + math.sqrt(beta) * eps, rtol=0, atol=1e-12)
    point = d.q_posterior(x_0, x_1, 1)
    torch.testing.assert_close(point.mean, x_0, rtol=0, atol=1e-12)
    assert float(point.var.abs().max()) == 0
    guess = (x_1 - math.sqrt(beta) * net(x_1, torch.ones(B))) / math.sqrt(1 - beta)
    for walk in (samplers.ancestral(d, net, x_1), samplers.ddim(d, net, x_1), samplers.ddim(d, net, x_1, eta=1.0)):
        torch.testing.assert_close(last(walk), guess, rtol=0, atol=1e-9)
    bound = likelihood.variational_bound(d, net, x_0, levels=None, generator=torch.Generator().manual_seed(seed))
    assert bound.terms.shape == (B, 2)
    torch.testing.assert_close(bound.terms[:, 1], likelihood.L_T(d, x_0), rtol=0, atol=1e-9)
    assert float(d.loss_weights(x_0, 1).x_0.flatten()[0]) == pytest.approx(1 / (2 * beta), rel=1e-9)


@quick
@given(schedules(), seeds)
def test_guidance_of_weight_0_and_1(schedule, seed):
    d, (x, _) = GaussianDiffusion(schedule), draws(seed)
    t, y = steps(seed, d.T), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(guided(told, y, 1.0, classes=3)(x, t), told(x, t, y), rtol=0, atol=0)
    torch.testing.assert_close(guided(told, y, 0.0, classes=3)(x, t), told(x, t, torch.full((B,), 3)), rtol=0, atol=0)
    near = [guided(told, y, w, classes=3)(x, t) for w in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(near[1] - near[0], near[2] - near[1], rtol=0, atol=1e-12)
    at_one = classifier_guided(d, net, classifier, y, 1.0)(x, t)
    push = d.score_from_eps(at_one, t) - d.score_from_eps(net(x, t), t)
    torch.testing.assert_close(push, log_prob_gradient(classifier, x, t, y), rtol=1e-7, atol=1e-7)


# Categories -------------------------------------------------------------------------------------------------------


@st.composite
def chains(draw):
    """A discrete chain, T from 1 on, uniform or with a mask."""
    bars = draw(schedules(1, 8)).alpha_bars[1:]
    return getattr(DiscreteDiffusion, draw(st.sampled_from(["uniform", "absorbing"])))(draw(st.integers(2, 4)), bars)


def letters(chain, seed, D=3):
    g = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(0, chain.letters, (B, D), generator=g)
    t = torch.randint(1, chain.T + 1, (B,), generator=g)
    return x_0, chain.q_sample(x_0, t, g), t


def logits_of(chain):
    def x0_model(x_t, t):
        angle = x_t[..., None] + torch.arange(chain.letters) * t[:, None, None]
        return torch.sin(angle.double())

    return x0_model


def sure_of(x_0, chain):
    return lambda x_t, t: torch.nn.functional.one_hot(x_0, chain.letters).double().log()


@quick
@given(chains(), seeds, st.data())
def test_categories(chain, seed, data):
    x_0, x_t, t = letters(chain, seed)
    t_, s_ = (k := data.draw(st.integers(1, chain.T))), data.draw(st.integers(0, k - 1))
    torch.testing.assert_close(chain.Q_bars[s_] @ chain.jump(t_, s_), chain.Q_bars[t_], rtol=0, atol=1e-12)
    model = logits_of(chain)
    p, x_0_hat = chain.p_step(model, x_t, t)
    for law in (chain.q_marginal(x_0, t), chain.q_posterior(x_0, x_t, t), p, x_0_hat, chain.predict(model, x_t, t)):
        assert law.dtype == torch.float64 and (law >= 0).all()
        torch.testing.assert_close(law.sum(-1), torch.ones(B, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    # the posterior is what the step back becomes when the network is sure of x_0
    torch.testing.assert_close(chain.p_step(sure_of(x_0, chain), x_t, t)[0], chain.q_posterior(x_0, x_t, t), rtol=0, atol=1e-12)
    order = torch.randperm(B, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(chain.p_step(model, x_t[order], t[order])[0], p[order], rtol=0, atol=1e-12)
    one = torch.cat([chain.p_step(model, x_t[i : i + 1], t[i : i + 1])[0] for i in range(B)])
    torch.testing.assert_close(one, p, rtol=0, atol=1e-12)


@quick
@given(chains(), seeds)
def test_the_posterior_of_categories_averages_to_the_earlier_marginal(chain, seed):
    """Σ over x_t of q(x_t | x_0) q(x_s | x_t, x_0) = q(x_s | x_0), by counting every x_t."""
    x_0, _, _ = letters(chain, seed, D=1)
    for t in range(1, chain.T + 1):
        at_t = chain.q_marginal(x_0, t)
        total = torch.zeros(B, 1, chain.states, dtype=torch.float64)
        for state in range(chain.states):
            where = at_t[:, 0, state] > 0
            if where.any():
                seen = torch.full_like(x_0[where], state)
                total[where] += at_t[where, :, state : state + 1] * chain.q_posterior(x_0[where], seen, t)
        torch.testing.assert_close(total, chain.q_marginal(x_0, t - 1), rtol=0, atol=1e-12)


@quick
@given(chains(), seeds)
def test_the_bound_of_categories(chain, seed):
    x_0, _, _ = letters(chain, seed)
    model, g = logits_of(chain), torch.Generator().manual_seed(seed)
    terms = chain.bound_terms(model, x_0, g)
    assert terms.shape == (B, chain.T + 1) and (terms > -1e-12).all()
    torch.testing.assert_close(terms[:, -1], chain.L_T(x_0), rtol=0, atol=0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(chain.L_T(x_0[order]), terms[order, -1], rtol=0, atol=1e-12)
    x_1 = chain.q_sample(x_0, 1, g)
    torch.testing.assert_close(chain.L_0(model, x_0[order], x_1[order]), chain.L_0(model, x_0, x_1)[order], rtol=0, atol=1e-12)
    for sure in chain.L_0(sure_of(x_0, chain), x_0, x_1):
        assert abs(float(sure)) < 1e-12


def test_draws_of_categories_keep_their_shape():
    probs = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).expand(3, 2, 2)
    assert draw(probs).tolist() == [[1, 0]] * 3 and draw(probs).dtype == torch.int64
    loss = masked_loss(lambda x, t: torch.zeros(*x.shape, 4), torch.ones(2, 3, dtype=torch.int64), torch.tensor([0.5, 1.0]), 4)
    assert loss.shape == (2,) and float(loss[1]) == pytest.approx(
        3 * math.log(4), rel=1e-6
    )  # all hidden: three guesses of four


# What no other test names -----------------------------------------------------------------------------------------


def test_per_sample():
    x = torch.arange(12.0).reshape(2, 3, 2)
    assert per_sample(x).tolist() == [15.0, 51.0] and per_sample(x[:, 0, 0]).tolist() == [0.0, 6.0]


def test_grey_levels_of_a_set():
    assert {name: data.levels_of(name) for name in ("digits", "mnist", "cifar10")} == {
        "digits": 17,
        "mnist": 256,
        "cifar10": 256,
    }


def test_images_in_files(tmp_path):
    """The middle square, resized, on [-1, 1]; and a fingerprint that sees another file."""
    from PIL import Image

    for name, grey in (("a.png", 0), ("b.png", 255)):
        image = Image.new("RGB", (12, 8), (90, 90, 90))
        image.paste((grey, grey, grey), (2, 0, 10, 8))
        image.save(tmp_path / name)
    files = data.ImageFiles("two", sorted(tmp_path.glob("*.png")), size=4)
    assert len(files) == 2 and files.shape == (3, 4, 4) and files.levels == 256
    batch = files[torch.tensor([1, 0])]
    assert batch.dtype == torch.float32 and batch[0].unique().tolist() == [1.0] and batch[1].unique().tolist() == [-1.0]
    assert files.sha256() != data.ImageFiles("one", [tmp_path / "a.png"], size=4).sha256()
    with pytest.raises(ValueError, match="paths is empty"):
        data.ImageFiles("none", [], size=4)


def test_source_text():
    shown = show_source(per_sample)
    assert isinstance(shown, Source) and repr(shown) == shown.text
    assert shown.text.splitlines()[1] == "def per_sample(x: Tensor) -> Tensor:"


DOTS = {"kind": "MLP", "width": 8, "layers": 1}
POINTS = dict(data="two_moons", T=5, steps=4, batch=8, warmup=0, precision="float32")


def test_what_a_training_step_reports_and_what_a_state_records():
    state = training.TrainState(training.TrainConfig(network=DOTS, **POINTS))
    seen = list(training.train(state, data.toy("two_moons", 40)))
    assert all(isinstance(m, training.Metrics) for m in seen) and [m.step for m in seen] == [1, 2, 3, 4]
    assert state.loss_curve == [(m.step, pytest.approx(m.loss)) for m in seen]
    state.config = training.TrainConfig(network=DOTS, **{**POINTS, "steps": 1000})
    state.step, state.loss_curve = 995, []
    for loss in (1.0, 2.0, 6.0):
        state.record(loss)
        state.step += 1
    assert state.loss_curve == []  # an entry every tenth step, of what came since the last one
    state.step = 1000
    state.record(3.0)
    assert state.loss_curve == [(1000, 3.0)]


def test_a_run_goes_on_with_its_own_data_only():
    state, digits = training.TrainState(training.TrainConfig(network=DOTS, **POINTS)), data.load("digits")
    state.recognise(data.toy("two_moons", 10))  # a plain tensor has no fingerprint
    assert state.data_sha256 is None
    state.recognise(digits)
    assert state.data_sha256 == digits.sha256()
    state.step = 1
    state.recognise(digits)
    with pytest.raises(ValueError, match="data has the fingerprint"):
        state.recognise(data.load("digits", split="test"))


def test_a_run_can_begin_with_trained_weights(tmp_path):
    first = training.TrainState(training.TrainConfig(network=DOTS, **POINTS))
    list(training.train(first, data.toy("two_moons", 40)))
    weights.save(tmp_path / "first.safetensors", first.ema_network, {"seed": 7})
    second = training.TrainState(training.TrainConfig(network=DOTS, **POINTS, seed=1))
    second.begin_with(tmp_path / "first.safetensors")
    for network in (second.network, second.ema_network):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), first.ema_network.parameters(), strict=True))
    assert second.history[-1]["file"] == "first.safetensors" and second.history[-1]["seed"] == 7
    with pytest.raises(ValueError, match="only at step 0"):
        first.begin_with(tmp_path / "first.safetensors")


def test_terms_of_the_losses_that_have_some():
    """By hand: T times the bound's term per coordinate; and the hybrid's, with λ."""
    d, (x_0, eps) = GaussianDiffusion(NoiseSchedule.linear(5, 0.1, 0.4)), draws(3)
    t = torch.tensor([1, 2, 5, 3])
    config = {
        loss: training.TrainConfig(network={**DOTS, "learned_variance": True}, **POINTS, loss=loss)
        for loss in ("vlb", "hybrid")
    }
    x_t, learned = d.q_sample(x_0, t, eps), LearnedVariance(d, both)
    p = d.p_mean_variance(net, x_t, t, sigma2=lambda x, t, s: d.sigma2_interpolated(both(x, t)[:, 2:], x, t))[0]
    bound = 5 * d.bound_term(p, x_0, x_t, t, None) / 4
    torch.testing.assert_close(training.loss_terms(config["vlb"], d, both, x_0, t, eps), bound, rtol=0, atol=1e-12)
    square = (eps - learned.eps_model(x_t, t)).square().flatten(1).mean(1)
    want = square + config["hybrid"].vlb_weight * bound
    torch.testing.assert_close(training.loss_terms(config["hybrid"], d, both, x_0, t, eps), want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="has no terms of its own"):
        training.loss_terms(training.TrainConfig(network=DOTS, **POINTS), d, net, x_0, t, eps)


def test_a_flag_of_one_process():
    assert training.processes()[1] == 1
    assert training.on_any_process(True, torch.device("cpu")) and not training.on_any_process(False, torch.device("cpu"))


def test_a_block_is_its_residual_part_then_attention():
    torch.manual_seed(0)
    with_, without = (unet.Block(4, 8, 16, 0.0, heads, unet.group_norm, False).eval() for heads in (1, 0))
    x, time = torch.randn(2, 4, 4, 4), torch.randn(2, 16)
    assert torch.equal(with_(x, time), with_.attention(with_.res(x, time)))
    assert torch.equal(without(x, time), without.res(x, time)) and without(x, time).shape == (2, 8, 4, 4)


@pytest.mark.parametrize("t", [torch.tensor([1.0, 2.0]), torch.tensor([1]), 1])
def test_a_step_for_each_sample(t):
    unet.step_of_each(torch.tensor([1, 2]), torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"t must be an int64 tensor of shape \(2,\)"):
        unet.step_of_each(t, torch.zeros(2, 3))


def test_tensors_from_elsewhere_and_a_card(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    torch.save(tensors, tmp_path / "plain.pt")
    assert torch.equal(weights.read_foreign(tmp_path / "plain.pt")["a"], tensors["a"])
    torch.save({"a": [1, 2]}, tmp_path / "other.pt")
    with pytest.raises(weights.WeightsError, match="is not a state dict"):
        weights.read_foreign(tmp_path / "other.pt")
    (tmp_path / "torn.pt").write_bytes(b"no archive")
    with pytest.raises(weights.WeightsError, match="cannot be read as plain tensors"):
        weights.read_foreign(tmp_path / "torn.pt")
    weights.write_card(tmp_path / "net.safetensors", {"seed": 1, "note": "ᾱ"})
    assert weights.read_card(tmp_path / "net.safetensors") == {"seed": 1, "note": "ᾱ"}
