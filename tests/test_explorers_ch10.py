"""Chapter 10's explorer: the CIFAR-10 network, block by block, against formulas typed from the paper's description."""

import re

import pytest
import torch
from explorer_pages import at_position, numbers

from ddpm_edu.explorers import unet_explorer
from ddpm_edu.explorers.ch10 import unet_stops
from ddpm_edu.unet import UNet


@pytest.fixture(scope="module")
def explorer():
    return unet_explorer()


def residual(a, b):
    """Parameters of a residual block, time vector of 512."""
    return 2 * a + (9 * a + 1) * b + (512 + 1) * b + 2 * b + (9 * b + 1) * b + (0 if a == b else (a + 1) * b)


def shown(explorer, k):
    values = numbers(at_position(explorer.to_html(), (k, 0)))
    return [int(n.replace(",", "")) for n in re.findall(r"[\d,]+", values["parameters"])], values


@pytest.mark.parametrize(
    "k, want, name",
    [
        (0, 27 * 128 + 128, "0, first convolution"),
        (1, residual(128, 128), "1, way down: residual block"),
        (3, 9 * 128 * 128 + 128, "3, way down: half the side"),
        (4, residual(128, 256) + 4 * 256**2 + 6 * 256, "4, way down: residual block, attention"),
        (12, residual(256, 256) + 4 * 256**2 + 6 * 256, "12, middle: residual block, attention"),
        (17, 9 * 256 * 256 + 256, "17, way up: twice the side"),
        (24, residual(256 + 128, 256) + 4 * 256**2 + 6 * 256, "24, way up: residual block, attention"),
        (28, residual(128 + 128, 128), "28, way up: residual block"),
        (29, 2 * 128 + 27 * 128 + 3, "29, last convolution"),
    ],
)
def test_parameters(explorer, k, want, name):
    (got, total), values = shown(explorer, k)
    assert (got, total, f"{values['block']}, {values['kind']}") == (want, 35_746_307, name)


def test_all_blocks_and_the_two_layers_of_the_time_are_all_there_is(explorer):
    blocks = len(explorer.sliders[0].values)
    assert sum(shown(explorer, k)[0][0] for k in range(blocks)) + 128 * 512 + 512 + 512 * 512 + 512 == 35_746_307


def test_multiply_adds_and_shortcuts(explorer):
    _, values = shown(explorer, 1)
    work = 2 * 9 * 128 * 128 * 32 * 32 + 512 * 128
    assert values["multiply-adds"].startswith(f"{work / 1e6:.1f} of ")
    _, values = shown(explorer, 24)
    assert values["channels in"] == "384, 128 of them from block 3" and values["out"] == "256 × 16 × 16"


def test_stops_of_another_network():
    """Mirror images: what is handed across has the side of the block that takes it, and is taken once."""
    network = UNet(size=8, channels=1, base=8, multipliers=(1, 2, 2), blocks=1, attention=(4,))
    stops = unet_stops(network)
    taken = [stop.partner for stop in stops if stop.partner is not None and stops[stop.partner].partner is not None]
    assert sorted(set(taken)) == sorted(taken) and len(taken) == 2 * (1 + 5)
    for k, stop in enumerate(stops):
        if stop.partner is not None and stop.partner < k:
            before = stops[k - 1]
            assert stop.channels_in == before.channels_out + stops[stop.partner].channels_out
            assert stop.side == before.side == stops[stop.partner].side
    time = sum(p.numel() for p in network.time.parameters())
    assert sum(stop.parameters for stop in stops) + time == sum(p.numel() for p in network.parameters())
    assert all(p.device.type == "cpu" for p in network.parameters()) and torch.get_default_device().type == "cpu"
