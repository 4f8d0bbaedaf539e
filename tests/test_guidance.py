"""Guidance: without a classifier on a network whose answers are known, with one on data whose every score is known."""

import pytest
import torch

from ddpm_edu.guidance import guided
from ddpm_edu.unet import UNet


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
