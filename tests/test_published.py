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
    t = torch.arange(1, T + 1, 1 if variant == "the paper's" else 20)
    x_t = images(len(t), ours, dtype)
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


@torch.no_grad()
def test_largest_published_network_fits():
    with torch.device("meta"):
        theirs = UNet2DModel(**LARGE)
        ours = weights.from_diffusers(theirs)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 113_673_219
    assert ours.config["attention"] == [16] and ours.config["multipliers"] == [1, 1, 2, 2, 4, 4]


@torch.no_grad()
def test_six_levels_as_the_largest_have_are_diffusers():
    slim = dict(sample_size=64, block_out_channels=(8, 8, 16, 16, 32, 32), norm_num_groups=4)
    theirs = randomised(UNet2DModel(**{**LARGE, **slim}), torch.float64)
    ours = weights.from_diffusers(theirs)
    t, x_t = torch.tensor([1, 500, T]), images(3, ours, torch.float64)
    want = theirs(x_t, t - 1).sample
    assert want.std() > 0.1 and ours.config["attention"] == [4]
    torch.testing.assert_close(ours(x_t, t), want, rtol=0, atol=1e-10)


def small(**changes) -> UNet2DModel:
    return randomised(UNet2DModel(**{**SMALL, **changes}), torch.float64)


@torch.no_grad()
def test_classes():
    theirs = small(num_class_embeds=4)
    t, y = torch.tensor([1, 500, 1000]), torch.tensor([0, 2, 1])
    for untold, classes in ((False, 4), (True, 3)):
        ours = weights.from_diffusers(theirs, untold=untold)
        x_t = images(3, ours, torch.float64)
        assert ours.config["classes"] == classes
        torch.testing.assert_close(ours(x_t, t, y), theirs(x_t, t - 1, class_labels=y).sample, rtol=0, atol=1e-10)
    want = theirs(x_t, t - 1, class_labels=torch.full_like(y, 3)).sample
    torch.testing.assert_close(ours(x_t, t), want, rtol=0, atol=1e-10)  # the last label was trained as "not told"
    assert weights.from_diffusers(theirs)(x_t, t).isnan().all()
    with pytest.raises(ValueError, match=r"untold = True .* num_class_embeds says there are 0"):
        weights.from_diffusers(small(), untold=True)


@pytest.mark.parametrize("file", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
@pytest.mark.parametrize("inside", ["", "unet"])
@torch.no_grad()
def test_folder_with_the_old_names(tmp_path, file, inside):
    theirs = small()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        for new, was in old.items():
            name = name.replace(f".{new}.", f".{was}.")
        tensors[name] = tensor.contiguous()
    assert sum("query" in name for name in tensors) == 2 * 4
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    # The published configurations are older than several entries, and leave them out.
    config = {name: value for name, value in {**SMALL, "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4"}.items()}
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith("safetensors"):
        weights.write_tensors(folder / file, tensors, {})
    else:
        torch.save(tensors, folder / file)
    ours = weights.from_diffusers(str(tmp_path))
    x_t, t = images(2, ours, torch.float64), torch.tensor([1, 77])
    torch.testing.assert_close(ours(x_t, t), theirs(x_t, t - 1).sample, rtol=0, atol=1e-10)

    weights.save(tmp_path / "mine.safetensors", ours, {})
    again, _ = weights.load(tmp_path / "mine.safetensors")
    assert again.config["first_t"] == 0
    torch.testing.assert_close(again.double()(x_t, t), ours(x_t, t), rtol=0, atol=1e-5)


def test_folder_as_diffusers_saves_it(tmp_path):
    theirs = small()
    theirs.save_pretrained(tmp_path)
    ours = weights.from_diffusers(tmp_path)
    assert torch.equal(ours.first.weight, theirs.conv_in.weight)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"center_input_sample": True}, "center_input_sample = True .* allowed: False"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier' .* allowed: 'positional'"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor = 2 .* allowed: 1"),
        ({"downsample_type": "resnet"}, "downsample_type = 'resnet' .* allowed: 'conv'"),
        ({"act_fn": "mish"}, "act_fn = 'mish' .* allowed: 'silu' or 'swish'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep' .* allowed: None"),
        ({"add_attention": False}, "add_attention = False .* allowed: True"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name = 'UNet2DConditionModel' .* allowed: 'UNet2DModel'"),
        ({"sample_size": None}, "sample_size = None"),
        ({"sample_size": (8, 16)}, r"sample_size = \(8, 16\)"),
        ({"block_out_channels": (8, 12)}, r"block_out_channels = \[8, 12\] .* multiples of the first, 8"),
        ({"down_block_types": ("DownBlock2D", "SkipDownBlock2D")}, "down_block_types .* one of DownBlock2D, AttnDownBlock2D"),
        ({"up_block_types": ("UpBlock2D", "UpBlock2D")}, "up_block_types .* same levels as down_block_types"),
        ({"out_channels": 3}, "out_channels = 3 .* in_channels, or twice"),
        ({"attention_head_dim": 5}, "attention_head_dim = 5"),
        ({"downsample_padding": 2}, "downsample_padding = 2 .* 1 or 0"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift = 'spatial'"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups = 2 .* norm_num_groups = 4"),
    ],
)
def test_what_cannot_be_represented_is_refused(changes, message):
    theirs = small()
    theirs = types.SimpleNamespace(config={**SMALL, **changes}, state_dict=theirs.state_dict)
    with pytest.raises(ValueError, match=message):
        weights.from_diffusers(theirs)


def test_scale_shift_without_a_norm_in_the_middle_is_refused():
    with pytest.raises(ValueError, match="attn_norm_num_groups = None"):
        weights.from_diffusers(small(resnet_time_scale_shift="scale_shift"))


def test_refuses_incomplete_weights(tmp_path):
    tensors = small().state_dict()

    def given(**changes):
        state = {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}
        return types.SimpleNamespace(config=SMALL, state_dict=lambda: state)

    with pytest.raises(ValueError, match=r"lack conv_in\.weight \(shape \(8, 1, 3, 3\)\)"):
        weights.from_diffusers(given(**{"conv_in.weight": None}))
    with pytest.raises(ValueError, match=r"lack mid_block\.attentions\.0\.to_k\.bias"):
        weights.from_diffusers(given(**{"mid_block.attentions.0.to_k.bias": None}))
    with pytest.raises(ValueError, match=r"hold extra\.bias"):
        weights.from_diffusers(given(**{"extra.bias": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"conv_in\.weight has shape \(8, 2, 3, 3\), .* \(8, 1, 3, 3\)"):
        weights.from_diffusers(given(**{"conv_in.weight": torch.zeros(8, 2, 3, 3)}))
    with pytest.raises(FileNotFoundError, match=r"no config.json in google/ddpm-cifar10-32; weights.from_hub\("):
        weights.from_diffusers("google/ddpm-cifar10-32")
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    with pytest.raises(FileNotFoundError, match=r"holds none of diffusion_pytorch_model\.safetensors"):
        weights.from_diffusers(tmp_path)
    with pytest.raises(TypeError, match="source must be a folder or a UNet2DModel, got int"):
        weights.from_diffusers(3)


class Trap:
    """Pickled, it would run something when it is read."""

    def __reduce__(self):
        return os.getcwd, ()


def test_nothing_is_unpickled(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    torch.save({"conv_in.weight": Trap()}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        weights.from_diffusers(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"not a file of tensors")
    with pytest.raises(WeightsError, match="cannot be read as plain tensors"):
        weights.from_diffusers(tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="not a state dict"):
        weights.from_diffusers(tmp_path)


@pytest.mark.parametrize("inside", ["", "unet/"])
def test_download(tmp_path, monkeypatch, inside):
    theirs = small()
    theirs.save_pretrained(tmp_path / inside)
    asked = []

    def hf_hub_download(repo, name):
        asked.append((repo, name))
        return str(tmp_path / name)

    files = ["README.md", "scheduler_config.json", *(inside + name for name in ("config.json", *weights.MODEL_FILES))]
    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download, list_repo_files=lambda repo: files)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    ours = weights.from_hub("google/ddpm-cifar10-32")
    assert torch.equal(ours.first.weight, theirs.conv_in.weight)
    assert [name for _, name in asked] == [inside + weights.MODEL_FILES[0], inside + "config.json"]  # not the .bin as well
    files[:] = ["README.md"]
    with pytest.raises(WeightsError, match="holds no UNet2DModel"):
        weights.from_hub("google/ddpm-cifar10-32")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"ddpm-edu\[hub\]"):
        weights.from_hub("google/ddpm-cifar10-32")


def test_the_real_library_has_what_the_download_needs():
    from huggingface_hub import hf_hub_download, list_repo_files

    assert callable(hf_hub_download) and callable(list_repo_files)


# One step of diffusers' samplers ----------------------------------------------------------------------------------


def precise(scheduler):
    """The scheduler with its tables in float64, as ours are; by itself it rounds them to float32."""
    scheduler.betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.final_alpha_cumprod = scheduler.one
    return scheduler


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small", "learned_range"])
@pytest.mark.parametrize("t", [1, 2, 500, T])
@torch.no_grad()
def test_one_ancestral_step(variance, clip, t):
    learned = variance == "learned_range"
    theirs = small(out_channels=2) if learned else small()
    ours, diffusion = weights.from_diffusers(theirs), GaussianDiffusion(NoiseSchedule.linear(T))
    x_t = images(3, ours, torch.float64)
    scheduler = precise(DDPMScheduler(variance_type=variance, clip_sample=clip))
    output = theirs(x_t, t - 1).sample
    want = scheduler.step(output, t - 1, x_t, generator=torch.Generator().manual_seed(5)).prev_sample

    def eps_model(x_t, t):
        return ours(x_t, t)[:, :1]

    def sigma2(x_t, t, s):
        if learned:
            return diffusion.sigma2_interpolated(ours(x_t, torch.full((len(x_t),), t))[:, 1:], x_t, t, s)
        return diffusion.sigma2_beta(x_t, t, s) if variance == "fixed_large" else diffusion.sigma2_beta_tilde(x_t, t, s)

    steps = ancestral(
        diffusion, eps_model, x_t, [t, t - 1] if t == 1 else [t, t - 1, 0], sigma2, 1.0 if clip else None,
        torch.Generator().manual_seed(5),
    )  # fmt: skip
    next(steps)
    torch.testing.assert_close(next(steps).x_t, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("t, s", [(1, 0), (21, 1), (501, 481), (981, 961)])
@torch.no_grad()
def test_one_ddim_step(eta, clip, t, s):
    theirs = small()
    ours, diffusion = weights.from_diffusers(theirs), GaussianDiffusion(NoiseSchedule.linear(T))
    x_t = images(3, ours, torch.float64)
    scheduler = precise(DDIMScheduler(clip_sample=clip))
    scheduler.set_timesteps(50)
    want = scheduler.step(
        theirs(x_t, t - 1).sample, t - 1, x_t, eta=eta, use_clipped_model_output=clip,
        generator=torch.Generator().manual_seed(5),
    ).prev_sample  # fmt: skip
    moves = ddim(
        diffusion, ours, x_t, [t, s] if s == 0 else [t, s, 0], eta, 1.0 if clip else None, torch.Generator().manual_seed(5)
    )
    next(moves)
    torch.testing.assert_close(next(moves).x_t, want, rtol=0, atol=1e-10)


# OpenAI's improved-diffusion --------------------------------------------------------------------------------------

FLAGS = dict(image_size=8, num_channels=32, num_res_blocks=1, num_heads=4, attention_resolutions="4", channel_mult="1,2")


def openai(**flags) -> UNetModel:
    """Their network for the flags, as their script builds it."""
    flags = {**FLAGS, "use_scale_shift_norm": True, "learn_sigma": False, "class_cond": False, **flags}
    sides = [int(side) for side in flags["attention_resolutions"].split(",")]
    network = UNetModel(
        in_channels=3,
        model_channels=flags["num_channels"],
        out_channels=6 if flags["learn_sigma"] else 3,
        num_res_blocks=flags["num_res_blocks"],
        attention_resolutions=tuple(flags["image_size"] // side for side in sides),
        channel_mult=tuple(int(m) for m in flags["channel_mult"].split(",")),
        num_classes=10 if flags["class_cond"] else None,
        num_heads=flags["num_heads"],
        use_scale_shift_norm=flags["use_scale_shift_norm"],
    )
    return randomised(network, torch.float32)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"use_scale_shift_norm": False, "num_heads": 1},
        {"learn_sigma": True, "diffusion_steps": 4000},
        {"class_cond": True, "attention_resolutions": "8,4,2", "channel_mult": "1,1,2", "num_res_blocks": 2},
    ],
)
@torch.no_grad()
def test_openai_network(flags, tmp_path, monkeypatch):
    theirs = openai(**flags)
    steps = flags.get("diffusion_steps", 1000)
    t = torch.tensor([1, 2, steps // 2, steps])
    y = (torch.tensor([0, 3, 9, 5]),) if flags.get("class_cond") else ()
    for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        torch.save(theirs.to(dtype).state_dict(), tmp_path / "model.pt")
        ours = weights.from_openai(tmp_path / "model.pt", **{**FLAGS, **flags})
        x_t = images(4, ours, dtype)
        theirs.time_embed.register_forward_pre_hook(lambda module, inputs, dtype=dtype: inputs[0].to(dtype))
        with monkeypatch.context() as patch:
            if dtype == torch.float64:
                patch.setattr(torch.Tensor, "float", lambda self: self)  # it rounds its norms and softmax to float32
            # Their diffusion hands a network steps from 0, rescaled to a thousand.
            want = theirs(x_t, (t - 1).to(torch.float32) * (1000.0 / steps), *y)
        got = ours(x_t, t, *y)
        if flags.get("learn_sigma"):
            want = torch.cat([want[:, :3], (want[:, 3:] + 1) / 2], dim=1)
        assert want.std() > 0.1
        torch.testing.assert_close(got, want, rtol=0, atol=atol)


def test_openai_new_order_of_attention():
    """The later repository can keep all q first, as we do; its rows are the others' rows, sorted."""
    state = openai().state_dict()
    heads = FLAGS["num_heads"]
    sorted_ = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            d = len(tensor) // 3 // heads
            rows = [head * 3 * d + part * d + i for part in range(3) for head in range(heads) for i in range(d)]
            tensor = tensor[rows]
        sorted_[name] = tensor
    a, b = weights.from_openai(state, **FLAGS), weights.from_openai(sorted_, **FLAGS, use_new_attention_order=True)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"conv_resample": False}, "conv_resample = False .* allowed: True"),
        ({"resblock_updown": True}, "resblock_updown = True .* allowed: False"),
        ({"predict_xstart": True}, "predict_xstart = True .* allowed: False"),
        ({"num_heads_upsample": 2}, "num_heads_upsample = 2 .* allowed: -1 or num_heads = 4"),
        ({"channel_mult": "0.5,1"}, "channel_mult = '0.5,1' .* allowed: integers"),
        ({"attention_resolutions": "all"}, "attention_resolutions = 'all'"),
        ({"num_chanels": 64}, "num_chanels = 64 .* an entry of improved-diffusion"),
        ({"class_cond": True}, "lack label_emb.weight"),
        ({"learn_sigma": True}, r"out\.2\.weight has shape \(3, 32, 3, 3\)|weights"),
    ],
)
def test_openai_refusals(flags, message):
    with pytest.raises(ValueError, match=message):
        weights.from_openai(openai().state_dict(), **{**FLAGS, **flags})


def test_openai_refuses_what_is_no_state_dict():
    with pytest.raises(TypeError, match="source must be a state dict or a file, got list"):
        weights.from_openai([])
