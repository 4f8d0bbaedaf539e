"""Every converter both ways, and against diffusers, sympy and exact oracles."""

import math

import pytest
import sympy as sp
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    UNet2DModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, Oracle, ancestral, notation, weights
from ddpm_edu.routes import density_moments, grid
from ddpm_edu.samplers import ddim

PAPER = NoiseSchedule.linear()
DIFFUSION = GaussianDiffusion(NoiseSchedule.linear(10, 0.1, 0.5))
DATA = GaussianMixture([0.3, 0.7], [-1.2, 0.8], [0.05, 0.10])
ORACLE = Oracle(DATA, DIFFUSION)
close = torch.testing.assert_close


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Noise levels -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(1e-6, 1 - 1e-6))
def test_there_and_back(alpha_bar):
    vdm, edm = notation.vdm_from_alpha_bar(alpha_bar), notation.edm_from_alpha_bar(alpha_bar)
    back = [
        vdm.alpha**2,
        1 - vdm.sigma**2,
        edm.scale**2,
        notation.alpha_bar_from_gamma(vdm.gamma),
        notation.alpha_bar_from_sigma(edm.sigma),
        notation.alpha_bar_from_log_snr(notation.log_snr_from_alpha_bar(alpha_bar)),
        notation.alpha_bar_from_half_log_snr(notation.half_log_snr_from_alpha_bar(alpha_bar)),
    ]
    close(torch.stack(back), torch.full((7,), alpha_bar, dtype=torch.float64), atol=1e-14, rtol=1e-11)


@settings(deadline=None)
@given(st.floats(-14, 14))
def test_back_and_there(level):
    gamma = notation.vdm_from_alpha_bar(notation.alpha_bar_from_gamma(level)).gamma
    sigma = notation.edm_from_alpha_bar(notation.alpha_bar_from_sigma(math.exp(level / 2))).sigma
    log_snr = notation.log_snr_from_alpha_bar(notation.alpha_bar_from_log_snr(level))
    half = notation.half_log_snr_from_alpha_bar(notation.alpha_bar_from_half_log_snr(level / 2))
    want = torch.full((), level, dtype=torch.float64)
    for got in (gamma, 2 * sigma.log(), log_snr, 2 * half):
        close(got, want, atol=1e-8, rtol=0)


def test_levels_are_what_the_papers_define():
    """sympy, from each paper's own definition of its symbols, at ᾱ = 1/5."""
    a = sp.Rational(1, 5)
    gamma = sp.Symbol("gamma", real=True)
    of_vdm = sp.solve(sp.Eq(1 / (1 + sp.exp(-gamma)), 1 - a), gamma)[0]  # σ_t² = sigmoid(γ_t), Kingma 2021, Eq. 3
    sigma = sp.Symbol("sigma", positive=True)
    of_edm = sp.solve(sp.Eq(sp.sqrt(a) * sigma, sp.sqrt(1 - a)), sigma)[0]  # s σ is the noise's deviation in x
    of_solver = sp.log(sp.sqrt(a) / sp.sqrt(1 - a))
    vdm, edm = notation.vdm_from_alpha_bar(0.2), notation.edm_from_alpha_bar(0.2)
    got = [vdm.alpha, vdm.sigma, vdm.gamma, edm.scale, edm.sigma, notation.half_log_snr_from_alpha_bar(0.2)]
    want = [float(x) for x in (sp.sqrt(a), sp.sqrt(1 - a), of_vdm, sp.sqrt(a), of_edm, of_solver)]
    close(torch.stack(got), torch.tensor(want, dtype=torch.float64), atol=1e-14, rtol=0)
    assert float(of_edm) == 2 and float(notation.log_snr_from_alpha_bar(0.2)) == pytest.approx(-math.log(4), abs=1e-14)


def test_a_whole_table_with_its_clean_end():
    tables = notation.vdm_from_alpha_bar(PAPER.alpha_bars), notation.edm_from_alpha_bar(PAPER.alpha_bars)
    assert tables[0].gamma[0] == -math.inf and tables[1].sigma[0] == 0 and tables[0].alpha[0] == tables[1].scale[0] == 1
    assert notation.log_snr_from_alpha_bar(PAPER.alpha_bars)[0] == math.inf
    close(notation.alpha_bar_from_gamma(tables[0].gamma), PAPER.alpha_bars, atol=1e-15, rtol=1e-11)
    close(notation.alpha_bar_from_sigma(tables[1].sigma), PAPER.alpha_bars, atol=1e-15, rtol=1e-11)
    close(notation.alpha_bar_from_log_snr(math.inf), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: notation.vdm_from_alpha_bar(0.0), r"alpha_bar = 0.0 is outside \(0, 1\]"),
        (lambda: notation.edm_from_alpha_bar(torch.tensor([0.5, 1.5])), r"alpha_bar = 1.5 is outside"),
        (lambda: notation.log_snr_from_alpha_bar(math.nan), r"alpha_bar = nan is outside"),
        (lambda: notation.alpha_bar_from_sigma(-1.0), r"sigma = -1.0 is outside \[0, inf\)"),
        (lambda: notation.alpha_bar_from_gamma(math.inf), r"gamma = inf is outside"),
        (lambda: notation.alpha_bar_from_log_snr(-math.inf), r"log_snr = -inf is outside"),
        (lambda: notation.edm_preconditioning(0.0), r"sigma = 0.0 is outside \(0, inf\)"),
        (lambda: notation.edm_preconditioning(1.0, sigma_data=0.0), r"sigma_data = 0.0 is outside"),
        (lambda: notation.timestep_from_t(0, 10), r"t = 0 is outside 1..10"),
        (lambda: notation.t_from_timestep(10, 10), r"timestep = 10 is outside 0..9"),
        (lambda: notation.t_from_timestep(-1, 10), r"timestep = -1 is outside 0..9"),
        (
            lambda: notation.t_from_sigma(80.0, DIFFUSION.schedule),
            r"sigma = 80 is no level of this schedule; the nearest is .*t = 10",
        ),
        (
            lambda: notation.t_from_gamma(-9.0, DIFFUSION.schedule),
            r"gamma = -9 is no level of this schedule; the nearest is .*t = 1",
        ),
    ],
)
def test_refusals(call, error):
    with pytest.raises(ValueError, match=error):
        call()


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="alpha_bar must be a number or a tensor, got str"):
        notation.vdm_from_alpha_bar("0.5")


# Steps ------------------------------------------------------------------------------------------------------------


def test_steps_there_and_back():
    t = torch.arange(1, 11)
    k = notation.timestep_from_t(t, 10)
    assert k.tolist() == list(range(10)) and torch.equal(notation.t_from_timestep(k, 10), t)
    levels = notation.edm_from_alpha_bar(DIFFUSION.schedule.alpha_bars[1:]).sigma
    assert torch.equal(notation.t_from_sigma(levels, DIFFUSION.schedule), t)
    assert torch.equal(notation.t_from_gamma(2 * levels.log(), DIFFUSION.schedule), t)
    assert int(notation.t_from_sigma(float(levels[3]), DIFFUSION.schedule)) == 4


@pytest.mark.parametrize("kind, schedule", [("linear", PAPER), ("scaled_linear", NoiseSchedule.quadratic())])
def test_tables_are_diffusers(kind, schedule):
    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=kind)
    ours = notation.alphas_cumprod_from_schedule(schedule)
    close(ours, theirs.alphas_cumprod.double(), atol=1e-6, rtol=1e-4)
    again = notation.schedule_from_alphas_cumprod(theirs.alphas_cumprod)
    assert again.T == 1000 and again.alpha_bars[0] == 1
    close(again.alpha_bars, schedule.alpha_bars, atol=1e-6, rtol=1e-4)
    assert torch.equal(notation.alphas_cumprod_from_schedule(again), theirs.alphas_cumprod.double())


def test_sigmas_are_those_of_diffusers_euler_scheduler():
    theirs = EulerDiscreteScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="leading")
    theirs.set_timesteps(50)
    t = notation.t_from_sigma(theirs.sigmas[:-1], PAPER)
    assert torch.equal(t, notation.t_from_timestep(theirs.timesteps.long(), 1000))  # noise first, and counted from 0
    ours = notation.edm_from_alpha_bar(PAPER.alpha_bars[[*t.tolist(), 0]]).sigma
    close(ours, theirs.sigmas.double(), atol=0, rtol=3e-4)  # theirs from a float32 table


def test_amplitudes_and_lambda_are_those_of_diffusers_dpm_solver():
    theirs = DPMSolverMultistepScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    vdm = notation.vdm_from_alpha_bar(PAPER.alpha_bars[1:])
    close(vdm.alpha, theirs.alpha_t.double(), atol=0, rtol=1e-4)
    close(vdm.sigma, theirs.sigma_t.double(), atol=0, rtol=1e-4)
    close(notation.half_log_snr_from_alpha_bar(PAPER.alpha_bars[1:]), theirs.lambda_t.double(), atol=2e-4, rtol=0)


# Model outputs ----------------------------------------------------------------------------------------------------


def test_preconditioning_is_diffusers():
    theirs = EDMEulerScheduler(sigma_data=0.5)
    sigma, x, F = torch.tensor(1.7, dtype=torch.float64), normal(4), normal(4, seed=1)
    c = notation.edm_preconditioning(sigma)
    close(c.c_in * x, theirs.precondition_inputs(x, sigma), atol=1e-14, rtol=0)
    close(c.c_noise, theirs.precondition_noise(sigma), atol=1e-14, rtol=0)
    close(c.c_skip * x + c.c_out * F, theirs.precondition_outputs(x, F, sigma), atol=1e-14, rtol=0)
    told = []
    D = notation.denoiser_from_network(lambda u, c_noise: told.append((u, c_noise)) or F.reshape(2, 2))
    got = D(x.reshape(2, 2), sigma)
    close(got, theirs.precondition_outputs(x, F, sigma).reshape(2, 2), atol=1e-14, rtol=0)
    close(told[0][0], theirs.precondition_inputs(x, sigma).reshape(2, 2), atol=1e-14, rtol=0)
    close(told[0][1], theirs.precondition_noise(sigma).expand(2), atol=1e-14, rtol=0)


def test_with_unit_data_edms_bare_network_is_minus_v():
    x_t, eps, t = normal(6), normal(6, seed=2), 4
    x_0, v = DIFFUSION.x0_from_eps(x_t, eps, t), DIFFUSION.v_from_x0_eps(DIFFUSION.x0_from_eps(x_t, eps, t), eps, t)
    scale, sigma = notation.edm_from_alpha_bar(DIFFUSION.schedule.alpha_bars[t])
    c = notation.edm_preconditioning(sigma, sigma_data=1.0)
    close(c.c_skip * (x_t / scale) - c.c_out * v, x_0, atol=1e-12, rtol=0)
    close(c.c_in * (x_t / scale), x_t, atol=1e-12, rtol=0)


def test_the_denoiser_is_the_posterior_mean():
    """D(x; σ) = E[x_0 | x_0 + σ ε], by Bayes' rule on a grid that knows nothing of ᾱ."""
    D = notation.denoiser_from_eps_model(DIFFUSION, ORACLE)
    fine = grid(-6, 6)
    for t in (1, 4, 10):
        sigma = float(notation.edm_from_alpha_bar(DIFFUSION.schedule.alpha_bars[t]).sigma)
        x = torch.tensor([-1.5, 0.2, 1.1], dtype=torch.float64)
        law = [lambda y, x=x_i, sigma=sigma: DATA.log_prob(y) - 0.5 * ((x - y) / sigma) ** 2 for x_i in x]
        close(D(x, sigma), torch.stack([density_moments(log_p, fine)[1] for log_p in law]), atol=1e-9, rtol=0)


def test_models_there_and_back():
    x, t = normal(10, seed=3), torch.arange(1, 11)
    for there, back in (
        (notation.denoiser_from_eps_model, notation.eps_model_from_denoiser),
        (notation.vdm_model_from_eps_model, notation.eps_model_from_vdm_model),
    ):
        close(back(DIFFUSION, there(DIFFUSION, ORACLE))(x, t), ORACLE(x, t), atol=1e-11, rtol=0)
        one = back(DIFFUSION, there(DIFFUSION, ORACLE))(x, torch.tensor(3))
        close(one, ORACLE(x, 3), atol=1e-11, rtol=0)
    close(
        notation.eps_model_from_diffusers(notation.diffusers_model_from_eps_model(ORACLE))(x, t), ORACLE(x, t), atol=0, rtol=0
    )


def test_vdm_model_is_told_its_own_gamma():
    """Kingma 2021's x̂ = (z - σ ε̂)/α, from γ alone, is the oracle's posterior mean."""
    model = notation.vdm_model_from_eps_model(DIFFUSION, ORACLE)
    z, t = normal(4, seed=4), torch.tensor([1, 3, 7, 10])
    gamma = notation.vdm_from_alpha_bar(DIFFUSION.schedule.alpha_bars[t]).gamma
    alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    close((z - sigma * model(z, gamma)) / alpha, ORACLE.x_0_moments(z, t)[0], atol=1e-10, rtol=0)
    told = []
    notation.eps_model_from_vdm_model(DIFFUSION, lambda z, gamma: told.append(gamma) or z)(z, t)
    close(told[0], gamma, atol=1e-14, rtol=0)


def test_images_and_float32():
    images = normal(3, 1, 2, 2, seed=5).float()
    eps_model = lambda x, t: x * t.reshape(-1, 1, 1, 1)  # noqa: E731
    t = torch.tensor([2, 5, 9])
    back = notation.eps_model_from_denoiser(DIFFUSION, notation.denoiser_from_eps_model(DIFFUSION, eps_model))
    got = back(images, t)
    assert got.dtype == torch.float32 and got.shape == images.shape
    close(got, eps_model(images, t), atol=1e-4, rtol=1e-5)


def test_a_level_for_another_batch_is_refused():
    D = notation.denoiser_from_eps_model(DIFFUSION, ORACLE)
    with pytest.raises(ValueError, match=r"sigma must be a number or have shape \(4,\)"):
        D(normal(4), torch.ones(3))
    with pytest.raises(ValueError, match="is no level of this schedule"):
        D(normal(4), 1.234)
    with pytest.raises(ValueError, match="must have a batch axis"):
        D(torch.tensor(1.0), 1.0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_our_network_in_diffusers_sampler(eta):
    """The same walk in both notations, with the same noises: DDIM, and DDPM with β̃."""
    theirs = DDIMScheduler(10, 0.1, 0.5, clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(10)
    model, x = notation.diffusers_model_from_eps_model(ORACLE), normal(5, seed=6)
    walk = list(ddim(DIFFUSION, ORACLE, x, eta=eta, generator=torch.Generator().manual_seed(7)))
    noise = torch.Generator().manual_seed(7)
    for k in theirs.timesteps:
        z = torch.randn(5, generator=noise, dtype=torch.float64) if eta and k > 0 else torch.zeros(5, dtype=torch.float64)
        x = theirs.step(model(x, k), k, x, eta=eta, variance_noise=z if eta else None).prev_sample
    close(x, walk[-1].x_t, atol=1e-5, rtol=0)


def test_their_network_in_our_sampler():
    torch.manual_seed(0)
    theirs = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    imported = weights.from_diffusers(theirs).eval()  # knows by itself that they count from 0
    x_T = normal(2, 1, 8, 8, seed=8).float()
    with torch.no_grad():
        called, ours = (
            list(ancestral(GaussianDiffusion(PAPER), model, x_T, 3, clip=1.0, generator=torch.Generator().manual_seed(9)))
            for model in (notation.eps_model_from_diffusers(theirs), imported)
        )
    close(called[-1].x_t, ours[-1].x_t, atol=1e-4, rtol=0)


def test_half_a_timestep_is_refused():
    model = notation.diffusers_model_from_eps_model(ORACLE)
    with pytest.raises(ValueError, match=r"timestep = 2.5 is no integer"):
        model(normal(2), torch.tensor(2.5))
