"""Trained networks on disk: tensors as safetensors, and beside them a JSON card of how they were made.

Nothing is ever unpickled: a weight file cannot run code. Files are written under another name first and then moved
into place, so a crash leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .mlp import MLP
from .schedules import NoiseSchedule
from .unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"UNet": UNet, "MLP": MLP}


class WeightsError(ValueError):
    """A weight file that cannot be read, or is not what was asked for."""


# A network and its card -------------------------------------------------------------------------------------------


def build_network(kind: str, **config: Any) -> nn.Module:
    """The untrained network of that kind ("UNet" or "MLP"); `config` are the arguments of its class."""
    if kind not in NETWORKS:
        raise ValueError(f"network kind = {kind!r} must be one of {', '.join(NETWORKS)}")
    return NETWORKS[kind](**config)


def build_schedule(kind: str, T: int) -> NoiseSchedule:
    """The noise schedule of that kind with T steps and the paper's constants."""
    kinds = {"linear": NoiseSchedule.linear, "cosine": NoiseSchedule.cosine, "quadratic": NoiseSchedule.quadratic}
    if kind not in kinds:
        raise ValueError(f"schedule = {kind!r} must be one of {', '.join(kinds)}")
    return kinds[kind](T)


def save(path: str | Path, network: nn.Module, card: dict[str, Any], dtype: torch.dtype | None = None) -> None:
    """Write the network's weights to `path` (…safetensors) and its card to the same name ending in .json.

    `dtype` rounds the numbers for a smaller file, say to torch.float16; `load` gives float32 all the same.
    The card gets the entry "network", from which `load` rebuilds it. The weight file carries that and the card's
    "config" in its header, so it can be used alone.
    """
    description = {"kind": type(network).__name__, **network.config}  # type: ignore[dict-item]
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in network.state_dict().items()}
    essence = json.dumps({"network": description, "config": card.get("config", {})})
    write_tensors(path, tensors, {"format": "ddpm_edu weights", "card": essence})
    write_card(path, {**card, "network": description})


def load(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The network stored at `path`, ready to use (in eval mode), and its card (without a .json: only network and config).

    Raises FileNotFoundError, or WeightsError that says what is wrong with the file.
    """
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


# Cards ------------------------------------------------------------------------------------------------------------


def card_path(path: str | Path) -> Path:
    """Where the card of the weight file at `path` lies."""
    return Path(path).with_suffix(".json")


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of the weight file at `path`; {} where there is none."""
    file = card_path(path)
    if not file.exists():
        return {}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(card, dict):
        raise WeightsError(f"{file} is not the card of a weight file: it holds a {type(card).__name__}")
    return card


def write_card(path: str | Path, card: dict[str, Any]) -> None:
    """Write the card of the weight file at `path`."""
    write_bytes(card_path(path), (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())


# Files ------------------------------------------------------------------------------------------------------------


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new, never half of it."""
    path = Path(path)
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
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and a header of strings as one safetensors file."""
    write_bytes(path, safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, header))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file; raises FileNotFoundError, or WeightsError if it is not one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weight file at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a whole safetensors file (cut short, damaged or another kind): {error}") from error


def check_writable(path: str | Path) -> Path:
    """`path`, if a file can be written there; its folder is made. Raises OSError before any work is lost."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    return path
