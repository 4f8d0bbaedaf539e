"""Weights on disk: what is saved comes back, and nothing else is accepted."""

import json
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from ddpm_edu import weights
from ddpm_edu.mlp import MLP
from ddpm_edu.unet import UNet
from ddpm_edu.weights import WeightsError

SMALL = dict(size=4, channels=1, base=8, multipliers=[1], blocks=1, attention=[])


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.safetensors"
    torch.manual_seed(0)
    network = UNet(**SMALL)
    torch.nn.init.normal_(network.last[-1].weight)
    weights.save(path, network, {"seed": 3, "config": {"T": 10}})
    return path, network


def test_what_is_saved_comes_back(saved):
    path, network = saved
    again, card = weights.load(path)
    x_t, t = torch.randn(2, 1, 4, 4), torch.tensor([1, 10])
    assert torch.equal(network.eval()(x_t, t), again(x_t, t)) and again(x_t, t).abs().max() > 0
    assert not again.training
    assert card["seed"] == 3 and card["network"] == {"kind": "UNet", **network.config}
    assert SMALL.items() <= card["network"].items() and card["network"]["heads"] == 1
    assert [p.name for p in path.parent.iterdir()] and {p.suffix for p in path.parent.iterdir()} == {".safetensors", ".json"}


def test_the_weight_file_can_be_used_without_its_card(saved):
    path, network = saved
    weights.card_path(path).unlink()
    again, card = weights.load(path)
    assert card["config"] == {"T": 10} and torch.equal(again.first.weight, network.first.weight)


def test_mlp_too(tmp_path):
    weights.save(tmp_path / "m.safetensors", MLP(width=8, layers=1), {})
    assert weights.load(tmp_path / "m.safetensors")[0].config == {"dim": 2, "width": 8, "layers": 1, "learned_variance": False}


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file at .*nothing\.safetensors"):
        weights.load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="'unicorns'"):
        weights.shipped("unicorns")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_cut_short(saved, keep):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"net\.safetensors is not a whole safetensors file"):
        weights.load(path)


def test_damaged_header(saved):
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        weights.load(path)


def test_a_pickle_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"x": Bomb()}, tmp_path / "bomb.safetensors")
    with pytest.raises(WeightsError):
        weights.load(tmp_path / "bomb.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_foreign_file(tmp_path):
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="not the weights of a ddpm_edu network"):
        weights.load(path)


def test_another_shape(saved):
    path, network = saved
    tensors, _ = weights.read_tensors(path)
    with pytest.raises(WeightsError, match=r"time\.0\.weight has shape \(32, 8\), this network needs \(48, 12\)"):
        weights.load_into(UNet(**{**SMALL, "base": 12}), tensors, path)
    with pytest.raises(WeightsError, match=r"it lacks down\.1"):
        weights.load_into(UNet(**{**SMALL, "blocks": 2}), tensors, path)
    with pytest.raises(WeightsError, match="it holds extra"):
        weights.load_into(network, {**tensors, "extra": torch.zeros(1)}, path)


def test_header_of_another_world(saved):
    path, network = saved
    essence = json.dumps({"network": {"kind": "Transformer"}})
    weights.write_tensors(path, network.state_dict(), {"format": "ddpm_edu weights", "card": essence})
    with pytest.raises(WeightsError, match="'Transformer' must be one of UNet, MLP"):
        weights.load(path)


def test_broken_card(saved):
    path, _ = saved
    for content in ("{ not json", "[1, 2]"):
        weights.card_path(path).write_text(content)
        with pytest.raises(WeightsError, match=r"net\.json"):
            weights.load(path)


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*net\.safetensors: No space left"):
        weights.write_bytes(path, b"new")
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_check_writable(tmp_path):
    assert weights.check_writable(tmp_path / "new" / "file.png").parent.is_dir()
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        weights.check_writable(tmp_path / "file" / "below.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        weights.check_writable(tmp_path)


def test_check_writable_writes_as_much_as_will_be_needed(tmp_path):
    code = f"""
import resource
from ddpm_edu import weights
resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21))
weights.check_writable({str(tmp_path / "x")!r}, 2**21)
try:
    weights.check_writable({str(tmp_path / "x")!r}, 2**21 + 1)
except OSError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == f"cannot write {tmp_path / 'x'}, of 2 MB: File too large", run.stderr
    assert not any(tmp_path.iterdir())


def test_refuses_unknown_kinds():
    with pytest.raises(ValueError, match="'GAN'"):
        weights.build_network("GAN")
    with pytest.raises(ValueError, match="schedule = 'square'"):
        weights.build_schedule("square", 10)
