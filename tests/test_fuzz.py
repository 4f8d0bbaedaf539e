"""Damaged files: every reader names the file in a WeightsError, ValueError or OSError; nothing hangs."""

import json
import os
import pickle
import random
import resource
import struct

import pytest
import torch
from conftest import write_mnist

from ddpm_edu import data, weights
from ddpm_edu.mlp import MLP
from ddpm_edu.training import TrainConfig, TrainState
from ddpm_edu.weights import WeightsError

DOTS = TrainConfig(
    data="two_moons", network={"kind": "MLP", "width": 4, "layers": 1}, T=10, steps=6, batch=8, precision="float32"
)
DIFFUSERS = {"_class_name": "UNet2DModel", "sample_size": 8, "block_out_channels": [32], "layers_per_block": 1}


def damaged(whole: bytes, n: int, seed: int):
    """n damaged versions: random bytes, cut short, bits flipped anywhere and in the head, pieces doubled or zeroed."""
    rng = random.Random(seed)
    for k in range(n):
        kind, content = k % 6, bytearray(whole)
        if kind == 0:
            content = bytearray(rng.randbytes(rng.choice([0, 1, 7, 8, 100, len(whole)])))
        elif kind == 1:
            content = content[: rng.randrange(len(whole))]
        elif kind in (2, 3):
            for _ in range(rng.choice([1, 1, 3, 30])):
                at = rng.randrange(len(whole) if kind == 2 else min(len(whole), 600))
                content[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            at = rng.randrange(len(whole))
            content[at:at] = content[at : at + rng.randrange(1, 200)]
        else:
            at = rng.randrange(len(whole))
            content[at : at + 40] = bytes(len(content[at : at + 40]))
        if bytes(content) != whole:
            yield bytes(content)


def read_or_refuse(read, path, errors=(ValueError, OSError)):
    """Whether the file was refused, in an error that names it."""
    try:
        read()
    except errors as error:
        assert path.name in str(error), f"{type(error).__name__} does not name {path.name}: {error}"
        return True
    return False


@pytest.fixture(autouse=True)
def little_memory():
    """At most 4 GB more than now: a file that announces 2^31 images is refused, not believed."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**32, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "numbers",
    [
        "[]",
        "{",
        "3",
        '{"config": 3}',
        '{"config": {"network": 3}}',
        '{"config": {"T": "x"}}',
        '{"config": {"unknown": 1}}',
        "null",
    ],
)
def test_headers_that_are_whole_but_say_nonsense(tmp_path, numbers):
    path, net = tmp_path / "state.safetensors", tmp_path / "net.safetensors"
    weights.write_tensors(path, {"x": torch.zeros(1)}, {"format": "ddpm_edu checkpoint", "state": numbers})
    weights.write_tensors(net, {"x": torch.zeros(1)}, {"format": "ddpm_edu weights", "card": numbers})
    assert read_or_refuse(lambda: TrainState.load(path), path, WeightsError)
    assert read_or_refuse(lambda: weights.load(net), net, WeightsError)


def test_cards(tmp_path):
    path = tmp_path / "net.safetensors"
    weights.save(path, MLP(width=4, layers=1), {"seed": 3, "text": "größer"})
    card = weights.card_path(path)
    refused = 0
    for content in [*damaged(card.read_bytes(), 200, seed=2), b"[1]", b"NaN", b"\xff\xfe", b"[" * 100_000]:
        card.write_bytes(content)
        refused += read_or_refuse(lambda: weights.read_card(path), card)
    assert refused > 100  # a flipped bit inside a text is another text: JSON has no checksum


def test_files_of_torch_save(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(MLP(width=4, layers=1).state_dict(), path)
    whole, refused = path.read_bytes(), 0
    torch.save(MLP(width=4, layers=1).state_dict(), path, _use_new_zipfile_serialization=False)
    for content in [*damaged(whole, 200, seed=3), *damaged(path.read_bytes(), 200, seed=4)]:
        path.write_bytes(content)
        refused += read_or_refuse(lambda: weights.read_foreign(path), path, WeightsError)
    assert refused > 200  # a flipped bit of a number is another number there: see weights.write_tensors for ours


def test_configurations_of_diffusers(tmp_path):
    path = tmp_path / "config.json"
    weights.write_tensors(tmp_path / weights.MODEL_FILES[0], {"x": torch.zeros(1)}, {})
    for content in [*damaged(json.dumps(DIFFUSERS).encode(), 200, seed=5), b"[]", b"3", b"null", b"{}", b"[" * 100_000]:
        path.write_bytes(content)
        with pytest.raises((ValueError, TypeError)) as caught:
            weights.from_diffusers(tmp_path)
        assert len(str(caught.value)) > 20


def test_idx_files(tmp_path):
    pytest.importorskip("torchvision")
    folder = write_mnist(tmp_path) / "MNIST" / "raw"
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        whole = (folder / name).read_bytes()
        announced = whole[:4] + struct.pack(">I", 2**31) + whole[8:]
        for content in [announced, whole[:3] + b"\xff" + whole[4:], *damaged(whole, 60, seed=6)]:
            (folder / name).write_bytes(content)
            read_or_refuse(lambda: data.load("mnist", tmp_path), folder / "train-images-idx3-ubyte")
        (folder / name).write_bytes(announced)
        with pytest.raises(OSError, match="torchvision cannot read the set"):
            data.load("mnist", tmp_path)
        (folder / name).write_bytes(whole)


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_no_pickle_is_executed(tmp_path, write):
    for name in ("bomb.pt", "bomb.bin", "bomb.safetensors"):
        write({"x": Bomb(tmp_path / "exploded")}, tmp_path / name)
        for read in (weights.read_foreign, weights.from_openai, weights.load, TrainState.load):
            assert read_or_refuse(lambda: read(tmp_path / name), tmp_path / name, WeightsError)  # noqa: B023
    assert not (tmp_path / "exploded").exists()


def test_no_pickle_is_executed_in_the_place_of_cifars(tmp_path):
    pytest.importorskip("torchvision")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps({"data": Bomb(tmp_path / "exploded"), "labels": [0]}))
    for split in ("train", "test"):  # CIFAR-10 comes as pickles: torchvision opens those whose MD5 it knows, and no other
        with pytest.raises(OSError, match="cannot read the set"):
            data.load("cifar10", tmp_path, split=split)
    assert not (tmp_path / "exploded").exists()
