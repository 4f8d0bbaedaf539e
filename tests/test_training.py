"""The training loop: its average against the closed form, exact resume, and what it says when things go wrong."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddpm_edu import data, training, weights
from ddpm_edu.training import (
    PRESETS,
    Checkpoints,
    ImportanceSampler,
    TrainConfig,
    TrainingDiverged,
    TrainState,
    ema_decay,
    fast_precision,
    learning_rate,
    train,
)
from ddpm_edu.weights import WeightsError

NET = {
    "kind": "UNet",
    "size": 8,
    "channels": 1,
    "base": 8,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention": [4],
    "dropout": 0.2,
}
TINY = TrainConfig(
    data="digits",
    network=NET,
    T=50,
    steps=20,
    batch=16,
    lr=1e-2,
    warmup=5,
    lr_decay=True,
    ema_decay=0.9,
    precision="float32",
)
DOTS = {"kind": "MLP", "width": 16, "layers": 1}
POINTS = TrainConfig(data="two_moons", network=DOTS, T=10, steps=12, batch=32, lr=1e-2, warmup=0, precision="float32")


@pytest.fixture(scope="module")
def images():
    return data.load("digits")[:100]  # not a multiple of the batch: epochs leave a rest, and 20 steps span several


def everything(state):
    """All tensors and numbers of a state."""
    tensors = {**state.network.state_dict(), **{f"ema.{k}": v for k, v in state.ema.state_dict().items()}}
    if state.times is not None:
        tensors |= {"times.losses": state.times.losses, "times.seen": state.times.seen}
    for i, of in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in of.items()}
    return tensors, (state.step, state.loss_curve, state._recent, state.config)


def test_resumed_run_is_the_same_run_bit_for_bit(images, tmp_path):
    straight = TrainState(TINY)
    losses = [m.loss for m in train(straight, images)]

    first = TrainState(TINY)
    part = [m.loss for m in train(first, images, until=10)]
    first.save(tmp_path / "state.safetensors")
    torch.manual_seed(12345), torch.randn(7)  # whatever happens in between must not matter
    second = TrainState.load(tmp_path / "state.safetensors")
    part += [m.loss for m in train(second, images)]

    assert part == losses and len(losses) == 20
    tensors, numbers = everything(straight)
    again, same = everything(second)
    assert numbers == same
    assert tensors.keys() == again.keys() and len([k for k in tensors if k.startswith("optimizer")]) > 100
    assert all(torch.equal(tensors[k], again[k]) for k in tensors)


def test_resume_from_every_step_of_a_small_run(tmp_path):
    points = data.toy("two_moons", 70)
    straight = TrainState(POINTS)
    list(train(straight, points))
    for k in range(1, 12):
        state = TrainState(POINTS)
        list(train(state, points, until=k))
        state.save(tmp_path / "state.safetensors")
        state = TrainState.load(tmp_path / "state.safetensors")
        list(train(state, points))
        want, got = everything(straight)[0], everything(state)[0]
        assert want.keys() == got.keys() and all(torch.equal(want[name], got[name]) for name in want), k


VARIED = dataclasses.replace(
    POINTS, network={**DOTS, "learned_variance": True}, T=5, steps=12, loss="hybrid", times="importance"
)  # fills ten losses at each of 5 steps in about 3 batches of 32


@pytest.mark.parametrize("loss", ["hybrid", "vlb"])
def test_resume_with_a_learned_variance_and_importance_sampling(tmp_path, loss):
    points, config = data.toy("two_moons", 70), dataclasses.replace(VARIED, loss=loss)
    straight = TrainState(config)
    list(train(straight, points))
    assert straight.times.seen.min() > 10 and straight.times.probabilities().std() > 0  # no longer uniform
    for k in (1, 2, 3, 6, 11):
        state = TrainState(config)
        list(train(state, points, until=k))
        state.save(tmp_path / "state.safetensors")
        torch.manual_seed(k), torch.randn(7)
        state = TrainState.load(tmp_path / "state.safetensors")
        list(train(state, points))
        want, got = everything(straight)[0], everything(state)[0]
        assert want.keys() == got.keys() and all(torch.equal(want[name], got[name]) for name in want), k
        assert state.loss_curve == straight.loss_curve


def test_a_checkpoint_without_its_losses_is_refused(tmp_path):
    path, state = tmp_path / "state.safetensors", TrainState(VARIED)
    list(train(state, data.toy("two_moons", 70), until=2))
    state.save(path)
    tensors, header = weights.read_tensors(path)
    for lost in ("times.losses", "times.seen"):
        weights.write_tensors(path, {k: v for k, v in tensors.items() if k != lost}, header)
        with pytest.raises(WeightsError, match="lacks the losses seen at each t"):
            TrainState.load(path)


@pytest.mark.parametrize("loss", ["hybrid", "vlb"])
@pytest.mark.parametrize("times", ["uniform", "importance"])
def test_the_step_is_on_the_weighted_mean_of_the_terms(loss, times):
    """Two steps by hand: t by searching the distribution function, the terms by the diffusion, the weights by division."""
    points, config = data.toy("two_moons", 70), dataclasses.replace(VARIED, loss=loss, times=times, clip_grad=math.inf)
    state, plain, diffusion = TrainState(config), TrainState(config), config.diffusion()
    history = {t: [float(t)] * 10 for t in range(1, 6)}
    if times == "importance":
        state.times.losses[:] = torch.arange(1.0, 6.0).double()[:, None]
        state.times.seen[:] = 10
    got = [m.loss for m in train(state, points, until=2)]
    order, optimizer = (
        torch.randperm(70, generator=drawn(0, 0, "order")),
        torch.optim.AdamW(plain.network.parameters(), lr=1e-2, weight_decay=0.0, fused=True),
    )
    for step in range(1, 3):
        x_0 = points[order[32 * (step - 1) : 32 * step]]
        p = torch.tensor([math.sqrt(sum(loss**2 for loss in history[t][-10:]) / 10) for t in range(1, 6)])
        p = 0.999 * p / p.sum() + 0.0002
        t = torch.randint(1, 6, (32,), generator=drawn(0, step, "t"))
        if times == "importance":
            u = torch.rand(32, generator=drawn(0, step, "t"), dtype=torch.float64)
            t = torch.tensor([next(k for k in range(1, 6) if p[:k].sum() > x or k == 5) for x in u])
        weight = 1 / (5 * p[t - 1]) if times == "importance" else torch.ones(32)
        eps = torch.randn(x_0.shape, generator=drawn(0, step, "eps"))
        if loss == "hybrid":
            terms = diffusion.hybrid_term(plain.network, x_0, t, eps, 0.001, None)
        else:
            sigma2 = lambda x, t, s: diffusion.sigma2_interpolated(plain.network(x, t)[:, 2:], x, t, s)  # noqa: E731
            terms = 5 / 2 * diffusion.vlb_term(lambda x, t: plain.network(x, t)[:, :2], x_0, t, eps, sigma2, None)
        optimizer.zero_grad()
        (weight * terms).mean().backward()
        optimizer.step()
        assert got[step - 1] == pytest.approx((weight * terms).mean().item(), rel=1e-5)
        for k, value in zip(t.tolist(), terms.tolist()):
            history[k].append(value)


@pytest.mark.parametrize("pieces", [1, 3])
def test_hybrid_on_images_uses_their_grid_and_their_pieces(pieces):
    config = dataclasses.replace(
        TINY,
        network={**NET, "dropout": 0.0, "learned_variance": True},
        loss="hybrid",
        times="importance",
        T=3,
        accumulate=pieces,
    )
    digits = data.load("digits")
    losses = [m.loss for m in train(TrainState(config), digits, until=6)]
    want = [m.loss for m in train(TrainState(dataclasses.replace(config, accumulate=1)), digits, until=6)]
    assert losses == pytest.approx(want, rel=1e-3)
    rough = [m.loss for m in train(TrainState(config), digits[:], until=1)]  # a plain tensor has no grid: a density
    assert abs(losses[0] - rough[0]) > 1e-3
    state = TrainState(config)
    list(train(state, digits, until=2))
    assert math.isfinite(state.fixed_loss(digits))


def test_the_hybrid_loss_falls_and_v_moves():
    state = TrainState(dataclasses.replace(VARIED, steps=300, T=20, schedule="cosine", times="uniform"))
    list(train(state, data.toy("two_moons", 512)))
    assert state.loss_curve[-1][1] < 0.8 * state.loss_curve[0][1]
    v = state.ema_network(torch.zeros(20, 2), torch.arange(1, 21))[:, 2:]
    assert v.abs().max() > 0.1


@pytest.mark.parametrize("at", ["first.weight", "last.2.bias"])
def test_a_learned_variance_that_diverges_is_told(at):
    state = TrainState(dataclasses.replace(VARIED, loss="hybrid"))
    with torch.no_grad():
        state.network.get_parameter(at).fill_(math.nan)
    points = data.toy("two_moons", 70)
    with pytest.raises(TrainingDiverged, match=r"step 1: \w+ holds 64 value.*values from -\d.* to \d.*learning rate is .*try"):
        list(train(state, points))
    assert state.step == 0 and state.times.seen.sum() == 0


# The importance sampler


def test_uniform_until_ten_losses_are_seen_at_each_t_then_their_root_mean_square():
    sampler, seen = ImportanceSampler(3), {1: [], 2: [], 3: []}
    gen = torch.Generator().manual_seed(0)
    for _ in range(9):
        sampler.update(torch.tensor([1, 2, 3]), torch.rand(3, generator=gen))
    sampler.update(torch.tensor([1, 1, 1, 2]), torch.ones(4))
    assert torch.equal(sampler.probabilities(), torch.full((3,), 1 / 3, dtype=torch.float64))
    sampler.update(torch.tensor([3]), torch.ones(1))
    assert sampler.probabilities().std() > 0
    for _ in range(40):
        t, losses = torch.randint(1, 4, (7,), generator=gen), torch.randn(7, generator=gen, dtype=torch.float64)
        sampler.update(t, losses)
        for k, loss in zip(t.tolist(), losses.tolist()):
            seen[k].append(loss)
    roots = [math.sqrt(sum(loss**2 for loss in seen[k][-10:]) / 10) for k in (1, 2, 3)]
    want = torch.tensor([0.999 * root / sum(roots) + 0.001 / 3 for root in roots], dtype=torch.float64)
    assert torch.allclose(sampler.probabilities(), want, atol=1e-14)


def test_draws_follow_p_and_weights_make_any_mean_right():
    sampler = ImportanceSampler(4, keep=1, floor=0.1)
    sampler.update(torch.tensor([1, 2, 3, 4]), torch.tensor([0.0, 1.0, -2.0, 6.0]))
    p = 0.9 * torch.tensor([0, 1, 2, 6]).double() / 9 + 0.025
    assert torch.allclose(sampler.probabilities(), p)
    t, weights_ = sampler.sample(20_000, torch.Generator().manual_seed(1))
    assert torch.allclose(weights_, 1 / (4 * p[t - 1])) and weights_.max() <= 10
    counts = torch.bincount(t, minlength=5)[1:].double()
    assert ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum() < 21  # χ² with 3 degrees of freedom, p = 1e-4
    for f in (torch.tensor([1.0, 2.0, 3.0, 4.0]).double(), torch.tensor([9.0, 0.0, 0.0, -5.0]).double()):
        assert float((p * f / (4 * p)).sum()) == pytest.approx(float(f.mean()), rel=1e-14)  # over all t, exactly
        x = weights_ * f[t - 1]
        assert abs(float(x.mean() - f.mean())) < 5 * float(x.std()) / 20_000**0.5


def test_the_ends_of_the_distribution_function():
    """u = 0 belongs to t = 1 and the largest u below 1 to t = T, even where the sum of p rounds to less than 1."""
    sampler = ImportanceSampler(7, keep=1)
    sampler.update(torch.arange(1, 8), torch.full((7,), 0.1))
    for u, want in ((0.0, 1), (1 - 2**-53, 7)):
        original = torch.rand
        try:
            torch.rand = lambda *a, **k: torch.tensor([u], dtype=torch.float64)  # noqa: B023
            assert int(sampler.sample(1)[0]) == want
        finally:
            torch.rand = original


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ImportanceSampler(0), ValueError, "T = 0"),
        (lambda: ImportanceSampler(5, keep=0), ValueError, "keep = 0"),
        (lambda: ImportanceSampler(5, floor=1.5), ValueError, "floor = 1.5"),
        (lambda: ImportanceSampler(5).sample(0), ValueError, "n = 0"),
        (lambda: ImportanceSampler(5).update(torch.tensor([0]), torch.ones(1)), ValueError, r"t = values .* outside 1\.\.5"),
        (lambda: ImportanceSampler(5).update(torch.tensor([1, 2]), torch.ones(1)), ValueError, "must have one shape"),
        (lambda: ImportanceSampler(5).update(torch.tensor([1]), torch.tensor([math.nan])), ValueError, "losses holds 1 value"),
        (lambda: ImportanceSampler(5).update(torch.tensor([1]), torch.tensor([1])), TypeError, "losses has dtype"),
    ],
)
def test_importance_sampler_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def drawn(*what):
    """A generator seeded by the hash of a seed, a step and a name: the stream that the shipped weights were trained with."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=7).digest(), "big"))


def test_the_loop_is_algorithm_1_bit_for_bit(images):
    """With its options off the loop does what these few lines do: Algorithm 1, clipping, warm-up, AdamW, and no more."""
    state, plain = TrainState(TINY), TrainState(TINY)
    got = [m.loss for m in train(state, images, until=4)]
    network, alpha_bars, want = plain.network.train(), TINY.diffusion().schedule.alpha_bars, []
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.0, fused=True)
    order = torch.randperm(100, generator=drawn(0, 0, "order"))
    for step in range(1, 5):
        x_0 = images[order[16 * (step - 1) : 16 * step]]
        t = torch.randint(1, 51, (16,), generator=drawn(0, step, "t"))
        eps = torch.randn(x_0.shape, generator=drawn(0, step, "eps"))
        bars = alpha_bars[t].reshape(16, 1, 1, 1)
        with torch.random.fork_rng([]):
            torch.manual_seed(drawn(0, step, "dropout").initial_seed())
            loss = (eps - network(bars.sqrt().float() * x_0 + (1 - bars).sqrt().float() * eps, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 1e-2 * step / 5
        optimizer.step()
        want.append(loss.item())
    assert got == want
    assert all(torch.equal(a, b) for a, b in zip(state.network.parameters(), network.parameters(), strict=True))


def test_seeds_matter_and_the_callers_randomness_is_left_alone(images):
    torch.manual_seed(1)
    want = torch.randn(3)
    torch.manual_seed(1)
    a = [m.loss for m in train(TrainState(TINY), images, until=2)]
    assert torch.equal(torch.randn(3), want)
    b = [m.loss for m in train(TrainState(dataclasses.replace(TINY, seed=1)), images, until=2)]
    assert a[0] != b[0]


def test_every_epoch_shows_every_image_once():
    config = dataclasses.replace(POINTS, batch=5)
    seen = []

    class Spy:
        def __len__(self):
            return 20

        def __getitem__(self, indices):
            seen.append(indices)
            return torch.zeros(len(indices), 2)

    list(train(TrainState(config), Spy(), until=8))
    _, *batches = seen  # the first look is for the shape of an image
    epochs = torch.cat(batches).reshape(2, 20)
    assert torch.equal(epochs.sort().values, torch.arange(20).expand(2, 20))
    assert not torch.equal(epochs[0], epochs[1])


def test_t_is_uniform_on_1_to_T_and_eps_standard_normal():
    """What the loop feeds the network: with x_0 = 0, x_t is √(1-ᾱ_t) ε."""
    config = dataclasses.replace(POINTS, T=5, batch=500, steps=20)
    state = TrainState(config)
    alpha_bars = config.diffusion().schedule.alpha_bars
    ts, eps = [], []
    forward = state.network.forward

    def spy(x_t, t):
        ts.append(t)
        eps.append(x_t / (1 - alpha_bars[t]).sqrt()[:, None].float())
        return forward(x_t, t)

    state.network.forward = spy
    list(train(state, torch.zeros(500, 2)))
    t, eps = torch.cat(ts), torch.cat(eps)
    counts = torch.bincount(t, minlength=6).double()
    assert counts[0] == 0 and len(counts) == 6
    assert ((counts[1:] - 2000) ** 2 / 2000).sum() < 23.5  # χ² with 4 degrees of freedom, p = 1e-4
    n = eps.numel()
    assert abs(eps.mean()) < 5 / n**0.5
    assert abs(eps.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((eps**4).mean() - 3) < 5 * (96 / n) ** 0.5


def test_average_against_its_closed_form():
    """ema_n = Σ_k w_k θ_k with w_k = (1 - d_k) Π_{j>k} d_j; the first average is θ_1 itself."""
    state = TrainState(POINTS)
    history = []
    for _ in train(state, data.toy("two_moons", 64)):
        history.append(state.network.first.weight.detach().clone().double())
    n = len(history)
    decay = [None] + [min(POINTS.ema_decay, (1 + k) / (10 + k)) for k in range(1, n)]  # update k + 1 follows k averages
    want = sum((1.0 if k == 0 else 1 - decay[k]) * math.prod(decay[k + 1 :]) * theta for k, theta in enumerate(history))
    assert torch.allclose(state.ema_network.first.weight.double(), want, atol=1e-6)
    assert (history[-1] - want).abs().max() > 1e-3  # an average, not a copy


def test_decay_starts_short_and_ends_at_the_papers():
    paper = TrainConfig()
    decays = [ema_decay(paper, n) for n in range(1, 100_000, 7)]
    assert decays[0] == 2 / 11 and decays[-1] == 0.9999
    assert all(a <= b for a, b in itertools.pairwise(decays))


def test_learning_rate_rises_holds_and_falls():
    config = TrainConfig(steps=100, warmup=10, lr=1.0)
    assert [learning_rate(config, k) for k in (1, 5, 10, 11, 100)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    config = dataclasses.replace(config, lr_decay=True)
    assert [learning_rate(config, k) for k in (5, 10, 55, 100)] == pytest.approx([0.5, 1, 0.5, 0])


def test_gradient_is_clipped():
    """One step of AdamW does not depend on the gradient's scale, so look at the moments: they hold the clipped gradient."""
    config = dataclasses.replace(POINTS, clip_grad=1e-3)
    state = TrainState(config)
    (metrics,) = train(state, data.toy("two_moons", 64), until=1)
    first_moments = [of["exp_avg"] for of in state.optimizer.state_dict()["state"].values()]
    norm = math.sqrt(sum(float((m / 0.1).pow(2).sum()) for m in first_moments))
    assert metrics.grad_norm > 1e-2 and norm == pytest.approx(1e-3, rel=1e-3)


def test_loss_falls_on_points_and_on_images(images):
    state = TrainState(dataclasses.replace(POINTS, steps=200, schedule="cosine", T=100))
    list(train(state, data.toy("two_moons", 512)))
    assert state.loss_curve[-1][1] < 0.8 * state.loss_curve[0][1] and len(state.loss_curve) == 100
    state = TrainState(TINY)
    list(train(state, images))
    assert state.loss_curve[-1][1] < 0.8 * state.loss_curve[0][1]


def test_flip_mirrors_half_of_the_images():
    config = dataclasses.replace(TINY, flip=True, batch=64, network={**NET, "dropout": 0.0})
    x_0 = torch.full((64, 1, 8, 8), -1.0)
    x_0[..., :4] = 1.0
    state = TrainState(config)
    seen = []
    forward = state.network.forward

    def spy(x_t, t):
        seen.append((x_t, t))
        return forward(x_t, t)

    state.network.forward = spy
    list(train(state, x_0, until=10))
    x_t, t = (torch.cat(part) for part in zip(*seen))
    clear = t < 20
    left_bright = x_t[clear][..., :4].mean((1, 2, 3)) > x_t[clear][..., 4:].mean((1, 2, 3))
    n = int(clear.sum())
    assert n > 100 and abs(left_bright.double().mean() - 0.5) < 4 * 0.5 / n**0.5


def test_nan_stops_before_anything_is_updated(images):
    state = TrainState(TINY)
    list(train(state, images, until=3))
    before = {k: v.clone() for k, v in state.network.state_dict().items()}
    with torch.no_grad():
        state.network.last[-1].bias.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"step 4: the loss is nan.*values from -1 to 1.*learning rate is 0\.008.*try"):
        list(train(state, images))
    assert state.step == 3
    assert all(torch.equal(v, before[k]) for k, v in state.network.state_dict().items() if k != "last.2.bias")


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    "bad, said", [(math.nan, r"x_0 holds 1 value\(s\).*mean nan"), (3e38, r"the loss is (inf|nan).* to 3e\+38")]
)
def test_a_single_bad_image_is_seen_wherever_it_lies_in_the_batch(images, accumulate, bad, said):
    config = dataclasses.replace(TINY, accumulate=accumulate)
    for k in (0, 5, 10, 15):  # the batch is all there is
        state, x_0 = TrainState(config), images[: config.batch].clone()
        x_0[k, 0, 0, 0] = bad
        with pytest.raises(TrainingDiverged, match=rf"step 1: {said}.*try a third"):
            list(train(state, x_0, until=1))
        assert state.step == 0


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_trains_like_float32(images, precision):
    config = dataclasses.replace(TINY, steps=8, network={**NET, "dropout": 0.0})
    exact = [m.loss for m in train(TrainState(config), images)]
    rough = [m.loss for m in train(TrainState(dataclasses.replace(config, precision=precision)), images)]
    assert exact != rough and rough == pytest.approx(exact, rel=0.05)


def test_auto_compiles_only_where_triton_runs(monkeypatch):
    for capability, triton, want in (((7, 0), True, True), ((6, 1), True, False), ((8, 0), False, False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        monkeypatch.setattr(training, "find_spec", lambda name, there=triton: object() if there else None)
        assert training._can_compile(torch.device("cuda")) is want
    assert not training._can_compile(torch.device("cpu"))


def test_data_of_another_dtype_train_the_same_network():
    points = data.toy("two_moons", 64)
    of = {}
    for dtype in (torch.float32, torch.float64):
        state = TrainState(POINTS)
        of[dtype] = [m.loss for m in train(state, points.to(dtype), until=3)], state.fixed_loss(points.to(dtype))
    assert of[torch.float32] == of[torch.float64]


def test_auto_precision_is_what_the_device_is_fast_at(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for capability, want in (((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert fast_precision(cuda) == want
    for amx, want in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx, raising=False)
        assert fast_precision(cpu) == want
        assert TrainState(dataclasses.replace(POINTS, precision="auto")).config.precision == want
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # as in older versions of torch
    assert fast_precision(cpu) == fast_precision(torch.device("mps")) == "float32"


def test_overflow_in_float16_halves_the_scale_and_moves_nothing(tmp_path):
    points, config = data.toy("two_moons", 70), dataclasses.replace(POINTS, precision="float16")
    state = TrainState(config)
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**30})
    before = [p.clone() for p in state.network.parameters()]
    first = next(train(state, points))
    assert not math.isfinite(first.grad_norm) and math.isfinite(first.loss) and state.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters()))
    assert state.scaler.get_scale() == 2.0**29 and state.ema.n_averaged == 0
    state.save(tmp_path / "state.safetensors")
    again = TrainState.load(tmp_path / "state.safetensors")
    rest = [list(train(each, points)) for each in (state, again)]
    assert repr([m[:4] for m in rest[0]]) == repr([m[:4] for m in rest[1]])  # nan is not equal to itself, but its name is
    assert state.scaler.state_dict() == again.scaler.state_dict() and state.scaler.get_scale() < 2.0**29
    want, got = everything(state)[0], everything(again)[0]
    assert want.keys() == got.keys() and all(torch.equal(want[name], got[name]) for name in want)


def test_float16_that_overflows_at_every_scale_is_a_divergence():
    state = TrainState(dataclasses.replace(POINTS, precision="float16"))
    state.network.first.weight.register_hook(lambda grad: grad * math.inf)
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 8.0})
    steps = train(state, data.toy("two_moons", 70))
    assert [next(steps).step for _ in range(3)] == [1, 2, 3] and state.scaler.get_scale() == 1
    with pytest.raises(TrainingDiverged, match="step 4"):
        next(steps)


@pytest.mark.parametrize("pieces", [2, 3, 16])
def test_accumulation_gives_the_gradient_of_the_whole_batch(images, pieces):
    config = dataclasses.replace(TINY, steps=4, network={**NET, "dropout": 0.0})
    whole, cut = TrainState(config), TrainState(dataclasses.replace(config, accumulate=pieces))
    want, got = list(train(whole, images)), list(train(cut, images))
    assert [m.loss for m in got] == pytest.approx([m.loss for m in want], rel=1e-4)
    assert [m.grad_norm for m in got] == pytest.approx([m.grad_norm for m in want], rel=1e-3)
    with pytest.raises(ValueError, match=r"batch of 2 cannot be cut into accumulate · processes = 3 · 1 pieces"):
        train(TrainState(dataclasses.replace(config, accumulate=3)), images[:2])


def test_channels_last_is_the_same_network_and_resumes_exactly(images, tmp_path):
    config = dataclasses.replace(TINY, steps=4, network={**NET, "dropout": 0.0})
    want = [m.loss for m in train(TrainState(config), images)]
    state = TrainState(dataclasses.replace(config, channels_last=True))
    assert state.network.first.weight.is_contiguous(memory_format=torch.channels_last)
    got = [m.loss for m in train(state, images, until=2)]
    state.save(tmp_path / "state.safetensors")
    again = TrainState.load(tmp_path / "state.safetensors")
    for a, b in zip(state.network.parameters(), again.network.parameters(), strict=True):
        assert state.optimizer.state[a]["exp_avg"].stride() == again.optimizer.state[b]["exp_avg"].stride() == a.stride()
    rest = [[m.loss for m in train(each, images)] for each in (state, again)]
    assert rest[0] == rest[1] and got + rest[0] == pytest.approx(want, rel=1e-4)


def test_compiled_is_the_same_network(monkeypatch):
    """Traced by torch.compile; the backend that only replays the trace stands in for the slow one."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    points = data.toy("two_moons", 70)
    want = [m.loss for m in train(TrainState(POINTS), points, until=3)]
    state = TrainState(dataclasses.replace(POINTS, compile=True))
    assert [m.loss for m in train(state, points, until=3)] == pytest.approx(want, rel=1e-5)
    assert not any("_orig_mod" in name for name in state.network.state_dict())


def test_a_compiled_network_with_classes_is_the_same_network(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    config = dataclasses.replace(TINY, precision="bfloat16", network={**NET, "dropout": 0.0, "classes": 10})
    labelled = data.load("digits")
    want = [m.loss for m in train(TrainState(config), labelled, until=2)]
    got = [m.loss for m in train(TrainState(dataclasses.replace(config, compile=True)), labelled, until=2)]
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("label_drop", [0.0, 0.3, 1.0])
def test_the_share_of_labels_that_is_hidden_and_what_hides_them(label_drop):
    """A hidden label is the number of classes; the others are those of their images."""
    config = dataclasses.replace(TINY, label_drop=label_drop, network={**NET, "base": 4, "classes": 10})
    state, seen = TrainState(config), []
    forward = state.network.forward
    state.network.forward = lambda x_t, t, y: seen.append(y) or forward(x_t, t, y)
    list(train(state, data.load("digits"), until=20))
    y = torch.cat(seen)
    hidden, n = (y == 10).double().mean(), len(y)
    assert n == 320 and abs(hidden - label_drop) <= 4 * (label_drop * (1 - label_drop) / n) ** 0.5
    assert label_drop == 1 or len(y[y < 10].unique()) == 10


TWO = """
import dataclasses, json, sys
import torch
sys.path.insert(0, sys.argv[2])
from test_training import NET, TINY, VARIED
from ddpm_edu import data
from ddpm_edu.training import TrainState, processes, train

images = data.load("digits")[:50]  # 16 = 3 + 3 + 2 + ... : pieces of unequal size
state = TrainState(dataclasses.replace(TINY, steps=4, accumulate=3, network={**NET, "dropout": 0.0}))
metrics = [m[:4] for m in train(state, images)]
weights = torch.cat([p.detach().flatten() for p in state.ema_network.parameters()])
every = [torch.empty_like(weights) for _ in range(2)]
torch.distributed.all_gather(every, weights)
assert processes()[1] == 2 and torch.equal(every[0], every[1])
varied = TrainState(VARIED)
list(train(varied, data.toy("two_moons", 70), until=5))
torch.distributed.all_gather(every := [torch.empty_like(varied.times.losses) for _ in range(2)], varied.times.losses)
assert torch.equal(every[0], every[1]) and varied.times.seen.sum() == 5 * 32  # each remembers the joint batch
seeds, mine = torch.zeros(2, dtype=torch.int64), []
state = TrainState(dataclasses.replace(TINY, steps=5))
state.network.register_forward_pre_hook(lambda *_: mine.append(torch.initial_seed()))  # what dropout draws from
list(train(state, images, until=1))
seeds[processes()[0]] = mine[0]
torch.distributed.all_reduce(seeds)
assert seeds[0] != seeds[1]
if processes()[0] == 0:
    torch.save((metrics, weights, varied.times.losses), sys.argv[1])
"""


def torchrun(*command, cwd, processes=2):
    """What `torchrun --standalone --nproc-per-node 2 …` does; one thread each."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(launch, capture_output=True, text=True, cwd=cwd, timeout=300, env=env)


def test_two_processes_give_the_weights_of_one_with_the_joint_batch(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    run = torchrun("two.py", "out.pt", str(Path(__file__).parent), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    got, weights_of_two, losses_of_two = torch.load(tmp_path / "out.pt", weights_only=True)
    varied = TrainState(VARIED)
    list(train(varied, data.toy("two_moons", 70), until=5))
    assert torch.allclose(losses_of_two, varied.times.losses, rtol=1e-3)
    state = TrainState(dataclasses.replace(TINY, steps=4, network={**NET, "dropout": 0.0}))
    want = [m[:4] for m in train(state, data.load("digits")[:50])]
    assert torch.allclose(torch.tensor(got), torch.tensor(want), rtol=1e-3)
    one = torch.cat([p.detach().flatten() for p in state.ema_network.parameters()])
    moved = (one - torch.cat([p.detach().flatten() for p in TrainState(TINY).network.parameters()])).abs().max()
    assert (one - weights_of_two).abs().max() < 0.02 * moved


def test_fixed_loss_is_a_function_of_the_weights_alone(images):
    plain, watched = TrainState(TINY), TrainState(TINY)
    list(train(plain, images, until=6))
    for _ in train(watched, images, until=6):
        watched.fixed_loss(images)
    assert torch.equal(watched.network.first.weight, plain.network.first.weight)  # looking changes nothing
    assert watched.fixed_loss(images) == watched.fixed_loss(images) == plain.fixed_loss(images)
    assert [step for step, _ in watched.fixed_curve] == [1, 2, 3, 4, 5, 6, 6, 6]
    assert watched.fixed_curve[-1][1] < watched.fixed_curve[0][1]


def test_the_newest_two_checkpoints_and_the_best_are_kept(tmp_path, monkeypatch):
    losses = iter([5.0, 2.0, 4.0, 3.0, 6.0, 1.0])
    monkeypatch.setattr(TrainState, "fixed_loss", lambda self, data: self.fixed_curve.append((self.step, next(losses))))
    points, folder = data.toy("two_moons", 70), Checkpoints(tmp_path / "run")
    state, kept = TrainState(POINTS), []
    for _ in train(state, points, until=6):
        folder.save(state, points)
        kept.append([int(path.stem[5:]) for path in folder.paths()])
    assert kept == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [5, 6]]
    assert folder.best(state) == folder.path(6) and not folder.finished()
    assert folder.load().fixed_curve == state.fixed_curve


def test_damaged_newest_checkpoint_is_named_not_passed_over(tmp_path):
    points, folder = data.toy("two_moons", 70), Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        folder.load()
    state = TrainState(POINTS)
    for _ in train(state, points, until=3):
        folder.save(state, points)
    newest, before = folder.paths()[-1], folder.paths()[-2]
    assert folder.load().step == 3
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=f"{newest.name} is not a whole .*; the one before it is .*{before.name}: name that"):
        folder.load()
    again = TrainState.load(before)
    list(train(again, points, until=3))
    folder.save(again, points)
    assert folder.load().step == 3  # the damaged file was replaced


def test_failed_write_leaves_the_checkpoints_before_it(tmp_path, monkeypatch):
    points, folder = data.toy("two_moons", 70), Checkpoints(tmp_path)
    state = TrainState(POINTS)
    steps = train(state, points)
    next(steps), folder.save(state, points), next(steps)
    full = lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # noqa: E731
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*step-00000002\.safetensors: No space left"):
        folder.save(state, points)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert folder.load().step == 1


def test_checkpoints_of_other_kinds_are_refused(images, tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(FileNotFoundError, match="no weight file"):
        TrainState.load(path)
    state = TrainState(TINY)
    list(train(state, images, until=1))
    state.save(path)
    tensors, header = weights.read_tensors(path)

    weights.save(tmp_path / "net.safetensors", state.ema_network, {})
    with pytest.raises(WeightsError, match="not a training checkpoint"):
        TrainState.load(tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="not the weights of a ddpm_edu network"):
        weights.load(path)

    numbers = json.loads(header["state"])
    numbers["config"]["network"]["base"] = 16
    weights.write_tensors(path, tensors, {**header, "state": json.dumps(numbers)})
    with pytest.raises(WeightsError, match=r"has shape .* this network needs"):
        TrainState.load(path)
    weights.write_tensors(path, tensors, {**header, "state": "{}"})
    with pytest.raises(WeightsError, match="damaged or foreign header"):
        TrainState.load(path)
    lost = {k: v for k, v in tensors.items() if k != "optimizer.3.exp_avg"}
    weights.write_tensors(path, lost, header)
    with pytest.raises(WeightsError, match="optimiser"):
        TrainState.load(path)


def test_checkpoint_from_before_a_field_was_added_still_resumes(tmp_path):
    points, path = data.toy("two_moons", 70), tmp_path / "state.safetensors"
    state = TrainState(POINTS)
    list(train(state, points, until=4))
    state.save(path)
    tensors, header = weights.read_tensors(path)
    numbers = json.loads(header["state"])
    for name in ("fixed_curve", "scaler"):
        del numbers[name]
    for name in ("accumulate", "compile", "channels_last", "loss", "vlb_weight", "times"):
        del numbers["config"][name]
    weights.write_tensors(path, tensors, {**header, "state": json.dumps(numbers)})
    again = TrainState.load(path)
    list(train(state, points)), list(train(again, points))
    assert torch.equal(state.network.first.weight, again.network.first.weight) and again.config == state.config


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(steps=0), ValueError, "steps = 0"),
        (dict(lr=-1.0), ValueError, "lr = -1.0"),
        (dict(lr=math.nan), ValueError, "lr = nan"),
        (dict(batch=2.5), TypeError, "batch"),
        (dict(ema_decay=1.0), ValueError, "ema_decay = 1.0"),
        (dict(precision="float8"), ValueError, "precision = 'float8'"),
        (dict(accumulate=0), ValueError, "accumulate = 0"),
        (dict(accumulate=17), ValueError, "accumulate = 17 is more than the batch = 16"),
        (dict(schedule="spiral"), ValueError, "schedule = 'spiral'"),
        (dict(sample_steps=51), ValueError, "51"),
        (dict(loss="l1"), ValueError, "loss = 'l1' must be 'simple', 'hybrid' or 'vlb'"),
        (dict(loss="hybrid"), ValueError, "loss = 'hybrid' with learned_variance = False in the network"),
        (dict(network={**NET, "learned_variance": True}), ValueError, "loss = 'simple' with learned_variance = True"),
        (dict(times="antithetic"), ValueError, "times = 'antithetic'"),
        (dict(times="importance"), ValueError, "times = 'importance' is for the losses 'hybrid' and 'vlb'"),
        (dict(vlb_weight=-1.0), ValueError, "vlb_weight = -1.0"),
    ],
)
def test_configuration_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(TINY, **changes)


def test_presets_build():
    for config in PRESETS.values():
        assert config.data in data.IMAGE_SETS
        with torch.device("meta"):
            network = weights.build_network(**config.network)
        assert sum(p.numel() for p in network.parameters()) > 1e5
    assert {"digits", "mnist", "cifar10", "celeba64"} <= PRESETS.keys()
    with pytest.raises(ValueError, match=r"no preset 'imagenet': the presets are digits, .*celeba64"):
        PRESETS["imagenet"]


def test_the_preset_of_cifar10_is_the_papers():
    """Ho et al. 2020, Appendix B; warm-up and clipping from its authors' code."""
    of, paper = PRESETS["cifar10"], {"lr": 2e-4, "batch": 128, "steps": 800_000, "ema_decay": 0.9999, "T": 1000}
    paper |= {"schedule": "linear", "flip": True, "loss": "simple", "times": "uniform", "warmup": 5000, "clip_grad": 1.0}
    paper |= {"weight_decay": 0.0, "lr_decay": False, "data": "cifar10", "sample_steps": None, "accumulate": 1}
    assert {name: getattr(of, name) for name in paper} == paper
    with torch.device("meta"):
        network = weights.build_network(**of.network)
    shape = {
        "size": 32,
        "channels": 3,
        "base": 128,
        "multipliers": [1, 2, 2, 2],
        "blocks": 2,
        "attention": [16],
        "dropout": 0.1,
    }
    assert {name: network.config[name] for name in shape} == shape
    schedule = of.diffusion().schedule
    assert (schedule.betas[1], schedule.betas[1000]) == (pytest.approx(1e-4), pytest.approx(0.02))


def test_the_preset_of_celeba_has_five_levels_and_is_trained_as_that_of_cifar10():
    of = PRESETS["celeba64"]
    same = dataclasses.replace(of, data="cifar10", network=PRESETS["cifar10"].network)
    assert same == PRESETS["cifar10"] and of.network["dropout"] == 0.1
    with torch.device("meta"):
        assert weights.build_network(**of.network).config["size"] / 2 ** (len(of.network["multipliers"]) - 1) == 4


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="data is empty"):
        train(TrainState(POINTS), torch.zeros(0, 2))


def test_flip_needs_images():
    with pytest.raises(ValueError, match="flip = True mirrors images"):
        train(TrainState(dataclasses.replace(POINTS, flip=True)), data.toy("two_moons", 70))


def test_a_caller_who_samples_in_between_does_not_switch_dropout_off(images):
    plain, watched = TrainState(TINY), TrainState(TINY)
    want, got = [m.loss for m in train(plain, images, until=3)], []
    for metrics in train(watched, images, until=3):
        got.append(metrics.loss)
        watched.network.eval()
    assert got == want


def test_fixed_loss_and_best_refuse_what_is_not_there(tmp_path):
    state = TrainState(POINTS)
    with pytest.raises(ValueError, match="n = 0 is too small"):
        state.fixed_loss(data.toy("two_moons", 70), n=0)
    with pytest.raises(ValueError, match="data is empty"):
        state.fixed_loss(torch.zeros(0, 2))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of this run"):
        Checkpoints(tmp_path).best(state)
