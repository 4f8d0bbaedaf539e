"""Trained networks on disk: tensors as safetensors, and beside them a JSON card of how they were made.

Nothing is ever unpickled: a weight file cannot run code. Files are written under another name first and then moved
into place, so a crash leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from . import published
from ._args import count, device_of, instance
from .metrics import Judge
from .mlp import MLP
from .schedules import NoiseSchedule
from .unet import UNet

MODEL_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # diffusers' names, best first
NETWORKS: dict[str, type[nn.Module]] = {"UNet": UNet, "MLP": MLP, "Judge": Judge}


class WeightsError(ValueError):
    """A weight file that cannot be read, or is not what was asked for."""


# A network and its card -------------------------------------------------------------------------------------------


def build_network(kind: str, **config: Any) -> nn.Module:
    """The untrained network of that kind ("UNet", "MLP" or "Judge"); `config` are the arguments of its class."""
    if instance(kind, "kind", str) not in NETWORKS:
        raise ValueError(f"network kind = {kind!r} must be one of {', '.join(NETWORKS)}")
    return NETWORKS[kind](**config)


def build_schedule(kind: str, T: int) -> NoiseSchedule:
    """The noise schedule of that kind with T steps and the paper's constants."""
    kinds = {"linear": NoiseSchedule.linear, "cosine": NoiseSchedule.cosine, "quadratic": NoiseSchedule.quadratic}
    if instance(kind, "schedule", str) not in kinds:
        raise ValueError(f"schedule = {kind!r} must be one of {', '.join(kinds)}")
    return kinds[kind](T)


def save(path: str | Path, network: nn.Module, card: dict[str, Any], dtype: torch.dtype | None = None) -> None:
    """Write the network's weights to `path` (…safetensors) and its card to the same name ending in .json.

    `dtype` rounds the numbers for a smaller file, say to torch.float16; `load` gives float32 all the same.
    The card gets the entry "network", from which `load` rebuilds it. The weight file carries that and the card's
    "config" in its header, so it can be used alone.
    """
    if type(network).__name__ not in NETWORKS:
        raise TypeError(f"network must be one of {', '.join(NETWORKS)}, got {type(network).__name__}")
    if dtype is not None and not instance(dtype, "dtype", torch.dtype).is_floating_point:
        raise ValueError(f"dtype = {dtype} must be a floating one, say torch.float16")
    description = {"kind": type(network).__name__, **network.config}  # type: ignore[dict-item]
    _card_bytes(card)  # before anything is written
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in network.state_dict().items()}
    essence = json.dumps({"network": description, "config": card.get("config", {})})
    write_tensors(path, tensors, {"format": "ddpm_edu weights", "card": essence})
    write_card(path, {**card, "network": description})


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The network stored at `path`, ready to use (in eval mode), and its card (without a .json: only network and config).

    Raises FileNotFoundError, or WeightsError that says what is wrong with the file.
    """
    device = device_of(device)
    tensors, header = read_tensors(path)
    if header.get("format") != "ddpm_edu weights":
        raise WeightsError(f"{path} holds tensors, but not the weights of a ddpm_edu network (format {header.get('format')!r})")
    try:
        essence = json.loads(header["card"])
        network = build_network(**essence["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not say which network it belongs to: {error}") from error
    load_into(network, tensors, path)
    return network.to(device).eval(), {**read_card(path), **essence}


def load_into(network: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Copy the tensors into the network; raises WeightsError naming the first that is missing, extra or misshapen."""
    want = network.state_dict()
    instance(tensors, "tensors", dict)
    for name in want:
        if name not in tensors:
            raise WeightsError(f"{path} is of another network: it lacks {name} (shape {tuple(want[name].shape)})")
        if tensors[name].shape != want[name].shape:
            raise WeightsError(
                f"{path} is of another network: {name} has shape {tuple(tensors[name].shape)}, "
                f"this network needs {tuple(want[name].shape)}"
            )
    extra = sorted(set(tensors) - set(want))
    if extra:
        raise WeightsError(f"{path} is of another network: it holds {extra[0]}, which this network does not have")
    network.load_state_dict(tensors)


def shipped(name: str = "digits") -> Path:
    """Path of a checkpoint that comes with the project."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_weights", here.parent / "weights"):  # installed; in the repository
        if (folder / f"{name}.safetensors").is_file():
            return folder / f"{name}.safetensors"
    raise FileNotFoundError(f"no shipped checkpoint {name!r}: looked for {here.parent / 'weights' / name}.safetensors")


# Published networks -------------------------------------------------------------------------------------------------


def from_diffusers(source: Any, untold: bool = False) -> UNet:
    """A published DDPM as our `UNet`: eps_hat = network(x_t, t) with t = 1..T, as everywhere here; in eval mode, on the CPU.

    `source` is a folder with config.json and diffusion_pytorch_model.safetensors (or .bin; tensors only, nothing is
    unpickled; diffusers need not be installed), the folder of a whole pipeline, or a UNet2DModel itself. The network
    computes the same numbers, but counts steps from 1; where it was trained with twice the channels (a learned
    variance, v from -1 to 1), v is 0 for β̃ and 1 for β. `untold` says that the last of `num_class_embeds` was trained
    for images without a label; otherwise all are classes, and leaving y out gives NaN. Half precision becomes float32,
    float64 stays.
    Raises FileNotFoundError, WeightsError for a damaged file, and ValueError naming the entry of the configuration that
    our network cannot compute, its value and what is allowed.
    """
    if hasattr(source, "state_dict") and hasattr(source, "config"):
        return published.from_diffusers(dict(source.config), source.state_dict(), untold)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"source must be a folder or a UNet2DModel, got {type(source).__name__}")
    folder = Path(source)
    if (folder / "unet" / "config.json").is_file():
        folder = folder / "unet"
    if not (folder / "config.json").is_file():
        hint = f"; weights.from_hub({str(source)!r}) downloads" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) else ""
        raise FileNotFoundError(f"no config.json in {folder}{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    for name in MODEL_FILES:
        if (folder / name).is_file():
            return published.from_diffusers(config, read_foreign(folder / name), untold)
    raise FileNotFoundError(f"{folder} holds none of {', '.join(MODEL_FILES)}")


def from_openai(source: Any, untold: bool = False, **config: Any) -> UNet:
    """A network of OpenAI's improved-diffusion as our `UNet`, in eval mode: t = 1..T, sines and heads in our order.

    `source` is its state dict, or the .pt file that holds it. `config` are the flags it was trained with, under their names
    there, image_size, num_channels, learn_sigma, class_cond, diffusion_steps, rescale_timesteps …; those left out have
    that project's defaults. `untold` and what raises as in `from_diffusers`.
    """
    tensors = read_foreign(source) if isinstance(source, (str, Path)) else source
    if not (isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise TypeError(f"source must be a state dict or a file, got {type(source).__name__}")
    return published.from_openai(tensors, untold, **config)


def from_hub(repo: str, untold: bool = False) -> UNet:
    """Download a diffusers model from the Hugging Face hub, say "google/ddpm-cifar10-32", and import it.

    Needs the network and huggingface_hub (pip install "ddpm-edu[hub]"); files are kept in its cache. Takes the
    safetensors where the repository has them.
    """
    try:
        from huggingface_hub import hf_hub_download, list_repo_files
    except ImportError as error:
        raise ImportError('from_hub needs huggingface_hub: pip install "ddpm-edu[hub]"') from error
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", instance(repo, "repo", str)):
        raise ValueError(f"repo = {repo!r} must be the name of a repository, such as 'google/ddpm-cifar10-32'")
    files = list_repo_files(repo)
    place = "unet/" if "unet/config.json" in files else ""
    found = [place + name for name in MODEL_FILES if place + name in files]
    if place + "config.json" not in files or not found:
        raise WeightsError(f"{repo} holds no UNet2DModel: no config.json with one of {', '.join(MODEL_FILES)}")
    hf_hub_download(repo, found[0])
    return from_diffusers(Path(hf_hub_download(repo, place + "config.json")).parent, untold)


# Cards ------------------------------------------------------------------------------------------------------------


def card_path(path: str | Path) -> Path:
    """Where the card of the weight file at `path` lies."""
    return path_of(path).with_suffix(".json")


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of the weight file at `path`; {} where there is none."""
    file = card_path(path)
    if not file.exists():
        return {}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{file} is not the card of a weight file: it holds a {type(card).__name__}")
    return card


def write_card(path: str | Path, card: dict[str, Any]) -> None:
    """Write the card of the weight file at `path`."""
    write_bytes(card_path(path), _card_bytes(card))


def _card_bytes(card: dict[str, Any]) -> bytes:
    try:
        return (json.dumps(instance(card, "card", dict), indent=1, ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"card must be a dict of plain numbers, texts, lists and dicts: {error}") from None


# Files ------------------------------------------------------------------------------------------------------------


def path_of(path: str | Path, name: str = "path") -> Path:
    """The path, or a TypeError that names it."""
    return Path(instance(path, name, str, os.PathLike))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new, never half of it."""
    path, content = path_of(path), instance(content, "content", bytes)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's files are private
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and a header of strings as one safetensors file, with a checksum of both in the header."""
    for key, value in instance(header, "header", dict).items():
        instance(value, f"header[{key!r}]", str)
    whole = {name: instance(x, f"tensors[{name!r}]", Tensor).contiguous() for name, x in tensors.items()}
    write_bytes(path, safetensors.torch.save(whole, {**header, "crc32": _checksum(whole, header)}))


def _checksum(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """CRC-32 of everything in the file: a flipped bit of a weight would otherwise be another weight."""
    crc = zlib.crc32(json.dumps({**header, "crc32": ""}, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {x.dtype} {tuple(x.shape)}".encode(), crc)
        crc = zlib.crc32(x.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; raises FileNotFoundError, or WeightsError if it is not one."""
    if not path_of(path).is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file (cut short, damaged or another kind): {error}") from error
    if "crc32" in header and header["crc32"] != _checksum(tensors, header):  # files from elsewhere have none
        raise WeightsError(f"{path} is not a whole safetensors file (damaged): its content does not have its checksum")
    return tensors, {name: text for name, text in header.items() if name != "crc32"}


def read_foreign(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of one of torch.save, of which nothing but tensors is read."""
    if Path(path).suffix == ".safetensors" or not Path(path).is_file():
        return read_tensors(path)[0]
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make it raise anything
        raise WeightsError(
            f"{path} cannot be read as plain tensors: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error
    if not (isinstance(tensors, dict) and all(isinstance(tensor, Tensor) for tensor in tensors.values())):
        raise WeightsError(f"{path} is not a state dict: names with a tensor each")
    return tensors


def check_writable(path: str | Path, size: int = 2**16) -> Path:
    """`path`, if a file of `size` bytes can be written there; its folder is made. Raises OSError before any work is lost."""
    path, size = path_of(path), count(size, "size", low=0)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent, buffering=0) as file:  # quotas and full disks show only when one writes
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))
    except OSError as error:
        what = f"{path}, of {size / 1e6:.0f} MB" if size >= 2**20 else str(path)
        raise OSError(f"cannot write {what}: {error.strerror or error}") from error
    return path
