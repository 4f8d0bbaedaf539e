"""Guidance: without a classifier on a network whose answers are known, with one on data whose every score is known."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from conftest import write_mnist

from ddpm_edu import GaussianDiffusion, GaussianMixture, NoiseSchedule, TrainConfig, UNet, ancestral, weights
from ddpm_edu.guidance import classifier_guided, guided, log_prob_gradient
from ddpm_edu.metrics import Judge
from ddpm_edu.oracles import ClassOracle

DIFFUSION = GaussianDiffusion(NoiseSchedule.linear(10, 0.02, 0.5))


def known(x_t, t, y):
    """A network whose answer tells the class it was given: 100 y + t everywhere."""
    return (100.0 * y + t)[:, None].expand_as(x_t)


@pytest.mark.parametrize("scale, want", [(0.0, 1007.0), (1.0, 307.0), (2.0, 2 * 307.0 - 1007.0), (0.5, 657.0)])
def test_guided_extrapolates_from_untold_to_told(scale, want):
    got = guided(known, torch.tensor([3, 3]), scale, classes=10)(torch.zeros(2, 4), torch.tensor([7, 7]))
    assert torch.equal(got, torch.full((2, 4), want))


def test_guided_on_a_network_uses_its_own_number_of_classes():
    network = UNet(size=4, channels=1, base=8, multipliers=(1,), blocks=1, attention=(), classes=3).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    x_t, t, y = torch.randn(2, 1, 4, 4, generator=generator), torch.tensor([5, 5]), torch.tensor([0, 2])
    told, untold = network(x_t, t, y), network(x_t, t)
    assert (told - untold).abs().max() > 1e-3
    assert torch.allclose(guided(network, y, 3.0)(x_t, t), untold + 3 * (told - untold), atol=1e-5)


def test_guided_refuses():
    plain = UNet(size=4, channels=1, base=8, multipliers=(1,), blocks=1, attention=())
    with pytest.raises(ValueError, match="classes = 0"):
        guided(plain, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"from 3 to 10.*0\.\.9"):
        guided(known, torch.tensor([3, 10]), classes=10)
    with pytest.raises(TypeError, match="int64"):
        guided(known, torch.tensor([1.0]), classes=10)
    with pytest.raises(ValueError, match="scale"):
        guided(known, torch.tensor([1]), -1.0, classes=10)
    with pytest.raises(ValueError, match="1 classes for 2 images"):
        guided(known, torch.tensor([1]), classes=10)(torch.zeros(2, 4), torch.tensor([7, 7]))


# With a classifier ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle():
    """Three classes of tilted Gaussians in the plane, the last of two components."""
    means = [[-1.0, 0.2], [0.6, -0.5], [0.9, 1.1], [-0.2, 1.5]]
    covariances = [[[0.30, 0.20], [0.20, 0.40]], [[0.2, 0.05], [0.05, 0.1]], [[0.1, 0], [0, 0.3]], [[0.2, -0.1], [-0.1, 0.1]]]
    data = GaussianMixture.with_covariances([0.3, 0.2, 0.1, 0.4], means, covariances)
    return ClassOracle(data, DIFFUSION, torch.tensor([0, 1, 2, 2]))


@pytest.mark.parametrize("t", [1, 4, 10])
def test_the_exact_classifier_at_scale_1_gives_the_conditional_network(oracle, t):
    x_t, y = torch.randn(30, 2, generator=torch.Generator().manual_seed(t), dtype=torch.float64), torch.arange(30) % 3
    steps = torch.full((30,), t)
    got = classifier_guided(DIFFUSION, oracle, oracle.log_prob_y, y)(x_t, steps)
    assert torch.allclose(got, oracle(x_t, steps, y), atol=1e-12)
    assert (got - oracle(x_t, steps)).abs().max() > 0.01
    for scale in (0.0, 0.5, 3.0):
        with_classifier = classifier_guided(DIFFUSION, oracle, oracle.log_prob_y, y, scale)(x_t, steps)
        assert torch.allclose(with_classifier, guided(oracle, y, scale)(x_t, steps), atol=1e-11)


def two_classes(x_t, t):
    """Logits 2 a·x and 0 with a = (1, -3) and t in front of them: log p(0 | x) has the gradient 2 t a (1 - p)."""
    z = 2 * t * (x_t @ torch.tensor([1.0, -3.0], dtype=x_t.dtype))
    return torch.stack([z, torch.zeros_like(z)], 1)


def test_the_classifier_s_gradient_by_hand():
    x_t, t = torch.tensor([[0.1, 0.2], [-0.3, 0.05]], dtype=torch.float64), torch.tensor([1, 2])
    z = 2 * t * (x_t[:, 0] - 3 * x_t[:, 1])
    want = (2 * t / (1 + z.exp()))[:, None] * torch.tensor([1.0, -3.0], dtype=torch.float64)
    got = log_prob_gradient(two_classes, x_t, t, torch.tensor([0, 0]))
    assert torch.allclose(got, want, atol=1e-14) and not got.requires_grad
    # Log-probabilities do as well as logits.
    as_logs = log_prob_gradient(lambda x, t: two_classes(x, t).log_softmax(1), x_t, t, torch.tensor([0, 0]))
    assert torch.allclose(as_logs, want, atol=1e-14)
    still = lambda x, t: torch.zeros_like(x)  # noqa: E731
    noise = torch.tensor([1 - (0.98), 1 - 0.98 * (1 - 0.02 - 0.48 / 9)], dtype=torch.float64).sqrt()[:, None]
    guided_eps = classifier_guided(DIFFUSION, still, two_classes, torch.tensor([0, 0]), 3.0)(x_t, t)
    assert torch.allclose(guided_eps, -3 * noise * want, atol=1e-14)


def test_a_sampler_takes_it_though_it_works_without_gradients(oracle):
    y = torch.zeros(2000, dtype=torch.int64)
    x_T = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = []
    for model in (classifier_guided(DIFFUSION, oracle, oracle.log_prob_y, y), oracle.told[0]):
        *_, last = ancestral(DIFFUSION, model, x_T, generator=torch.Generator().manual_seed(1))
        ends.append(last.x_t)
    assert torch.allclose(*ends, atol=1e-9) and not ends[0].requires_grad
    assert (ends[0].mean(0) - oracle.of_class(0).moments()[0]).abs().max() < 0.1


def test_classifier_guided_refuses(oracle):
    x_t, t = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([3, 3])
    build = lambda y, scale=1.0, classifier=oracle.log_prob_y: classifier_guided(DIFFUSION, oracle, classifier, y, scale)  # noqa: E731
    with pytest.raises(ValueError, match=r"scale = -1\.0"):
        build(torch.tensor([0, 1]), -1.0)
    with pytest.raises(TypeError, match="int64"):
        build(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="from -1 to 1"):
        build(torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match=r"from 0 to 3; 0\.\.2 are known"):
        build(torch.tensor([0, 3]))(x_t, t)
    with pytest.raises(ValueError, match="3 classes for 2 images"):
        build(torch.tensor([0, 1, 1]))(x_t, t)
    with pytest.raises(ValueError, match=r"classifier returned shape \(2,\)"):
        build(torch.tensor([0, 1]), classifier=lambda x, t: x.sum(1))(x_t, t)


# The measured curve ---------------------------------------------------------------------------------------------------

spec = importlib.util.spec_from_file_location("guidance_benchmark", Path(__file__).parents[1] / "benchmarks" / "guidance.py")
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_the_curve_goes_into_the_card_beside_what_is_there(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path, test_images=400)
    network = UNet(size=28, channels=1, base=8, multipliers=(1,), blocks=1, attention=(), classes=10)
    config = TrainConfig(data="mnist", network={"kind": "UNet", **network.config}, steps=1, batch=1, precision="float32")
    weights.save(tmp_path / "net.safetensors", network, {"config": dataclasses.asdict(config), "loss_curve": [[1, 2.0]]})
    weights.save(tmp_path / "judge.safetensors", Judge(), {})
    line = f"--weights {tmp_path}/net.safetensors --judge {tmp_path}/judge.safetensors --data-root {tmp_path}"
    benchmark.main([*line.split(), "--scales", "0", "2", "--images", "40", "--moves", "2"])
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["loss_curve"] == [[1, 2.0]] and card["guidance"]["images"] == 40 and card["guidance"]["moves"] == 2
    assert [row["scale"] for row in card["guidance"]["curve"]] == [0, 2] and str(tmp_path) not in json.dumps(card)
    assert "scale 2.000 recognised" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--images 33"):
        benchmark.main([*line.split(), "--images", "33"])


def test_the_shipped_card_has_the_curve():
    card = weights.read_card(weights.shipped("mnist"))["guidance"]
    assert [row["scale"] for row in card["curve"]] == [0, 1, 2, 3, 4, 5] and card["command"].startswith(
        "python benchmarks/guidance.py"
    )
    recognised = [row["recognised"] for row in card["curve"]]
    assert recognised[0] < 0.2 and min(recognised[1:]) > 0.95 and card["real"]["recognised"] > 0.98
    for row in card["curve"]:
        p = row["recognised"]
        assert row["standard_error"] == pytest.approx((p * (1 - p) / card["images"]) ** 0.5, abs=1e-4)
        assert sum(row["by_class"]["recognised"]) / 10 == pytest.approx(p, abs=1e-4)
    assert card["curve"][5]["recall"] < card["curve"][1]["recall"]
