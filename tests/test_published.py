"""Published networks: random weights in the original give the same output as in ours, to rounding; the rest is refused."""

import json
import os
import sys
import types

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the network

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from improved_diffusion_for_SMLM.improved_diffusion.unet import UNetModel  # OpenAI's, as a package of that name has it

from ddpm_edu import weights
from ddpm_edu.diffusion import GaussianDiffusion
from ddpm_edu.samplers import ancestral, ddim
from ddpm_edu.schedules import NoiseSchedule
from ddpm_edu.unet import UNet
from ddpm_edu.weights import WeightsError

T = 1000
PAPER = dict(norm_eps=1e-6, freq_shift=1, flip_sin_to_cos=False, downsample_padding=0, attention_head_dim=None)
SMALL = dict(
    **PAPER, sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
# What google/ddpm-cifar10-32 says of itself.
CIFAR10 = dict(
    **PAPER, sample_size=32, block_out_channels=(128, 256, 256, 256), norm_num_groups=32,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
# And the 256-pixel networks: church, bedroom, celebahq, cat and their ema- siblings.
LARGE = dict(
    **PAPER, sample_size=256, block_out_channels=(128, 128, 256, 256, 512, 512), norm_num_groups=32,
    down_block_types=(*4 * ["DownBlock2D"], "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", *4 * ["UpBlock2D"]),
)  # fmt: skip


def randomised(network: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """All parameters random, none left at the 0 or 1 it starts from, and each layer keeping the size of what it is given."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            z = torch.randn(p.shape, generator=generator)
            p.copy_(z / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.2 * z)
    return network.to(dtype).eval()


def images(n: int, network: UNet, dtype: torch.dtype) -> torch.Tensor:
    shape = (n, network.config["channels"], network.config["size"], network.config["size"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


class Told(Exception):
    """Carries a layer's output out of the network that it is in the middle of."""


def tell(module, inputs, output):
    raise Told(output)


# diffusers' UNet2DModel -------------------------------------------------------------------------------------------

VARIANTS = {
    "the paper's": {},
    "diffusers' own": dict(flip_sin_to_cos=True, freq_shift=0, downsample_padding=1, norm_eps=1e-5, attention_head_dim=8),
    "scale and shift": dict(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=4),
    "three levels": dict(
        block_out_channels=(8, 8, 24), layers_per_block=2, attention_head_dim=4,
        down_block_types=("AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_small_network_is_diffusers_at_every_t(variant, dtype, atol):
    theirs = randomised(UNet2DModel(**{**SMALL, **VARIANTS[variant]}), dtype)
    ours = weights.from_diffusers(theirs)
    x_t, t = images(T, ours, dtype), torch.arange(1, T + 1)
    want = theirs(x_t, t - 1).sample
    assert want.std() > 0.1
    torch.testing.assert_close(ours(x_t, t), want, rtol=0, atol=atol)
    # An index off by one would be seen.
    assert (ours(x_t[1:], t[1:]) - theirs(x_t[1:], t[1:]).sample).abs().max() > 100 * atol


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"])
@torch.no_grad()
def test_cifar10_network_is_diffusers(dtype, atol):
    theirs = randomised(UNet2DModel(**CIFAR10), dtype)
    ours = weights.from_diffusers(theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 35_746_307
    # t enters through one vector, which is compared at every t; the whole network then at the ends and between.
    t, stop = torch.arange(1, T + 1), ours.time.register_forward_hook(tell)
    with pytest.raises(Told) as told:
        ours(images(1, ours, dtype).expand(T, -1, -1, -1), t)
    stop.remove()
    torch.testing.assert_close(told.value.args[0], theirs.time_embedding(theirs.time_proj(t - 1).to(dtype)), rtol=0, atol=atol)
    x_t = images(1, ours, dtype)
    for step in (1, 2, 500, T):
        want = theirs(x_t, step - 1).sample
        assert want.std() > 0.1
        torch.testing.assert_close(ours(x_t, torch.tensor([step])), want, rtol=0, atol=atol)


def test_cifar10_network_is_the_default():
    with torch.device("meta"):
        ours = weights.from_diffusers(UNet2DModel(**CIFAR10))
    assert {**ours.config, "head_channels": None, "groups": None} == {**UNet().config, "first_t": 0}
