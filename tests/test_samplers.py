"""Samplers at small T against the exact recursion of moments: an off-by-one shows at T = 10, not in pictures."""

import math
from itertools import pairwise

import pytest
import torch

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle, TrainConfig, ancestral, data, weights
from ddpm_edu.guidance import guided
from ddpm_edu.oracles import SDEOracle
from ddpm_edu.samplers import annealed_langevin, autocast, ddim, ddim_invert, langevin, probability_flow, reverse_sde, slerp
from ddpm_edu.sde import VPSDE
from ddpm_edu.unet import UNet

DIFFUSION = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))
VAR_0 = 0.3
ORACLE = Oracle(GaussianMixture([1.0], [0.0], [VAR_0]), DIFFUSION)


def exact_variance(visited, sigma2):
    """Var of the generated x_0 for N(0, VAR_0) data and the perfect network, by walking the moments in plain floats."""
    betas = DIFFUSION.schedule.betas.tolist()
    bars = [math.prod(1 - b for b in betas[: t + 1]) for t in range(11)]
    variance = 1.0
    for t, s in pairwise(visited):
        alpha, beta = bars[t] / bars[s], 1 - bars[t] / bars[s]
        gain = math.sqrt(bars[t]) * VAR_0 / (bars[t] * VAR_0 + 1 - bars[t])  # E[x_0 | x_t] = gain x_t
        mean = math.sqrt(bars[s]) * beta / (1 - bars[t]) * gain + math.sqrt(alpha) * (1 - bars[s]) / (1 - bars[t])
        extra = 0.0 if s == 0 else beta if sigma2 == "beta" else beta * (1 - bars[s]) / (1 - bars[t])
        variance = mean**2 * variance + extra
    return variance


@pytest.mark.parametrize("steps", [None, 5, [10, 7, 1, 0]])
@pytest.mark.parametrize("sigma2", ["beta", "beta_tilde"])
def test_ancestral_variance_is_the_exact_recursion(steps, sigma2):
    gen = torch.Generator().manual_seed(0)
    n = 200_000
    x_T = torch.randn(n, generator=gen, dtype=torch.float64)
    choice = DIFFUSION.sigma2_beta if sigma2 == "beta" else DIFFUSION.sigma2_beta_tilde
    *_, last = ancestral(DIFFUSION, ORACLE, x_T, steps, sigma2=choice, generator=gen)
    want = exact_variance(DIFFUSION.schedule.steps(steps), sigma2)
    x = last.x_t / math.sqrt(want)
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - mean) < 5 * math.sqrt(var / n)


def test_default_sigma2_is_beta_and_the_optimal_one_reproduces_the_data():
    gen = torch.Generator().manual_seed(0)
    x_T = torch.randn(1000, generator=gen, dtype=torch.float64)
    a, b = (
        [*ancestral(DIFFUSION, ORACLE, x_T, sigma2=c, generator=torch.Generator().manual_seed(1))][-1].x_t
        for c in (None, DIFFUSION.sigma2_beta)
    )
    assert torch.equal(a, b)
    x_T = math.sqrt(float(DIFFUSION.schedule.alpha_bars[-1]) * VAR_0 + 1 - float(DIFFUSION.schedule.alpha_bars[-1])) * (
        torch.randn(200_000, generator=gen, dtype=torch.float64)
    )
    # From the exact q(x_T), with the exact variance, every state but x_0 has the forward marginal's variance.
    for step in ancestral(DIFFUSION, ORACLE, x_T, sigma2=ORACLE.sigma2_optimal, generator=gen):
        bar = float(DIFFUSION.schedule.alpha_bars[step.t])
        if step.t > 0:
            assert float(step.x_t.var()) == pytest.approx(bar * VAR_0 + 1 - bar, rel=5 * math.sqrt(2 / 200_000))


def test_what_is_yielded():
    x_T = torch.randn(4, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    oracle = Oracle(GaussianMixture([1.0], [[0.0]], [VAR_0]), DIFFUSION)
    walk = list(ancestral(DIFFUSION, oracle, x_T, steps=[10, 6, 2, 0], generator=torch.Generator().manual_seed(0)))
    assert [step.t for step in walk] == [10, 6, 2, 0]
    assert torch.equal(walk[0].x_t, x_T)
    for step in walk[:-1]:
        assert torch.allclose(step.x_0_hat, DIFFUSION.x0_from_eps(step.x_t, oracle(step.x_t, step.t), step.t))
    assert torch.equal(walk[-1].x_0_hat, walk[-1].x_t)
    # The last move adds no noise: x_0 is the estimate made at the last visited step.
    assert torch.allclose(walk[-1].x_t, walk[-2].x_0_hat, atol=1e-14)


def test_the_network_sees_each_visited_step_once_and_no_gradient():
    seen = []

    def net(x, t):
        seen.append((t.tolist(), torch.is_grad_enabled()))
        return torch.zeros_like(x)

    list(ancestral(DIFFUSION, net, torch.zeros(2, 3)))
    assert seen == [([t, t], False) for t in range(10, 0, -1)]


def test_same_generator_same_sample_and_start_is_untouched():
    x_T = torch.ones(3, 2)
    runs = [[*ancestral(DIFFUSION, lambda x, t: x, x_T, generator=torch.Generator().manual_seed(5))][-1].x_t for _ in range(2)]
    assert torch.equal(*runs) and torch.equal(x_T, torch.ones(3, 2))


def test_clip_bounds_the_sample():
    *_, last = ancestral(DIFFUSION, lambda x, t: torch.zeros_like(x), 5 * torch.ones(3, 2), clip=1.0)
    assert float(last.x_t.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"steps": 11}, ValueError, "steps = 11"),
        ({"steps": [10, 10, 0]}, ValueError, "strictly decreasing"),
        ({"steps": [10, 5]}, ValueError, "end in 0"),
        ({"x_T": torch.zeros(2, dtype=torch.int64)}, TypeError, "x_T has dtype"),
        ({"x_T": torch.tensor([math.nan])}, ValueError, "x_T holds 1"),
    ],
)
def test_bad_input_is_refused_before_the_first_step(kwargs, error, message):
    with pytest.raises(error, match=message):
        ancestral(DIFFUSION, ORACLE, **{"x_T": torch.zeros(2), **kwargs})


# Langevin ---------------------------------------------------------------------------------------------------------


def looks_like(x, mean, variance):
    """Four moments of a Gaussian sample, each within five standard errors."""
    u = (x - mean) / math.sqrt(variance)
    for power, moment, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((u**power).mean()) - moment) < 5 * math.sqrt(var / len(x))


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_langevin_has_the_biased_variance_of_its_step(gamma):
    gen = torch.Generator().manual_seed(0)
    v, m = 0.5, -1.0
    x = m + math.sqrt(v) * torch.randn(100_000, generator=gen, dtype=torch.float64)
    *_, last = langevin(lambda x: (m - x) / v, x, gamma, steps=60, curvature=1 / v, generator=gen)
    assert last.k == 60 and last.sigma == 0.0
    looks_like(last.x, m, v / (1 - gamma / (2 * v)))


def test_temperature_zero_is_gradient_ascent_and_temperature_scales_the_noise():
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    visited = [step.x for step in langevin(lambda x: -x, x, 0.25, steps=3, temperature=0.0)]
    assert torch.allclose(torch.cat(visited), x * 0.75 ** torch.arange(4.0).unsqueeze(1).double())
    moved = [
        [*langevin(torch.zeros_like, x, 0.25, 1, temperature=t, generator=torch.Generator().manual_seed(3))] for t in (1.0, 4.0)
    ]
    assert torch.allclose(2 * (moved[0][1].x - x), moved[1][1].x - x)


def test_annealed_langevin_is_langevin_at_one_level_after_another():
    data = GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 1.0]], [0.1, 0.3])
    asked = []

    def score(x, sigma):
        asked.append((sigma, len(x)))
        return data.noised(sigma).score(x)

    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walk = [*annealed_langevin(score, x, [3.0, 1.0, 0.2], 0.3, steps=4, generator=torch.Generator().manual_seed(1))]
    assert [(step.k, step.sigma) for step in walk] == [(0, 3.0), *zip(range(1, 13), [3.0] * 4 + [1.0] * 4 + [0.2] * 4)]
    assert asked == [(s, 7) for s in (3.0, 1.0, 0.2) for _ in range(4)]
    gen, by_hand = torch.Generator().manual_seed(1), x
    for sigma in (3.0, 1.0, 0.2):
        law, gamma = data.noised(sigma), 0.3 * sigma**2
        for _ in range(4):
            z = torch.randn(7, 2, generator=gen, dtype=torch.float64)
            by_hand = by_hand + gamma * law.score(by_hand) + math.sqrt(2 * gamma) * z
    assert torch.allclose(walk[-1].x, by_hand)


def test_the_end_of_annealing_is_the_narrowest_level_with_its_bias():
    gen = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(100_000, generator=gen, dtype=torch.float64)
    *_, last = annealed_langevin(lambda x, sigma: -x / (0.3 + sigma**2), x, [5.0, 1.0, 0.5], 0.8, 60, gen)
    V, gamma = 0.3 + 0.25, 0.8 * 0.25
    looks_like(last.x, 0.0, V / (1 - gamma / (2 * V)))


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"gamma": 0.0}, ValueError, "gamma = 0.0"),
        ({"gamma": 0.2, "curvature": 10.0}, ValueError, r"stability bound 2 / curvature = 0.2"),
        ({"curvature": math.inf}, ValueError, "stability bound 2 / curvature = 0.0"),
        ({"curvature": -1.0}, ValueError, "curvature = -1.0"),
        ({"temperature": -1.0}, ValueError, "temperature = -1.0"),
        ({"steps": -1}, ValueError, "steps = -1"),
        ({"x": torch.tensor([1])}, TypeError, "x has dtype"),
    ],
)
def test_langevin_refuses_before_the_first_move(kwargs, error, message):
    with pytest.raises(error, match=message):
        langevin(**{"score": lambda x: -x, "x": torch.zeros(2), "gamma": 0.1, "steps": 3, **kwargs})


def test_a_score_of_the_wrong_shape_and_a_diverging_walk_are_refused_by_name():
    with pytest.raises(ValueError, match=r"score returned shape \(2, 1\)"):
        list(langevin(lambda x: x[:, :1], torch.zeros(2, 3), 0.1, 1))
    with pytest.raises(ValueError, match=r"gamma = 3.0 is too large"):
        list(langevin(lambda x: -x, torch.ones(2, 3), 3.0, 1000))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"ratio": 2.0}, "ratio = 2.0"),
        ({"ratio": 0.0}, "ratio = 0.0"),
        ({"sigmas": []}, "sigmas must be a list"),
        ({"sigmas": [1.0, 1.0]}, "fall at every place"),
        ({"sigmas": [1.0, 0.0]}, r"sigmas\[1\] = 0.0"),
        ({"steps": 0}, "steps = 0"),
    ],
)
def test_annealed_langevin_refuses_before_the_first_move(kwargs, message):
    with pytest.raises(ValueError, match=message):
        annealed_langevin(
            **{"score": lambda x, s: -x, "x": torch.zeros(2), "sigmas": [1.0, 0.5], "ratio": 0.5, "steps": 3, **kwargs}
        )


# In continuous time -----------------------------------------------------------------------------------------------

SDE = VPSDE(0.2, 6.0)
NORMAL = SDEOracle(GaussianMixture([1.0], [0.0], [VAR_0]), SDE)
MODES = SDEOracle(GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10]), SDE)


def variance_of(t):
    """Var(x_t) and β(t) for N(0, VAR_0) data, in plain floats."""
    alpha_bar = math.exp(-(0.2 * t + 2.9 * t * t))
    return alpha_bar * VAR_0 + 1 - alpha_bar, 0.2 + 5.8 * t


@pytest.mark.parametrize("eta, corrections", [(1.0, 0), (0.6, 0), (0.0, 0), (1.0, 2), (0.0, 1)])
@pytest.mark.parametrize("steps", [10, [1.0, 0.7, 0.3, 0.1, 0.02]])
def test_reverse_sde_variance_is_the_exact_recursion(steps, eta, corrections):
    gen, times = torch.Generator().manual_seed(0), SDE.times(steps)
    *_, last = reverse_sde(
        SDE, NORMAL, torch.randn(100_000, generator=gen, dtype=torch.float64), steps, eta, corrections, 0.5, gen
    )
    want = 1.0
    for t, s in pairwise(times):
        v, beta = variance_of(t)
        want = want * (1 + (t - s) * beta * (0.5 - 0.5 * (1 + eta**2) / v)) ** 2 + eta**2 * beta * (t - s)
        gamma = 0.5 * (1 - math.exp(-(0.2 * s + 2.9 * s * s)))
        for _ in range(corrections):
            want = want * (1 - gamma / variance_of(s)[0]) ** 2 + 2 * gamma
    looks_like(last.x_t, 0.0, want)


def test_heun_is_its_two_stages_and_converges_with_order_two():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def flow(x, t):
        v, beta = variance_of(t)
        return -0.5 * beta * (x - x / v)

    want = x
    for t, s in pairwise(SDE.times(10)):
        guess = want + (s - t) * flow(want, t)
        want = want + (s - t) / 2 * (flow(want, t) + flow(guess, s))
    *_, last = probability_flow(SDE, NORMAL, x, 10)
    assert torch.allclose(last.x_t, want, atol=1e-13)
    # The exact map from N(0, V) to N(0, VAR_0) is a multiplication.
    exact = x * math.sqrt(VAR_0 / variance_of(1.0)[0])
    errors = [float(([*probability_flow(SDE, NORMAL, x, n)][-1].x_t - exact).abs().max()) for n in (40, 80, 160)]
    assert all(math.log2(a / b) == pytest.approx(2, abs=0.1) for a, b in pairwise(errors))


def test_the_flow_keeps_every_quantile_of_two_modes_both_ways():
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    below = lambda x, t: (  # noqa: E731
        MODES.data.weights * torch.special.ndtr((x[:, None] - MODES.q_t(t).means) / MODES.q_t(t).variances.sqrt())
    ).sum(1)
    up = [*probability_flow(SDE, MODES, x, [k / 400 for k in range(401)])]
    for step in up[::100]:
        assert torch.allclose(below(step.x_t, step.t), below(x, 0.0), atol=2e-5)
    *_, down = probability_flow(SDE, MODES, up[-1].x_t, 400)
    assert torch.allclose(down.x_t, x, atol=1e-4)


def test_both_samplers_end_in_the_data_s_law():
    gen = torch.Generator().manual_seed(0)
    for walk in (
        reverse_sde(SDE, MODES, MODES.q_t(1.0).sample(10_000, gen), 300, generator=gen),
        reverse_sde(SDE, MODES, MODES.q_t(1.0).sample(10_000, gen), 300, eta=0.5, corrections=1, ratio=0.05, generator=gen),
        probability_flow(SDE, MODES, MODES.q_t(1.0).sample(10_000, gen), 50),
    ):
        *_, last = walk
        u = MODES.data
        below = (u.weights * torch.special.ndtr((last.x_t[:, None] - u.means) / u.variances.sqrt())).sum(1)
        looks_like(torch.special.ndtri(below), 0.0, 1.0)


def test_what_the_sde_samplers_yield():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    oracle = SDEOracle(GaussianMixture([1.0], [[0.0, 1.0]], [VAR_0]), SDE)
    for walk in (reverse_sde(SDE, oracle, x, 4), probability_flow(SDE, oracle, x, [1.0, 0.6, 0.1])):
        walk = list(walk)
        assert walk[0].x_t is x
        for step in walk:
            assert torch.allclose(step.x_0_hat, SDE.x0_from_score(step.x_t, oracle(step.x_t, step.t), step.t))
    assert [step.t for step in walk] == [1.0, 0.6, 0.1]
    a, b = ([*reverse_sde(SDE, oracle, x, 4, generator=torch.Generator().manual_seed(1))][-1].x_t for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    "sampler, kwargs, error, message",
    [
        (reverse_sde, {"steps": 0}, ValueError, "steps = 0 is too small"),
        (reverse_sde, {"steps": [0.0, 1.0]}, ValueError, "steps must go down"),
        (reverse_sde, {"steps": [1.0, -0.1]}, ValueError, r"outside \[0, 1\]"),
        (reverse_sde, {"eta": -0.5}, ValueError, "eta = -0.5"),
        (reverse_sde, {"corrections": -1}, ValueError, "corrections = -1"),
        (reverse_sde, {"ratio": 2.0}, ValueError, r"ratio = 2.0 is outside \(0, 2\)"),
        (reverse_sde, {"x": torch.tensor([1, 2])}, TypeError, "x_1 has dtype"),
        (probability_flow, {"steps": -3}, ValueError, "steps = -3 is too small"),
        (probability_flow, {"steps": [1.0, 0.5, 0.6]}, ValueError, "strictly down, or strictly up"),
        (probability_flow, {"x": torch.tensor([math.inf])}, ValueError, "x holds 1"),
    ],
)
def test_the_sde_samplers_refuse_before_the_first_step(sampler, kwargs, error, message):
    kwargs = {"x": torch.zeros(2), **kwargs}
    with pytest.raises(error, match=message):
        sampler(SDE, NORMAL, kwargs.pop("x"), **kwargs)


@pytest.mark.parametrize("sampler", [reverse_sde, probability_flow])
def test_a_score_of_the_wrong_shape_is_refused(sampler):
    with pytest.raises(ValueError, match=r"score returned shape \(2,\), x has \(2, 3\)"):
        list(sampler(SDE, lambda x, t: x[:, 0], torch.zeros(2, 3), 2))


# DDIM ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [None, 4, [10, 7, 1, 0]])
def test_ddim_variance_is_the_exact_recursion(eta, steps):
    gen = torch.Generator().manual_seed(0)
    n = 200_000
    x_T = torch.randn(n, generator=gen, dtype=torch.float64)
    *_, last = ddim(DIFFUSION, ORACLE, x_T, steps, eta, generator=gen)
    bars, variance = DIFFUSION.schedule.alpha_bars.tolist(), 1.0
    for t, s in pairwise(DIFFUSION.schedule.steps(steps)):
        gain = math.sqrt(bars[t]) * VAR_0 / (bars[t] * VAR_0 + 1 - bars[t])  # E[x_0 | x_t] = gain x_t
        noise = (1 - math.sqrt(bars[t]) * gain) / math.sqrt(1 - bars[t])  # E[ε | x_t] = noise x_t
        sigma2 = eta**2 * (1 - bars[s]) / (1 - bars[t]) * (1 - bars[t] / bars[s])
        variance *= (math.sqrt(bars[s]) * gain + math.sqrt(1 - bars[s] - sigma2) * noise) ** 2
        variance += sigma2
    x = last.x_t / math.sqrt(variance)
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - mean) < 5 * math.sqrt(var / n)


def test_ddim_at_eta_1_is_ancestral_with_beta_tilde_and_at_0_draws_nothing():
    x_T = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gens = [torch.Generator().manual_seed(1) for _ in range(2)]
    a = [*ddim(DIFFUSION, ORACLE, x_T, 5, 1.0, clip=0.7, generator=gens[0])]
    b = [*ancestral(DIFFUSION, ORACLE, x_T, 5, DIFFUSION.sigma2_beta_tilde, clip=0.7, generator=gens[1])]
    assert all(torch.allclose(p.x_t, q.x_t, atol=1e-13) and p.t == q.t for p, q in zip(a, b)) and len(a) == 6
    before = torch.get_rng_state()
    *_, last = ddim(DIFFUSION, ORACLE, x_T)
    assert torch.equal(torch.get_rng_state(), before) and torch.isfinite(last.x_t).all()


def test_ddim_refuses():
    x_T = torch.zeros(2)
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="eta"):
            ddim(DIFFUSION, ORACLE, x_T, eta=eta)
    with pytest.raises(ValueError, match="steps"):
        ddim(DIFFUSION, ORACLE, x_T, [5, 5, 0])


# Half precision -----------------------------------------------------------------------------------------------------


def test_ddim_refuses_what_it_cannot_honour_before_the_first_step():
    for eta in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"eta = .* is outside \[0, 1\]"):
            ddim(DIFFUSION, ORACLE, torch.zeros(2), eta=eta)
    for steps, message in (([10, 5], "end in 0"), ([10, 4, 6, 0], "strictly decreasing"), ([11, 0], "at most at T = 10")):
        with pytest.raises(ValueError, match=message):
            ddim(DIFFUSION, ORACLE, torch.zeros(2), steps)


BARS = [math.prod(1 - b for b in DIFFUSION.schedule.betas.tolist()[: t + 1]) for t in range(11)]


def up_by_hand(x, visited, rounds):
    """Moves upwards for N(0, VAR_0) data: x_t = √ᾱ_t x̂_0 + √(1-ᾱ_t) ε̂, x̂_0 read from x_s with the ε̂ of t, in plain floats."""
    for s, t in pairwise(visited):
        x_t = x
        for _ in range(rounds):
            eps = math.sqrt(1 - BARS[t]) * x_t / (BARS[t] * VAR_0 + 1 - BARS[t])
            x_t = math.sqrt(BARS[t]) * (x - math.sqrt(1 - BARS[s]) * eps) / math.sqrt(BARS[s]) + math.sqrt(1 - BARS[t]) * eps
        x = x_t
    return x


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("steps, visited", [(None, range(11)), (3, [0, 3, 7, 10]), ([0, 1, 6], [0, 1, 6])])
def test_ddim_invert_is_the_move_read_upwards(steps, visited, rounds):
    asked = []

    def net(x, t):
        asked.append(int(t[0]))
        return ORACLE(x, t)

    x_0 = torch.tensor([-1.0, 0.4, 2.0], dtype=torch.float64)
    walk = list(ddim_invert(DIFFUSION, net, x_0, steps, rounds))
    assert [step.t for step in walk] == list(visited)
    assert asked == [t for t in list(visited)[1:] for _ in range(rounds)]  # never at 0
    assert torch.equal(walk[0].x_t, x_0) and torch.equal(walk[0].x_0_hat, x_0) and torch.equal(walk[1].x_0_hat, x_0)
    assert walk[-1].x_t.tolist() == pytest.approx([up_by_hand(x, visited, rounds) for x in x_0.tolist()], abs=1e-12)


def test_enough_rounds_are_the_exact_inverse_and_one_is_of_first_order():
    diffusion = GaussianDiffusion(NoiseSchedule.linear(800, 1e-4, 0.02))
    modes = Oracle(GaussianMixture([0.4, 0.6], [[-1.0, 0.5], [0.8, 0.0]], [0.2, 0.3]), diffusion)
    x_0 = modes.data.sample(6, torch.Generator().manual_seed(0))
    errors = {}
    for n, rounds in ((100, 1), (200, 1), (400, 1), (200, 40)):
        *_, top = ddim_invert(diffusion, modes, x_0, n, rounds)
        *_, back = ddim(diffusion, modes, top.x_t, n)
        errors[n, rounds] = float((back.x_t - x_0).abs().max())
    assert errors[200, 40] < 1e-9
    assert errors[100, 1] / errors[200, 1] == pytest.approx(2, rel=0.3)
    assert errors[200, 1] / errors[400, 1] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"steps": [10, 5, 0]}, ValueError, "start at 0 and be strictly increasing"),
        ({"steps": [1, 5]}, ValueError, "start at 0"),
        ({"steps": [0, 5, 5]}, ValueError, "strictly increasing"),
        ({"steps": [0, 11]}, ValueError, "at most T = 10"),
        ({"steps": [0]}, ValueError, "start at 0"),
        ({"steps": 11}, ValueError, "steps = 11"),
        ({"rounds": 0}, ValueError, "rounds = 0"),
        ({"x_0": torch.tensor([1])}, TypeError, "x_0 has dtype"),
    ],
)
def test_ddim_invert_refuses_before_the_first_step(kwargs, error, message):
    with pytest.raises(error, match=message):
        ddim_invert(DIFFUSION, ORACLE, **{"x_0": torch.zeros(2), **kwargs})


def test_slerp_turns_in_the_plane_and_keeps_lengths():
    x, y = torch.tensor([[2.0, 0.0], [0.0, 3.0]]).double(), torch.tensor([[0.0, 2.0], [0.0, 3.0]]).double()
    for share in (0.0, 0.25, 1.0):
        angle = math.pi / 2 * share
        want = [[2 * math.cos(angle), 2 * math.sin(angle)], [0.0, 3.0]]  # equal vectors stay
        assert torch.allclose(slerp(x, y, share), torch.tensor(want).double(), atol=1e-12)
    gen = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 12, generator=gen, dtype=torch.float64)) for _ in range(2))
    shares = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0]).double()
    c = slerp(a.reshape(5, 3, 2, 2), b.reshape(5, 3, 2, 2), shares).flatten(1)
    assert torch.allclose(c.norm(dim=1), torch.ones(5).double(), atol=1e-12)
    whole, part = (torch.acos((a * z).sum(1)) for z in (b, c))
    assert torch.allclose(part, shares * whole, atol=1e-7)


@pytest.mark.parametrize(
    "x, y, share, message",
    [
        (torch.ones(2, 3), torch.ones(2, 4), 0.5, "must both have shape"),
        (torch.ones(3), torch.ones(3), 0.5, "must both have shape"),
        (torch.ones(2, 3), torch.ones(2, 3), 1.5, "share must be a number"),
        (torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0.1, 0.2, 0.3]), "one for each of the 2 samples"),
        (torch.zeros(1, 3), torch.ones(1, 3), 0.5, "must not be 0"),
        (torch.ones(1, 3), -torch.ones(1, 3), 0.5, "opposite directions"),
    ],
)
def test_slerp_refuses(x, y, share, message):
    with pytest.raises(ValueError, match=message):
        slerp(x, y, share)


def test_autocast_rounds_like_bfloat16_and_is_blind_at_small_t():
    """Away from t = 0 the noise prediction hardly moves; where the noise is finer than 8 bits it does: as documented."""
    network, card = weights.load(weights.shipped("digits"))
    diffusion = TrainConfig(**card["config"]).diffusion()
    x_0, generator = data.digits()[torch.arange(32)], torch.Generator().manual_seed(0)
    off = {}
    for t in (1, 500, 1000):
        x_t = diffusion.q_sample(x_0, t, torch.randn(x_0.shape, generator=generator))
        with torch.no_grad():
            exact, rough = (m(x_t, torch.full((32,), t)) for m in (network, autocast(network)))
        assert rough.dtype == torch.float32
        off[t] = float((rough - exact).norm() / exact.norm())
    assert 0 < off[500] < 0.01 and 0 < off[1000] < 0.01 and off[1] > 0.05


def test_autocast_passes_on_classes_and_refuses_other_types():
    network = UNet(size=4, channels=1, base=8, multipliers=(1,), blocks=1, attention=(), classes=3).eval()
    x_t, t, y = torch.randn(2, 1, 4, 4), torch.tensor([5, 5]), torch.tensor([0, 2])
    assert guided(autocast(network), y, 2.0)(x_t, t).shape == x_t.shape
    with pytest.raises(ValueError, match=r"dtype = torch\.float32"):
        autocast(network, torch.float32)


# Defaults, gradients and refusals ----------------------------------------------------------------------------------


def walks(net, score):
    x = torch.zeros(2, 1)
    return [
        ancestral(DIFFUSION, net, x),
        ddim(DIFFUSION, net, x),
        ddim(DIFFUSION, net, x, eta=0.5),
        ddim_invert(DIFFUSION, net, x),
        langevin(lambda x: score(x, 0.0), x, 0.1, 2),
        annealed_langevin(score, x, [1.0, 0.5], 0.1, 2),
        reverse_sde(SDE, score, x, 3),
        probability_flow(SDE, score, x, 3),
    ]


def test_no_walk_builds_a_graph():
    weight = torch.ones((), requires_grad=True)
    for walk in walks(lambda x, t: weight * x, lambda x, t: -weight * x):
        for step in walk:
            assert not any(part.requires_grad for part in step if isinstance(part, torch.Tensor))


def test_defaults():
    net = lambda x, t: x  # noqa: E731
    score = lambda x, t: -x  # noqa: E731
    ancestral_, drawn, still, inverted, _, _, reverse, flow = walks(net, score)
    assert [len(list(walk)) for walk in (ancestral_, drawn, still, inverted, reverse, flow)] == [11, 11, 11, 11, 4, 4]
    assert len(list(probability_flow(SDE, score, torch.zeros(1)))) == 51
    assert len(list(reverse_sde(SDE, score, torch.zeros(1)))) == 1001
    asked = []
    list(ddim_invert(DIFFUSION, lambda x, t: asked.append(int(t[0])) or x, torch.zeros(1)))
    assert asked == list(range(1, 11))  # one round


def seeds(n):
    return [torch.Generator().manual_seed(4) for _ in range(n)]


def test_reverse_sde_by_hand_with_its_defaults_and_with_corrections():
    x_1 = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for corrections, ratio in ((0, None), (2, None), (1, 0.4)):
        gen, other = seeds(2)
        kwargs = {} if ratio is None else {"ratio": ratio}
        walk = [*reverse_sde(SDE, NORMAL, x_1, [1.0, 0.6, 0.2, 0.0], corrections=corrections, generator=gen, **kwargs)]
        x, gamma_ratio = x_1, 0.1 if ratio is None else ratio
        for (t, s), step in zip(pairwise([1.0, 0.6, 0.2, 0.0]), walk[1:]):
            v, beta = variance_of(t)
            z = torch.randn(5, generator=other, dtype=torch.float64)
            x = x - (t - s) * (-beta * x / 2 + beta * x / v) + math.sqrt(beta * (t - s)) * z
            if s > 0:  # never at 0, where the data may have no score
                gamma = gamma_ratio * (1 - math.exp(-(0.2 * s + 2.9 * s * s)))
                for _ in range(corrections):
                    z = torch.randn(5, generator=other, dtype=torch.float64)
                    x = x - gamma * x / variance_of(s)[0] + math.sqrt(2 * gamma) * z
            assert torch.allclose(step.x_t, x, atol=1e-12)
        assert walk[-1].x_0_hat is walk[-1].x_t


def test_no_noise_no_draw_and_no_score_at_0():
    x, asked = torch.ones(3, dtype=torch.float64), []
    before = torch.get_rng_state()

    def score(x, t):
        asked.append(t)
        return NORMAL(x, t)

    *_, last = reverse_sde(SDE, score, x, 2, eta=0.0)
    assert asked == [1.0, 0.5] and last.x_0_hat is last.x_t
    list(probability_flow(SDE, score, x, [0.3, 0.6]))
    assert asked == [1.0, 0.5, 0.3, 0.6, 0.6]  # Heun's two, and the estimate at the end
    assert torch.equal(torch.get_rng_state(), before)


def test_langevin_by_hand_and_without_a_move():
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    gen, other = seeds(2)
    z = torch.randn(1, 2, generator=other, dtype=torch.float64)
    *_, last = langevin(lambda x: -3 * x, x, 0.1, 1, generator=gen)
    assert torch.allclose(last.x, 0.7 * x + math.sqrt(0.2) * z, atol=1e-15)
    assert [(step.k, step.sigma) for step in langevin(lambda x: -x, x, 0.1, 0)] == [(0, 0.0)]
    with pytest.raises(ValueError, match="after 1 moves x is not finite"):
        list(langevin(lambda x: x * math.inf, x, 0.1, 3))
    assert len(list(langevin(lambda x: -x, x, 0.1, 1, curvature=1))) == 2


def test_annealing_may_go_as_far_as_the_stability_bound_at_every_level():
    x = torch.zeros(3, 2, dtype=torch.float64)
    assert len(list(annealed_langevin(lambda x, sigma: -x / sigma**2, x, [3.0, 0.1], 1.9, 2))) == 5
    assert len(list(annealed_langevin(lambda x, sigma: -x / sigma**2, x, (1,), 0.5, 1))) == 2


def test_slerp_at_small_and_wide_angles_by_trigonometry():
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for angle in (0.001, 0.5, math.pi - 0.5, math.pi - 0.01):
        y = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        got = slerp(x, y, 0.3)[0].tolist()
        assert got == pytest.approx([math.cos(0.3 * angle), math.sin(0.3 * angle)], abs=1e-9)
    assert slerp(2 * x, 4 * x, torch.tensor(0.25)).tolist() == [[2.5, 0.0]]  # the plain mixture
    both = slerp(torch.cat([x, x]), torch.cat([x, -x.flip(1)]), torch.tensor([0.5, 0.5]).double())
    assert both.tolist() == [[1.0, 0.0], pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])]


def test_autocast_keeps_the_configuration_and_takes_both_half_precisions():
    def network(x, *rest):
        return (x @ torch.ones(2, 2)) * (1 + len(rest))

    network.config = {"classes": 3}
    assert autocast(network).config == {"classes": 3} and autocast(lambda x, t: x).config == {}
    x = torch.full((1, 2), 1 + 2.0**-10)  # one digit more than bfloat16 has
    assert autocast(network)(x, None).tolist() == [[4.0, 4.0]] and autocast(network)(x, None).dtype == torch.float32
    assert autocast(network, torch.float16)(x, None)[0, 0] == 4 * (1 + 2.0**-10)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: ancestral(DIFFUSION, ORACLE, x, clip=-1.0), ValueError, "clip = -1.0"),
        (lambda x: ancestral(DIFFUSION, ORACLE, x, clip=0.0), ValueError, "clip = 0.0"),
        (lambda x: ancestral(DIFFUSION, None, x), TypeError, "eps_model must be a function"),
        (lambda x: ancestral(DIFFUSION, ORACLE, x, sigma2=0.1), TypeError, "sigma2 must be a function"),
        (lambda x: ancestral(DIFFUSION, ORACLE, x[0]), ValueError, "x_T must have a batch axis"),
        (lambda x: ddim(DIFFUSION, ORACLE, x, clip=0.0), ValueError, "clip = 0.0"),
        (lambda x: ddim(DIFFUSION, None, x), TypeError, "eps_model must be a function"),
        (lambda x: ddim(DIFFUSION, ORACLE, x.long()), TypeError, "x_T has dtype"),
        (lambda x: ddim_invert(DIFFUSION, None, x), TypeError, "eps_model must be a function"),
        (lambda x: ddim_invert(DIFFUSION, ORACLE, x, [-1, 5]), ValueError, "start at 0"),
        (lambda x: ddim_invert(DIFFUSION, ORACLE, x, [0, 2.5]), TypeError, "steps"),
        (lambda x: langevin(None, x, 0.1, 1), TypeError, "score must be a function"),
        (lambda x: langevin(torch.sin, x, math.inf, 1), ValueError, "gamma = inf"),
        (lambda x: langevin(torch.sin, x, 0.1, 1, curvature=0.0), ValueError, "curvature = 0.0"),
        (lambda x: annealed_langevin(None, x, [1.0], 0.1, 1), TypeError, "score must be a function"),
        (lambda x: annealed_langevin(torch.sin, x, [1.0, 2.0], 0.1, 1), ValueError, "fall at every place"),
        (lambda x: annealed_langevin(torch.sin, x, [math.inf], 0.1, 1), ValueError, r"sigmas\[0\] = inf"),
        (lambda x: annealed_langevin(torch.sin, x.long(), [1.0], 0.1, 1), TypeError, "x has dtype"),
        (lambda x: reverse_sde(SDE, NORMAL, x, [0.5, 1.0]), ValueError, "steps must go down.* from 0.5 to 1.0"),
        (lambda x: reverse_sde(SDE, NORMAL, x, eta=math.inf), ValueError, "eta = inf"),
        (lambda x: reverse_sde(SDE, NORMAL, x, ratio=0.0), ValueError, "ratio = 0.0"),
        (lambda x: probability_flow(SDE, None, x), TypeError, "score must be a function"),
        (lambda x: slerp(x.long(), x, 0.5), TypeError, "x has dtype"),
        (lambda x: slerp(x[:, None] + 1, x[:, None].long(), 0.5), TypeError, "y has dtype"),
        (lambda x: slerp(x[:, None] + 1, x[:, None] + 1, -0.1), ValueError, "share must be a number"),
        (lambda x: slerp(x[:, None] + 1, x[:, None] + 1, torch.zeros(2, 1)), ValueError, "share must be a number"),
        (lambda x: slerp(x[:, None] + 1, x[:, None], 0.5), ValueError, "must not be 0"),
    ],
)
def test_all_is_refused_before_the_first_step(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(2))


# Edges that small edits of the code would move ------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [20, 90, 130])
def test_slerp_of_different_lengths_by_trigonometry(degrees):
    """θ is an angle: lengths do not enter it. Both vectors turned by hand in the plane, one 3 long and one 5."""
    theta = math.radians(degrees)
    x, y = torch.tensor([[[3, 0]], [[5 * math.cos(theta), 5 * math.sin(theta)]]], dtype=torch.float64)
    of_x, of_y = (math.sin(part * theta) / math.sin(theta) for part in (0.7, 0.3))
    want = [3 * of_x + 5 * of_y * math.cos(theta), 5 * of_y * math.sin(theta)]
    assert slerp(x, y, 0.3)[0].tolist() == pytest.approx(want, rel=1e-12)


def test_slerp_of_a_vector_with_itself_when_its_cosine_is_rounded_above_one():
    x = torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    cosine = (x * x).sum(1) / x.norm(dim=1) ** 2
    assert (cosine > 1).any()  # else this tests nothing
    torch.testing.assert_close(slerp(x, x, 0.3), x)
    for row in x[cosine > 1][:5]:
        with pytest.raises(ValueError, match="opposite directions"):
            slerp(row[None], -row[None], 0.3)


def test_steps_upwards_may_be_one_move_to_the_end_and_no_further():
    x = torch.zeros(1, dtype=torch.float64)
    assert [step.t for step in ddim_invert(DIFFUSION, ORACLE, x, steps=[0, 10])] == [0, 10]
    for steps in ([0, 5, 11], [0, 11], [0]):
        with pytest.raises(ValueError, match="steps must start at 0"):
            [*ddim_invert(DIFFUSION, ORACLE, x, steps=steps)]


def test_noise_is_drawn_in_the_precision_of_the_state():
    x = torch.zeros(3, 2, dtype=torch.float64)
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    *_, last = langevin(lambda x: -x, x, 0.5, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(last.x, math.sqrt(2 * 0.5) * z, rtol=1e-12, atol=0)
    sde = VPSDE()
    *_, last = reverse_sde(sde, lambda x, t: 0 * x, x, steps=[1.0, 0.5], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(last.x_t, math.sqrt(float(sde.beta(1.0)) * 0.5) * z, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["ancestral", "ddim", "reverse_sde", "probability_flow"])
def test_what_is_done_to_a_yielded_estimate_does_not_reach_the_sampler(name):
    """Clamp x̂_0 and x_t in place while looking at them: the next state was decided before."""
    x, g = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), torch.Generator()

    def walk():
        g.manual_seed(2)
        if name in ("ancestral", "ddim"):
            own = {"eta": 0.5} if name == "ddim" else {}
            of = ddim if name == "ddim" else ancestral
            return of(DIFFUSION, lambda x_t, t: 0.3 * x_t, x.clone(), 5, generator=g, **own)
        if name == "reverse_sde":
            return reverse_sde(VPSDE(), lambda x_t, t: -0.5 * x_t, x.clone(), 5, generator=g)
        return probability_flow(VPSDE(), lambda x_t, t: -0.5 * x_t, x.clone(), 5)

    *_, left = walk()
    for step in walk():
        kept = step.x_t.clone()
        step.x_0_hat.clamp_(-0.1, 0.1), step.x_t.clamp_(-0.1, 0.1)
    assert torch.equal(kept, left.x_t)
