"""Our processes and samplers against diffusers' schedulers, over random data, steps, schedules and options.

Where the two conventions differ, and what is done about it:

- Their timestep k counts from 0: it is our step k + 1, and their end, k = -1, is our step 0, with ᾱ = 1. DDIM must be told
  so (`set_alpha_to_one`, its default). Wuerstchen's ends at ᾱ = 0.9999: only single steps are compared.
- Their spacings take T/n or round it; here each scheduler is given its list, or an n that divides T with "trailing" spacing,
  whose list is ours.
- DDPM's last move draws noise unless its timestep is 0, ours never does: the lists here end with timestep 0.
- Their tables are float32; they are overwritten with float64 ones, so that 1e-9 can be asked for, and compared by themselves.
  The solvers in σ round every state to float32, and are held to that.
- DDIM clips x̂_0 but keeps ε̂, unless `use_clipped_model_output`; ours always lets ε̂ follow.
- Euler's and DPM-Solver's states are x_t/√ᾱ_t or x_t; in both, first order is DDIM, and "ancestral" is DDPM with β̃.

Heun's and the higher orders have no counterpart in the package, whose Heun steps in t and not in σ.
"""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_edu import GaussianDiffusion, NoiseSchedule, ancestral, notation
from ddpm_edu.diffusion import LearnedVariance
from ddpm_edu.samplers import ddim, ddim_invert, reverse_sde
from ddpm_edu.sde import VPSDE
from ddpm_edu.snr import eps_model_from_v, eps_model_from_x0

quick = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
KINDS = {"linear": NoiseSchedule.linear, "scaled_linear": NoiseSchedule.quadratic, "squaredcos_cap_v2": NoiseSchedule.cosine}


@st.composite
def processes(draw, largest=40, kinds=tuple(KINDS), multiple=1):
    """(our diffusion, the same in their words), T from 1 on."""
    T, kind = draw(st.integers(1, largest)) * multiple, draw(st.sampled_from(kinds))
    low, high = draw(st.floats(1e-4, 0.02)), draw(st.floats(0.02, 0.3))
    ours = NoiseSchedule.cosine(T) if kind == "squaredcos_cap_v2" else KINDS[kind](T, low, high)
    return GaussianDiffusion(ours), dict(num_train_timesteps=T, beta_start=low, beta_end=high, beta_schedule=kind)


def precise(scheduler, diffusion):
    """Their scheduler with its tables in float64, made from the same β."""
    one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.betas = diffusion.schedule.betas[1:].clone()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = scheduler.final_alpha_cumprod = scheduler.initial_alpha_cumprod = one
    return scheduler


def images(seed, dtype=torch.float64):
    return torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(x, t):
    """A stand-in that depends on every value and on t, the step from 1 on."""
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(0.8 * x + 0.1 * t.sin()) + 0.1 * x.flip(-1)


def as_eps_model(kind, diffusion):
    of = {"epsilon": lambda d, f: f, "sample": eps_model_from_x0, "v_prediction": eps_model_from_v}
    return of[kind](diffusion, network)


def close(got, want, tolerance=1e-9):
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


def some_steps(data, T):
    """A random list of our steps that ends in 1, 0."""
    middle = data.draw(st.sets(st.integers(1, T), max_size=6), label="steps")
    return [*sorted(middle | {1}, reverse=True), 0]


# Tables and the forward process -----------------------------------------------------------------------------------


@quick
@given(processes(largest=300))
def test_tables(process):
    diffusion, words = process
    theirs = DDPMScheduler(**words)
    torch.testing.assert_close(diffusion.schedule.betas[1:], theirs.betas.double(), rtol=1e-5, atol=1e-8)
    again = NoiseSchedule.from_betas(theirs.betas)
    close(again.alpha_bars[1:], theirs.alphas_cumprod, tolerance=1e-4)


@quick
@given(processes(), seeds, st.data())
def test_noising_and_v(process, seed, data):
    diffusion, words = process
    t = torch.tensor(data.draw(st.lists(st.integers(1, diffusion.T), min_size=2, max_size=2)))
    x_0, eps = images(seed), images(seed + 1)
    theirs = precise(DDPMScheduler(**words), diffusion)
    close(diffusion.q_sample(x_0, t, eps), theirs.add_noise(x_0, eps, t - 1), 1e-12)
    close(diffusion.v_from_x0_eps(x_0, eps, t), theirs.get_velocity(x_0, eps, t - 1), 1e-12)


# DDPM -------------------------------------------------------------------------------------------------------------


@quick
@given(
    processes(), seeds, st.data(), st.sampled_from(["epsilon", "sample", "v_prediction"]),
    st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large", "learned_range"]),
    st.one_of(st.none(), st.floats(0.2, 3)),
)  # fmt: skip
def test_ddpm_walks(process, seed, data, kind, variance, clip):
    """All steps of a random list, with the same noises; T = 1 too."""
    diffusion, words = process
    steps, x = some_steps(data, diffusion.T), images(seed)
    options = dict(prediction_type=kind, variance_type=variance, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    theirs = precise(DDPMScheduler(**words, **options), diffusion)
    theirs.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    v = lambda x: torch.sigmoid(x - 0.3)  # noqa: E731  # a learned variance, in 0..1

    eps_model, generator = as_eps_model(kind, diffusion), torch.Generator().manual_seed(seed)
    sigma2 = {"fixed_large": diffusion.sigma2_beta}.get(variance, diffusion.sigma2_beta_tilde)
    if variance == "learned_range":
        learned = LearnedVariance(diffusion, lambda x, t, e=eps_model: torch.cat([e(x, t), v(x)], 1))
        eps_model, sigma2 = learned.eps_model, learned.sigma2
    walk = list(ancestral(diffusion, eps_model, x, steps, sigma2, clip, generator))

    generator = torch.Generator().manual_seed(seed)
    for step, after in pairwise(walk):
        output = network(x, step.t)
        if variance == "learned_range":
            output = torch.cat([output, 2 * v(x) - 1], 1)  # theirs runs from -1 to 1
        answer = theirs.step(output, step.t - 1, x, generator=generator)
        close(step.x_0_hat, answer.pred_original_sample)
        x = answer.prev_sample
        close(after.x_t, x)


@quick
@given(seeds, st.floats(0.02, 0.98), st.floats(0.005, 0.6))
def test_one_step_of_wuerstchens_ddpm(seed, ratio, stride):
    """Its ᾱ is a cosine in continuous time, read off at two times: a schedule of two steps for us."""
    before = max(ratio - stride, 0.004)
    theirs = DDPMWuerstchenScheduler()
    theirs.timesteps = torch.tensor([ratio, before], dtype=torch.float64)
    theirs.s, theirs._init_alpha_cumprod = theirs.s.double(), torch.cos(theirs.s.double() / (1 + theirs.s) * math.pi / 2) ** 2
    bars = [float(theirs._alpha_cumprod(torch.tensor([u], dtype=torch.float64), "cpu")) for u in (before, ratio)]
    diffusion, x = GaussianDiffusion(NoiseSchedule.from_alpha_bars(bars)), images(seed)
    eps = network(x, 7)
    at = torch.full((2,), ratio, dtype=torch.float64)
    want = theirs.step(eps, at, x, generator=torch.Generator().manual_seed(seed)).prev_sample
    *_, (_, got, _), _ = ancestral(
        diffusion, lambda x, t: eps, x, [2, 1, 0], diffusion.sigma2_beta_tilde, generator=torch.Generator().manual_seed(seed)
    )  # fmt: skip
    close(got, want, 1e-7)  # its noise factors are partly float32
    close(diffusion.mean_from_eps(x, eps, 2), diffusion.p_mean_variance(lambda x, t: eps, x, 2)[0].mean)


# DDIM, there and back ---------------------------------------------------------------------------------------------

numbers_of_steps = st.integers(1, 6)


@quick
@given(
    st.data(), numbers_of_steps, seeds, st.floats(0, 1), st.sampled_from(["epsilon", "sample", "v_prediction"]),
    st.one_of(st.none(), st.floats(0.2, 3)),
)  # fmt: skip
def test_ddim_walks(data, n, seed, eta, kind, clip):
    diffusion, words = data.draw(processes(largest=7, multiple=n))
    options = dict(prediction_type=kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    theirs = precise(DDIMScheduler(**words, **options, timestep_spacing="trailing"), diffusion)
    theirs.set_timesteps(n)
    assert [*(theirs.timesteps + 1).tolist(), 0] == diffusion.schedule.steps(n)
    x, generator = images(seed), torch.Generator().manual_seed(seed)
    walk = list(ddim(diffusion, as_eps_model(kind, diffusion), x, n, eta, clip, torch.Generator().manual_seed(seed)))
    for step, after in pairwise(walk):
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype) if eta > 0 and after.t > 0 else torch.zeros_like(x)
        answer = theirs.step(
            network(x, step.t), step.t - 1, x, eta=eta, use_clipped_model_output=True, variance_noise=z if eta > 0 else None
        )
        close(step.x_0_hat, answer.pred_original_sample)
        x = answer.prev_sample
        close(after.x_t, x)


@quick
@given(st.data(), numbers_of_steps, seeds)
def test_ddim_inversion(data, n, seed):
    """Their network, too, is asked at the step that is walked to."""
    diffusion, words = data.draw(processes(largest=7, multiple=n))
    theirs = precise(DDIMInverseScheduler(**words, clip_sample=False, timestep_spacing="trailing"), diffusion)
    theirs.set_timesteps(n)
    x = images(seed)
    walk = list(ddim_invert(diffusion, network, x, n))
    assert [step.t for step in walk] == [0, *(theirs.timesteps + 1).tolist()]
    for step, timestep in zip(walk[1:], theirs.timesteps.tolist()):
        answer = theirs.step(network(x, step.t), timestep, x)
        close(step.x_0_hat, answer.pred_original_sample)
        x = answer.prev_sample
        close(step.x_t, x)


# Solvers in σ, of first order -------------------------------------------------------------------------------------

SINGLE = 3e-4  # these round each state to float32, and σ too
mild = processes(largest=30, kinds=("linear", "scaled_linear"))


def walk_in_sigma(theirs, x, **given_to_step):
    """Their walk from x_T, in their states; the network is asked at whole steps."""
    for timestep in theirs.timesteps:
        scaled = theirs.scale_model_input(x, timestep)
        x = theirs.step(network(scaled, int(timestep) + 1), timestep, x, **given_to_step).prev_sample
    return x


@quick
@given(mild, seeds, st.data(), st.sampled_from(["epsilon", "v_prediction"]))
def test_euler_in_sigma_is_ddim(process, seed, data, kind):
    diffusion, words = process
    steps, x_T = some_steps(data, diffusion.T), images(seed, torch.float32)
    theirs = EulerDiscreteScheduler(**words, prediction_type=kind)
    theirs.set_timesteps(timesteps=[float(t - 1) for t in steps[:-1]])
    levels = notation.edm_from_alpha_bar(diffusion.schedule.alpha_bars[steps])
    close(levels.sigma, theirs.sigmas, SINGLE)
    *_, last = ddim(diffusion, as_eps_model(kind, diffusion), x_T, steps)
    close(last.x_t, walk_in_sigma(theirs, x_T / levels.scale[0].float()), SINGLE)


@quick
@given(mild, seeds, st.integers(1, 6))
def test_ancestral_euler_in_sigma_is_ddpm(process, seed, n):
    """With β̃: σ_up² = σ_s² (σ_t² - σ_s²)/σ_t² is β̃/ᾱ_s."""
    diffusion, words = process
    n = max(k for k in range(1, n + 1) if diffusion.T % k == 0)
    theirs = EulerAncestralDiscreteScheduler(**words, timestep_spacing="trailing")
    theirs.set_timesteps(n)
    x_T, scale = images(seed, torch.float32), float(diffusion.schedule.alpha_bars[-1].sqrt())
    *_, last = ancestral(diffusion, network, x_T, n, diffusion.sigma2_beta_tilde, generator=torch.Generator().manual_seed(seed))
    close(last.x_t, walk_in_sigma(theirs, x_T / scale, generator=torch.Generator().manual_seed(seed)), SINGLE)


@pytest.mark.filterwarnings("ignore:.*algorithm_types.*:FutureWarning")
@quick
@given(mild, seeds, st.integers(1, 6), st.sampled_from(["dpmsolver++", "dpmsolver", "unipc", "sde-dpmsolver++"]))
def test_exponential_integrators_of_first_order_are_ddim_and_ddpm(process, seed, n, kind):
    diffusion, words = process
    n = max(k for k in range(1, n + 1) if diffusion.T % k == 0)
    common = dict(**words, solver_order=1, timestep_spacing="trailing", final_sigmas_type="zero")
    if kind == "unipc":
        theirs = UniPCMultistepScheduler(**common, disable_corrector=list(range(n)))
    elif kind == "dpmsolver":  # it refuses the end at σ = 0, where its formula is ∞ · 0: the last move is left out below
        theirs = DPMSolverMultistepScheduler(**{**common, "final_sigmas_type": "sigma_min"}, algorithm_type=kind)
    else:
        theirs = DPMSolverMultistepScheduler(**common, algorithm_type=kind)
    theirs.set_timesteps(n)
    x = images(seed, torch.float32)
    noise, generator = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    if kind == "sde-dpmsolver++":
        walk = list(ancestral(diffusion, network, x, n, diffusion.sigma2_beta_tilde, generator=generator))
    else:
        walk = list(ddim(diffusion, network, x, n))
    assert [*(theirs.timesteps + 1).tolist(), 0] == [step.t for step in walk]
    for step, after in pairwise(walk):
        if kind == "dpmsolver" and after.t == 0:
            break
        options = {} if kind != "sde-dpmsolver++" else dict(
            variance_noise=torch.randn(x.shape, generator=noise) if after.t else torch.zeros_like(x)
        )  # fmt: skip
        x = theirs.step(network(x, step.t), step.t - 1, x, **options).prev_sample
        close(after.x_t, x, SINGLE)


@quick
@given(seeds, st.integers(1, 8), st.floats(0.2, 2), st.floats(2, 20))
def test_edms_euler_is_ddim(seed, n, sigma_data, sigma_max):
    """Its levels σ make a schedule, its bare network F an ε-model; then its walk is DDIM's."""
    theirs = EDMEulerScheduler(sigma_min=0.02, sigma_max=sigma_max, sigma_data=sigma_data)
    theirs.set_timesteps(n)
    F = lambda u, c_noise: network(u, c_noise)  # noqa: E731
    start = images(seed, torch.float32)
    x = start * float(theirs.sigmas[0])
    for timestep in theirs.timesteps:
        x = theirs.step(F(theirs.scale_model_input(x, timestep), timestep), timestep, x).prev_sample
    schedule = NoiseSchedule.from_alpha_bars(notation.alpha_bar_from_sigma(theirs.sigmas[:-1].flip(0)))
    diffusion = GaussianDiffusion(schedule)
    eps_model = notation.eps_model_from_denoiser(diffusion, notation.denoiser_from_network(F, sigma_data))
    x_T = start.double() * theirs.sigmas[0] * float(schedule.alpha_bars[-1].sqrt())
    *_, last = ddim(diffusion, eps_model, x_T)
    close(last.x_t, x, SINGLE)


# Continuous time --------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.floats(0.02, 1), st.integers(20, 2000), st.floats(0.05, 1), st.floats(2, 25))
def test_one_step_of_the_reverse_sde(seed, t, n, beta_min, beta_max):
    theirs = ScoreSdeVpScheduler(beta_min=beta_min, beta_max=beta_max)
    theirs.set_timesteps(n)
    sde, x = VPSDE(beta_min, beta_max), images(seed)
    eps, s = network(x, 3), t - 1 / n
    if s < 0:
        t, s = 1 / n, 0.0
    spread = (1 - sde.alpha_bar(t)).sqrt()
    want, _ = theirs.step_pred(eps, x, torch.tensor(t, dtype=torch.float64), generator=torch.Generator().manual_seed(seed))
    _, (_, got, _) = reverse_sde(sde, lambda x, t: -eps / spread, x, [t, s], generator=torch.Generator().manual_seed(seed))
    close(got, want, 1e-7)  # some of its factors are float32


def test_a_wrong_step_is_seen():
    """The comparison is sharp: with the variance of the other kind, or one step late, the walks part."""
    diffusion, x = GaussianDiffusion(NoiseSchedule.linear(10, 0.01, 0.3)), images(0)
    theirs = precise(DDPMScheduler(10, 0.01, 0.3, clip_sample=False), diffusion)
    theirs.set_timesteps(10)
    want = theirs.step(network(x, 10), 9, x, generator=torch.Generator().manual_seed(0)).prev_sample
    for sigma2, late in ((diffusion.sigma2_beta, 0), (diffusion.sigma2_beta_tilde, 1)):
        moves = ancestral(
            diffusion,
            lambda x, t, late=late: network(x, t - late),
            x,
            sigma2=sigma2,
            generator=torch.Generator().manual_seed(0),
        )
        next(moves)
        with pytest.raises(AssertionError):
            close(next(moves).x_t, want, 1e-3)
