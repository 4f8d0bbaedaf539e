"""The training loop: its average against the closed form, exact resume, and what it says when things go wrong."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from ddpm_edu import data, weights
from ddpm_edu.training import PRESETS, TrainConfig, TrainingDiverged, TrainState, ema_decay, learning_rate, train
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
TINY = TrainConfig(data="digits", network=NET, T=50, steps=20, batch=16, lr=1e-2, warmup=5, lr_decay=True, ema_decay=0.9)
DOTS = {"kind": "MLP", "width": 16, "layers": 1}
POINTS = TrainConfig(data="two_moons", network=DOTS, T=10, steps=12, batch=32, lr=1e-2, warmup=0)


@pytest.fixture(scope="module")
def images():
    return data.load("digits")[:100]  # not a multiple of the batch: epochs leave a rest, and 20 steps span several


def everything(state):
    """All tensors and numbers of a state."""
    tensors = {**state.network.state_dict(), **{f"ema.{k}": v for k, v in state.ema.state_dict().items()}}
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
    epochs = torch.cat(seen).reshape(2, 20)
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


def test_bfloat16_autocast_trains_like_float32(images):
    config = dataclasses.replace(TINY, network={**NET, "dropout": 0.0})
    exact = [m.loss for m in train(TrainState(config), images)]
    rough = [m.loss for m in train(TrainState(dataclasses.replace(config, precision="bfloat16")), images)]
    assert exact != rough and rough == pytest.approx(exact, rel=0.05)


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


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(steps=0), ValueError, "steps = 0"),
        (dict(lr=-1.0), ValueError, "lr = -1.0"),
        (dict(lr=math.nan), ValueError, "lr = nan"),
        (dict(batch=2.5), TypeError, "batch"),
        (dict(ema_decay=1.0), ValueError, "ema_decay = 1.0"),
        (dict(precision="float8"), ValueError, "precision = 'float8'"),
        (dict(schedule="spiral"), ValueError, "schedule = 'spiral'"),
        (dict(sample_steps=51), ValueError, "51"),
    ],
)
def test_configuration_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(TINY, **changes)


def test_presets_build():
    for name, config in PRESETS.items():
        assert config.data == name
        with torch.device("meta"):
            network = weights.build_network(**config.network)
        assert sum(p.numel() for p in network.parameters()) > 5e5
    assert PRESETS["digits"].network["dropout"] > 0


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="data is empty"):
        train(TrainState(POINTS), torch.zeros(0, 2))
