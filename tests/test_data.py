"""Data: scaling, the digits and their split, image sets read from files written here, and the toy sets."""

import gzip
import hashlib
import math
import pickle
import struct

import numpy as np
import pytest
import torch

from ddpm_edu import data


def test_scaling_round_trip_is_exact():
    for levels in (2, 17, 256):
        pixels = torch.arange(levels, dtype=torch.uint8)
        x = data.to_unit(pixels, levels)
        assert x[0] == -1 and x[-1] == 1 and x.dtype == torch.float32
        assert torch.allclose(x.diff(), torch.full((levels - 1,), 2 / (levels - 1)), atol=1e-6)
        assert torch.equal(data.to_pixels(x, levels), pixels)


def test_back_to_pixels_takes_the_nearest_level_and_the_ends():
    x = torch.tensor([-3.0, -1.0, -0.95, -0.93, 0.0, 0.99, 7.0])
    assert data.to_pixels(x, 17).tolist() == [0, 0, 0, 1, 8, 16, 16]
    assert data.to_bytes(x, 17).tolist() == [0, 0, 0, 16, 128, 255, 255]
    assert len(data.to_bytes(torch.linspace(-1, 1, 999), 17).unique()) == 17


def test_scaling_refuses():
    with pytest.raises(TypeError, match="uint8"):
        data.to_unit(torch.zeros(3))
    with pytest.raises(ValueError, match="value 17, but levels = 17"):
        data.to_unit(torch.tensor([17], dtype=torch.uint8), 17)
    with pytest.raises(ValueError, match="NaN"):
        data.to_pixels(torch.tensor([math.nan]))


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = data.digits()
    assert len(digits) == 1797 and digits.shape == (1, 8, 8) and digits.levels == 17
    x = digits[torch.tensor([5, 0])]
    assert x.shape == (2, 1, 8, 8) and x.dtype == torch.float32
    assert np.allclose(x[0, 0].numpy(), load_digits().images[5] / 8 - 1)
    assert len(digits[:].unique()) == 17


def test_split_keeps_the_held_out_fifth_apart_and_the_classes_in_proportion():
    split, labels = data.digits_split(), data.digits().labels
    A, B, H, train = (set(split[part].tolist()) for part in ("A", "B", "H", "train"))
    assert not A & B and A | B == set(range(1797)) and abs(len(A) - len(B)) <= 1
    assert H < B and not H & train and train | H == set(range(1797))
    assert abs(len(H) - 1797 / 5) < 3
    for part in ("A", "B", "H"):
        counts = torch.bincount(labels[split[part]], minlength=10)
        want = torch.bincount(labels) * len(split[part]) / 1797
        assert (counts - want).abs().max() <= 1
    assert torch.equal(data.digits_split()["H"], split["H"]) and not torch.equal(data.digits_split(1)["H"], split["H"])


def test_load_digits_gives_the_train_part_and_the_held_out_part():
    split, digits = data.digits_split(), data.digits()
    assert torch.equal(data.load("digits").pixels, digits.pixels[split["train"]])
    assert torch.equal(data.load("digits", split="test").labels, digits.labels[split["H"]])
    with pytest.raises(ValueError, match="split = 'dev'"):
        data.load("digits", split="dev")


def test_fingerprint_depends_on_every_pixel():
    digits = data.digits()
    changed = digits.pixels.clone()
    changed[7, 0, 3, 3] ^= 1
    assert digits.sha256() == data.digits().sha256() != data.ImageData("x", changed, digits.labels, 17).sha256()


# Image sets on disk, small ones written here in the published layouts -------------------------------------------------


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.delenv("DDPM_EDU_DATA", raising=False)
    rng = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST"):
        for part, n in (("train", 6), ("t10k", 4)):
            write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), np.uint8))
            write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(root, name, folder, monkeypatch):
    pytest.importorskip("torchvision")
    train, test = data.load(name, root), data.load(name, root, split="test")
    raw = np.frombuffer((root / folder / "raw" / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(6, 28, 28)
    assert train.shape == (1, 28, 28) and len(train) == 6 and len(test) == 4
    assert np.array_equal(train.pixels[:, 0].numpy(), raw)
    x = train[torch.tensor([2])]
    assert x.shape == (1, 1, 28, 28) and np.allclose(x[0, 0].numpy(), raw[2] / 127.5 - 1, atol=1e-6)
    monkeypatch.setenv("DDPM_EDU_DATA", str(root))
    assert torch.equal(data.load(name).pixels, train.pixels)


def test_cifar10(root, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype(np.uint8)

    def written(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    lists = [written(f"data_batch_{k}", {"data": rows + k, "labels": [k, 9 - k]}) for k in range(1, 6)]
    meta = written("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", lists)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    got = data.load("cifar10", root)
    assert got.shape == (3, 32, 32) and got.labels.tolist() == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
    assert np.array_equal(got.pixels[3].numpy().reshape(-1), rows[1] + 2)


def test_folder_of_images(tmp_path):
    from PIL import Image

    (tmp_path / "sub").mkdir()
    Image.new("RGB", (30, 20), (255, 0, 51)).save(tmp_path / "a.png")
    Image.new("L", (64, 64), 128).save(tmp_path / "sub" / "b.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    images = data.load(str(tmp_path), size=16)
    x = images[torch.tensor([0, 1])]
    assert len(images) == 2 and images.shape == (3, 16, 16) == x.shape[1:]
    assert torch.allclose(x[0].mean((1, 2)), torch.tensor([1.0, -1.0, -0.6]), atol=1e-6)
    assert (x[1] - 1 / 255).abs().max() < 0.02
    with pytest.raises(ValueError, match="no test split"):
        data.load(str(tmp_path), split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no image in"):
        data.load(str(tmp_path / "empty"))


def test_pictures_that_cannot_be_trained_on_are_named(tmp_path):
    """Among 200,000 files, at a random step: which one, and why."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    Image.fromarray(noise).save(tmp_path / "deep.png")  # would be clipped at 255: nearly white
    Image.fromarray((noise >> 8).astype(np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    images = data.load(str(tmp_path), size=16)
    names = [path.name for path in images.paths]
    assert abs(float(images[torch.tensor([names.index("whole.png")])].mean())) < 0.1
    for name, error, words in (("deep.png", ValueError, "more than 8 bits"), ("cut.png", OSError, "cannot be read")):
        with pytest.raises(error, match=f"{name} .*{words}"):
            images[torch.tensor([names.index(name)])]


@pytest.mark.parametrize(
    "name, file",
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("celeba", "celeba/img_align_celeba"),
    ],
)
def test_a_root_without_the_data_says_what_was_looked_for_and_how_to_get_it(tmp_path, name, file):
    pytest.importorskip("torchvision")
    with pytest.raises(FileNotFoundError) as caught:
        data.load(name, tmp_path)
    assert str(tmp_path / file) in str(caught.value) and "download=True" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_told(root):
    pytest.importorskip("torchvision")
    path = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FileNotFoundError, match="cannot read the set"):
        data.load("mnist", root)
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(gzip.compress(b"x"))
    with pytest.raises(FileNotFoundError, match="cannot read the set"):
        data.load("mnist", root, split="test")


def test_no_root_and_unknown_names(monkeypatch):
    monkeypatch.delenv("DDPM_EDU_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="--data-root or set DDPM_EDU_DATA"):
        data.load("mnist")
    with pytest.raises(ValueError, match="'imagenet' is neither one of digits"):
        data.load("imagenet")


# Toy sets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.TOYS)
def test_toys_are_seeded(name):
    points = data.toy(name, 500, seed=3)
    assert points.shape == (500, 2) and points.dtype == torch.float32 and points.abs().max() < 2.5
    assert torch.equal(points, data.toy(name, 500, seed=3)) and not torch.equal(points, data.toy(name, 500, seed=4))


def test_toys_have_the_shapes_they_are_named_for():
    generator = torch.Generator().manual_seed(0)
    x, y = data.two_moons(2000, generator, noise=0).double().T
    upper = (x + 0.5) ** 2 + (y + 0.25) ** 2
    lower = (x - 0.5) ** 2 + (y - 0.25) ** 2
    assert torch.minimum((upper - 1).abs(), (lower - 1).abs()).max() < 1e-5

    roll = data.swiss_roll(2000, generator, noise=0).double()
    radius = roll.norm(dim=1)
    assert torch.allclose(torch.stack([(10.5 * radius).cos(), (10.5 * radius).sin()], 1) * radius[:, None], roll, atol=1e-4)

    board = data.checkerboard(20_000, generator)
    cell = board.floor().long()
    assert ((cell.sum(1)) % 2 == 0).all() and board.abs().max() <= 2
    counts = torch.bincount((cell[:, 0] + 2) * 4 + cell[:, 1] + 2, minlength=16)
    counts = counts[counts > 0].double()
    assert len(counts) == 8 and ((counts - 2500) ** 2 / 2500).sum() < 29.9  # χ², 7 degrees of freedom, p = 1e-4

    ring = data.gaussian_ring(8000, generator, noise=0.05, modes=5)
    angle = torch.arange(5) * 2 * math.pi / 5
    centres = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    distance, mode = torch.cdist(ring, centres).min(1)
    assert torch.bincount(mode).min() > 1400
    assert (distance**2).mean().item() == pytest.approx(2 * 0.05**2, rel=0.06)


def test_toys_refuse():
    with pytest.raises(ValueError, match="toy = 'three_moons'"):
        data.toy("three_moons", 5)
    with pytest.raises(ValueError, match="n = 0"):
        data.toy("two_moons", 0)
    with pytest.raises(ValueError, match="noise = -1"):
        data.swiss_roll(5, noise=-1)
