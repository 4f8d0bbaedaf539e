"""Published networks as ours: what their configuration asks of `UNet`, and which of their tensors goes where.

Both layouts are the same network under other names. What differs from the paper's is an option of `UNet`: where the
steps are counted from, the padding, the normalisation. What `UNet` cannot compute is refused by the entry's name.
`weights.from_diffusers`, `weights.from_openai` and `weights.from_hub` read the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ._args import count, instance
from .unet import UNet

# diffusers' UNet2DModel -------------------------------------------------------------------------------------------

# What stands for an entry that a configuration leaves out.
DIFFUSERS = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", *3 * ["AttnDownBlock2D"]],
    "up_block_types": [*3 * ["AttnUpBlock2D"], "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "attn_norm_num_groups": None,
}
# Entries of which `UNet` computes only these values, the first of them the default.
DIFFUSERS_ALLOWED: dict[str, tuple] = {
    "_class_name": ("UNet2DModel",),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "downsample_padding": (1, 0),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}
DIFFUSERS_BLOCK = {
    **{f"res.{name}": name for name in ("norm1", "conv1", "norm2", "conv2")},
    **{"res.time": "time_emb_proj", "res.skip": "conv_shortcut"},
    **{"attention.norm": "group_norm", "attention.qkv": "qkv", "attention.out": "to_out.0"},
}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # of attention, before 2023


def from_diffusers(config: dict[str, Any], tensors: dict[str, Tensor], untold: bool = False) -> UNet:
    """The UNet that computes what diffusers' UNet2DModel of that `config` computes with those tensors.

    Raises ValueError naming the entry of `config`, its value and what is allowed, or the tensor that is missing.
    """
    config, tensors = _completed(instance(config, "config", dict), DIFFUSERS, DIFFUSERS_ALLOWED), _with_qkv(tensors)
    network = UNet(**_diffusers_options(config, tensors, untold))
    if config["flip_sin_to_cos"]:
        _swap_halves(tensors, "time_embedding.linear_1.weight")
    if network.config["learned_variance"]:
        _halve_v(tensors, "conv_out")
    return _fill(network, tensors, dict(_diffusers_names(network)), untold, classes="class_embedding.weight")


def _diffusers_options(config: dict[str, Any], tensors: dict[str, Tensor], untold: bool) -> dict[str, Any]:
    size, widths = config["sample_size"], _ints(config["block_out_channels"], "block_out_channels")
    count(config["layers_per_block"], "layers_per_block")
    if not widths or min(widths) < 1:
        raise _refusal("block_out_channels", widths, "a list of ints above 0, one for each level")
    if isinstance(size, (list, tuple)) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise _refusal("sample_size", size, "one int, the side of square images")
    if any(width % widths[0] for width in widths):
        raise _refusal("block_out_channels", widths, f"multiples of the first, {widths[0]}")
    for name in ("down_block_types", "up_block_types"):
        if not isinstance(config[name], (list, tuple)) or not all(isinstance(kind, str) for kind in config[name]):
            raise _refusal(name, config[name], "a list of names, one for each level")
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    for name, types in (("down_block_types", down), ("up_block_types", up)):
        kinds = [f"{attention}{name.split('_')[0].title()}Block2D" for attention in ("", "Attn")]
        if len(types) != len(widths) or set(types) - set(kinds):
            raise _refusal(name, types, f"one of {kinds[0]}, {kinds[1]} for each of the {len(widths)} levels")
    attends = [kind.startswith("Attn") for kind in down]
    if [kind.startswith("Attn") for kind in up] != attends[::-1]:
        raise _refusal("up_block_types", up, "attention on the same levels as down_block_types")
    if config["out_channels"] not in (config["in_channels"], 2 * config["in_channels"]):
        raise _refusal("out_channels", config["out_channels"], "in_channels, or twice that for a learned variance")
    heads, groups, middle = config["attention_head_dim"], config["norm_num_groups"], config["attn_norm_num_groups"]
    if heads is not None and (not isinstance(heads, int) or heads < 1 or any(width % heads for width in widths)):
        raise _refusal("attention_head_dim", heads, f"None, or an int that divides all of block_out_channels = {widths}")
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    bare = scale_shift and "mid_block.attentions.0.group_norm.weight" not in tensors
    if middle not in (None, groups) or bare:
        raise _refusal("attn_norm_num_groups", middle, f"norm_num_groups = {groups}: the middle's attention is normalised too")
    return {
        "size": size,
        "channels": config["in_channels"],
        "base": widths[0],
        "multipliers": [width // widths[0] for width in widths],
        "blocks": config["layers_per_block"],
        "attention": [size >> level for level, attend in enumerate(attends) if attend],
        "dropout": config["dropout"],
        "head_channels": heads,
        "classes": _classes(config["num_class_embeds"], "num_class_embeds", untold),
        "learned_variance": config["out_channels"] != config["in_channels"],
        "groups": groups,
        "norm_eps": config["norm_eps"],
        "shift": config["freq_shift"],
        "scale_shift": scale_shift,
        "pad_all": bool(config["downsample_padding"]),
        "first_t": 0,
    }


def _diffusers_names(network: UNet) -> Iterator[tuple[str, str]]:
    """Pairs of our prefix and theirs; those of parts that the network does not have are never asked for."""

    def block(ours: str, theirs: str, i: int) -> Iterator[tuple[str, str]]:
        for part, name in DIFFUSERS_BLOCK.items():
            yield f"{ours}.{part}", f"{theirs}.{'resnets' if part.startswith('res') else 'attentions'}.{i}.{name}"

    yield from [("time.0", "time_embedding.linear_1"), ("time.2", "time_embedding.linear_2"), ("first", "conv_in")]
    yield from [("last.0", "conv_norm_out"), ("last.2", "conv_out")]
    yield from [*block("middle.0", "mid_block", 0), *block("middle.1", "mid_block", 1)]
    down, up = network.config["blocks"], network.config["blocks"] + 1
    for way, blocks, modules in (("down", down, network.down), ("up", up, network.up)):
        for k in range(len(modules)):
            level, i = divmod(k, blocks + 1)  # theirs: a level's blocks, then the way to the next
            if i < blocks:
                yield from block(f"{way}.{k}", f"{way}_blocks.{level}", i)
            else:
                yield f"{way}.{k}.conv", f"{way}_blocks.{level}.{way}samplers.0.conv"


def _with_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old names of attention brought up to date, and its three matrices as the one that `Attention` holds."""
    new: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        *path, layer, kind = name.split(".")
        new[".".join([*path, OLD_NAMES.get(layer, layer) if "attentions" in path else layer, kind])] = tensor
    for name in [name for name in new if ".to_q." in name]:
        three = [name.replace("to_q", part) for part in ("to_q", "to_k", "to_v")]
        try:
            new[name.replace("to_q", "qkv")] = torch.cat([new.pop(part) for part in three])
        except KeyError as error:
            raise ValueError(f"the weights lack {error.args[0]}") from None
    return new


# OpenAI's improved-diffusion --------------------------------------------------------------------------------------

# The original's own defaults for a configuration that leaves an entry out.
OPENAI = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "learn_sigma": False,
    "class_cond": False,
    "diffusion_steps": 1000,
    "rescale_timesteps": True,
    "use_checkpoint": False,
    "use_scale_shift_norm": True,
    "use_new_attention_order": False,
}
OPENAI_ALLOWED = {"predict_xstart": (False,), "conv_resample": (True,), "resblock_updown": (False,), "dims": (2,)}
# What speaks of the diffusion or of the arithmetic and leaves the network as it is.
OPENAI_OTHER = ["sigma_small", "noise_schedule", "timestep_respacing", "use_kl", "rescale_learned_sigmas", "use_fp16"]
OPENAI_MULTIPLIERS = {256: [1, 1, 2, 2, 4, 4], 128: [1, 1, 2, 3, 4], 64: [1, 2, 3, 4], 32: [1, 2, 2, 2]}
OPENAI_BLOCK = {
    "res.norm1": "0.in_layers.0",
    "res.conv1": "0.in_layers.2",
    "res.time": "0.emb_layers.1",
    "res.norm2": "0.out_layers.0",
    "res.conv2": "0.out_layers.3",
    "res.skip": "0.skip_connection",
    "attention.norm": "1.norm",
    "attention.qkv": "1.qkv",
    "attention.out": "1.proj_out",
}


def from_openai(tensors: dict[str, Tensor], untold: bool = False, **config: Any) -> UNet:
    """The UNet that computes what improved-diffusion's network of that configuration computes with those tensors."""
    allowed = {*OPENAI, *OPENAI_ALLOWED, *OPENAI_OTHER, "num_heads_upsample"}
    if unknown := sorted(set(config) - allowed):
        raise _refusal(unknown[0], config[unknown[0]], f"an entry of improved-diffusion: {', '.join(sorted(allowed))}")
    config = _completed(config, OPENAI, OPENAI_ALLOWED)
    if config.get("num_heads_upsample", -1) not in (-1, config["num_heads"]):
        raise _refusal("num_heads_upsample", config["num_heads_upsample"], f"-1 or num_heads = {config['num_heads']}")
    size = count(config["image_size"], "image_size")
    for name in ("num_channels", "num_res_blocks", "num_heads", "diffusion_steps"):
        count(config[name], name)
    multipliers = _ints(config["channel_mult"], "channel_mult") or OPENAI_MULTIPLIERS.get(size, [])
    if not multipliers or multipliers[0] != 1:
        raise _refusal("channel_mult", config["channel_mult"] or None, f"integers, the first 1, for image_size = {size}")
    tensors = dict(tensors)
    if config["class_cond"] and "label_emb.weight" not in tensors:
        raise ValueError("the weights lack label_emb.weight, which class_cond = True asks for")
    labels = len(tensors["label_emb.weight"]) if config["class_cond"] else None
    heads = config["num_head_channels"]
    network = UNet(
        size=size,
        channels=tensors["input_blocks.0.0.weight"].shape[1] if "input_blocks.0.0.weight" in tensors else 3,
        base=config["num_channels"],
        multipliers=multipliers,
        blocks=config["num_res_blocks"],
        attention=_ints(config["attention_resolutions"], "attention_resolutions"),
        dropout=config["dropout"],
        heads=config["num_heads"] if heads == -1 else 1,
        head_channels=None if heads == -1 else heads,
        classes=_classes(labels, "class_cond", untold),
        learned_variance=config["learn_sigma"],
        checkpointing=config["use_checkpoint"],
        groups=32,
        norm_eps=1e-5,
        shift=0,
        scale_shift=config["use_scale_shift_norm"],
        pad_all=True,
        first_t=0,
        t_scale=1000.0 / config["diffusion_steps"] if config["rescale_timesteps"] else 1.0,
    )
    _swap_halves(tensors, "time_embed.0.weight")
    if config["learn_sigma"]:
        _halve_v(tensors, "out.2")
    if not config["use_new_attention_order"]:
        for name in [name for name in tensors if ".qkv." in name]:
            tensors[name] = _by_heads(tensors[name], network.config["heads"], network.config["head_channels"])
    return _fill(network, tensors, dict(_openai_names(network)), untold, classes="label_emb.weight")


def _openai_names(network: UNet) -> Iterator[tuple[str, str]]:
    yield from [("time.0", "time_embed.0"), ("time.2", "time_embed.2"), ("first", "input_blocks.0.0")]
    yield from [("last.0", "out.0"), ("last.2", "out.2")]
    for part, name in OPENAI_BLOCK.items():
        yield f"middle.0.{part}", f"middle_block.{name}"
        if part.startswith("res."):
            yield f"middle.1.{part}", f"middle_block.2{name[1:]}"
    blocks, attended = network.config["blocks"], {name for name, _ in network.named_parameters()}
    for k in range(len(network.down)):
        yield f"down.{k}.conv", f"input_blocks.{k + 1}.0.op"
        yield from ((f"down.{k}.{part}", f"input_blocks.{k + 1}.{name}") for part, name in OPENAI_BLOCK.items())
    for k in range(len(network.up)):
        level, i = divmod(k, blocks + 2)
        theirs = f"output_blocks.{level * (blocks + 1) + min(i, blocks)}"
        if i > blocks:  # the way up: theirs stands in one block with what came before it
            yield f"up.{k}.conv", f"{theirs}.{2 if f'up.{k - 1}.attention.norm.weight' in attended else 1}.conv"
        else:
            yield from ((f"up.{k}.{part}", f"{theirs}.{name}") for part, name in OPENAI_BLOCK.items())


def _ints(value: Any, name: str) -> list[int]:
    """A list of ints that may be written "16,8"."""
    try:
        parts = [part for part in value.split(",") if part] if isinstance(value, str) else list(value)
        if any(int(part) != float(part) for part in parts):
            raise ValueError
        return [int(part) for part in parts]
    except (TypeError, ValueError):
        raise _refusal(name, value, "integers, as in '16,8'") from None


def _by_heads(qkv: Tensor, heads: int, head_channels: int | None) -> Tensor:
    """Rows that go head by head, each with its q, k and v, put into our order: all q, all k, all v."""
    heads = len(qkv) // 3 // head_channels if head_channels else heads
    return qkv.reshape(heads, 3, len(qkv) // 3 // heads, *qkv.shape[1:]).transpose(0, 1).reshape(qkv.shape)


# Both -------------------------------------------------------------------------------------------------------------


def _refusal(name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{name} = {value!r} is not what this U-Net computes; allowed: {allowed}")


def _completed(config: dict[str, Any], defaults: dict[str, Any], allowed: dict[str, tuple]) -> dict[str, Any]:
    """The configuration with what it leaves out; `allowed` lists values of which the first is the default."""
    config = {**defaults, **{name: values[0] for name, values in allowed.items()}, **config}
    for name, values in allowed.items():
        if config[name] not in values:
            raise _refusal(name, config[name], " or ".join(map(repr, values)))
    return config


def _classes(labels: int | None, name: str, untold: bool) -> int:
    if labels is not None:
        count(labels, name)
    if untold and not (labels and labels > 1):
        raise ValueError(f"untold = True needs a network with two labels or more; {name} says there are {labels or 0}")
    return (labels or 0) - untold


def _swap_halves(tensors: dict[str, Tensor], name: str) -> None:
    """The first layer of the time, for sines before cosines where it was trained with cosines before sines."""
    if name in tensors:
        tensors[name] = tensors[name].roll(tensors[name].shape[1] // 2, dims=1)


def _halve_v(tensors: dict[str, Tensor], name: str) -> None:
    """Their v runs from -1 (β̃) to 1 (β), ours from 0 to 1: (v + 1)/2, done in the last layer."""
    for part, add in (("weight", 0.0), ("bias", 0.5)):
        if f"{name}.{part}" in tensors:
            mean, v = tensors[f"{name}.{part}"].chunk(2)
            tensors[f"{name}.{part}"] = torch.cat([mean, v / 2 + add])


def _fill(network: UNet, tensors: dict[str, Tensor], names: dict[str, str], untold: bool, classes: str) -> UNet:
    """Our parameters from their tensors, by the pairs of prefixes; in their precision, and float32 at least."""
    state, left = network.state_dict(), dict(tensors)
    for ours, want in state.items():
        prefix, _, kind = ours.rpartition(".")
        theirs = classes if prefix == "classes" else f"{names[prefix]}.{kind}"
        if theirs not in left:
            raise ValueError(f"the weights lack {theirs} (shape {tuple(want.shape)})")
        got = left.pop(theirs)
        if prefix == "classes" and not untold:  # nothing was trained for "not told": NaN says so at once
            got = torch.cat([got, torch.full_like(got[:1], float("nan"))])
        got = got.reshape(got.shape + (1,) * (want.ndim - got.ndim))  # linear layers as 1×1 convolutions
        if got.shape != want.shape:
            raise ValueError(f"{theirs} has shape {tuple(got.shape)}, the configuration asks for {tuple(want.shape)}")
        state[ours] = got
    if left:
        raise ValueError(f"the weights hold {sorted(left)[0]}, for which the configuration has no place")
    network.to(reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()), torch.float32))
    network.load_state_dict(state)
    return network.eval()
