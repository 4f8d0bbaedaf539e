"""The checkpoints in weights/: each is what its card says, small, and draws what it is asked for."""

import json
from pathlib import Path

import pytest
import torch

from ddpm_edu import cli, data, weights
from ddpm_edu.training import PRESETS, TrainConfig

FOLDER = Path(__file__).resolve().parents[1] / "weights"
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_each_has_a_card_and_no_card_is_alone():
    assert {"digits", "playground"} <= set(NAMES) == {path.stem for path in FOLDER.glob("*.json")}


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_about_the_weights(name):
    network, card = weights.load(weights.shipped(name))
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["network"] == json.loads((FOLDER / f"{name}.json").read_text())["network"]
    assert weights.shipped(name).stat().st_size <= 4 * 2**20
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in network.parameters())
    assert len(card["commit"]) == 40 and not card.get("dirty") and f"--data {card['data']['name']}" in card["command"]
    assert not any(word in json.dumps(card) for word in ("/work", "/tmp", "/home", "/root"))  # no machine's paths


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_judge")])
def test_the_card_shows_a_whole_run_of_its_preset(name):
    _, card = weights.load(weights.shipped(name))
    config = TrainConfig(**card["config"])
    assert config.network == PRESETS[name].network or config.network.items() >= PRESETS[name].network.items()
    assert card["loss_curve"][-1][0] == config.steps == PRESETS[name].steps
    first, last = (sum(loss for _, loss in part) / 10 for part in (card["loss_curve"][:10], card["loss_curve"][-10:]))
    assert last < 0.7 * first
    if config.data == "digits":
        assert card["data"]["sha256"] == data.load("digits").sha256()


def test_the_playground_is_small_and_draws_the_class_that_is_asked_for():
    network, card = weights.load(weights.shipped("playground"))
    assert card["parameters"] <= 300_000 and weights.shipped("playground").stat().st_size <= 2**20
    config, y = TrainConfig(**card["config"]), torch.arange(100) % 10
    images = data.load("digits")
    for scale, least in ((1.0, 0.85), (2.0, 0.93)):  # chance is 0.1
        x = cli.draw(network, config, 100, steps=25, seed=1, y=y, scale=scale)
        nearest = torch.cdist(x.flatten(1), images[torch.arange(len(images))].flatten(1)).argmin(1)
        assert (images.labels[nearest] == y).double().mean() >= least
