"""Data: points in the plane, scikit-learn's digits, and the image sets that torchvision reads from your disk.

Whatever `load` returns has a length, and indexing it with a tensor of indices gives a batch of floats in [-1, 1]:
all that the training loop asks for. Nothing here downloads anything.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ._args import count, instance, number, real

# Images as bytes, images as numbers ------------------------------------------------------------------------------


def to_unit(pixels: Tensor, levels: int = 256) -> Tensor:
    """Grey levels 0..levels-1 (uint8) to float32 in [-1, 1]: x = 2 p / (levels - 1) - 1 [Ho 2020, Sec. 3.3]."""
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
        raise TypeError(f"pixels must be a uint8 tensor, got {getattr(pixels, 'dtype', type(pixels).__name__)}")
    if pixels.numel() and int(pixels.max()) >= _levels(levels):
        raise ValueError(f"pixels hold the value {int(pixels.max())}, but levels = {levels} allows 0..{levels - 1}")
    return pixels.float() * (2 / (levels - 1)) - 1


def to_pixels(x: Tensor, levels: int = 256) -> Tensor:
    """The nearest of the grey levels 0..levels-1 (uint8), the inverse of `to_unit`; beyond [-1, 1] the end level."""
    scaled = (real(x, "x").float() + 1) * ((_levels(levels) - 1) / 2)
    return scaled.round().clamp(0, levels - 1).to(torch.uint8)


def to_bytes(x: Tensor, levels: int = 256) -> Tensor:
    """x in [-1, 1] as uint8 0..255, on the grid of an image set with that many grey levels."""
    return (to_pixels(x, levels).float() * (255 / (levels - 1))).round().to(torch.uint8)


def _levels(levels: int) -> int:
    if count(levels, "levels", low=2) > 256:
        raise ValueError(f"levels = {levels} do not fit into a byte; 2..256 are allowed")
    return levels


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images in memory: `pixels` uint8 (N, C, H, W) of `levels` grey levels, `labels` int64 (N,)."""

    name: str
    pixels: Tensor
    labels: Tensor
    levels: int = 256

    def __post_init__(self):
        pixels, labels, n = (
            instance(self.pixels, "pixels", Tensor),
            instance(self.labels, "labels", Tensor),
            _levels(self.levels),
        )
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise TypeError(f"pixels must be uint8 (N, C, H, W), got {pixels.dtype} of shape {tuple(pixels.shape)}")
        if labels.dtype != torch.int64 or labels.shape != pixels.shape[:1]:
            raise TypeError(f"labels must be int64 ({len(pixels)},), got {labels.dtype} of shape {tuple(labels.shape)}")
        if pixels.numel() and int(pixels.max()) >= n:
            raise ValueError(f"pixels hold the value {int(pixels.max())}, but levels = {n} allows 0..{n - 1}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, indices) -> Tensor:
        """The images at these indices as float32 in [-1, 1]."""
        return to_unit(self.pixels[indices], self.levels)

    @property
    def shape(self) -> torch.Size:
        """Shape of one image: (C, H, W)."""
        return self.pixels.shape[1:]

    def sha256(self) -> str:
        """A fingerprint of shape, pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().tobytes())
        digest.update(self.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()


class ImageFiles:
    """Images too many for memory: each is read, cut to a square and resized when its batch is asked for."""

    levels = 256

    def __init__(self, name: str, paths: list[Path], size: int, crop: int | None = None):
        if not paths:
            raise ValueError(f"paths is empty: {name} has no images")
        self.name, self.paths, self.size, self.crop = name, paths, count(size, "size"), crop and count(crop, "crop")
        if crop == 0:
            raise ValueError("crop = 0 leaves nothing of an image; give None, or at least 1")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices) -> Tensor:
        """The images at these indices as float32 (B, 3, size, size) in [-1, 1]."""
        return to_unit(torch.stack([self._read(self.paths[int(i)]) for i in indices]))

    @property
    def shape(self) -> torch.Size:
        """Shape of one image: (3, size, size)."""
        return torch.Size((3, self.size, self.size))

    def sha256(self) -> str:
        """A fingerprint of file names and file sizes (reading every file would take longer than an epoch)."""
        return hashlib.sha256("\n".join(f"{p.name} {p.stat().st_size}" for p in self.paths).encode()).hexdigest()

    def _read(self, path: Path) -> Tensor:
        from PIL import Image
        from torchvision.transforms import functional as tv

        try:
            with Image.open(path) as opened:
                deep, image = opened.mode.startswith(("I", "F")), opened.convert("RGB")
        except (OSError, SyntaxError) as error:  # PIL raises the second for a broken PNG
            raise OSError(f"{path} cannot be read as an image: {error}") from error
        if deep:
            raise ValueError(f"{path} has more than 8 bits a channel, which would turn white: convert it first")
        image = tv.center_crop(image, [self.crop or min(image.size)] * 2)
        return tv.pil_to_tensor(tv.resize(image, [self.size, self.size], antialias=True))


# Image sets by name -----------------------------------------------------------------------------------------------


def digits() -> ImageData:
    """The 1,797 handwritten digits that come with scikit-learn: 8×8 pixels, 17 grey levels, no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8)[:, None]
    return ImageData("digits", pixels, torch.from_numpy(bunch.target).to(torch.int64), levels_of("digits"))


def digits_split(seed: int = 0) -> dict[str, Tensor]:
    """Indices into `digits()`: halves A and B, H = a fifth of all held out inside B, train = A and the rest of B.

    Every class is split in the same proportions. The shipped diffusion is trained on `train` and has never seen H. The
    judges of `metrics.quality` learn from halvings of their own.
    """
    labels = digits().labels
    generator = torch.Generator().manual_seed(count(seed, "seed", low=0))
    parts: dict[str, list[Tensor]] = {"A": [], "rest": [], "H": []}
    for label in range(10):
        of_class = torch.nonzero(labels == label)[:, 0]
        of_class = of_class[torch.randperm(len(of_class), generator=generator)]
        half, held = (len(of_class) + label % 2) // 2, round(len(of_class) / 5)
        parts["A"].append(of_class[:half])
        parts["rest"].append(of_class[half:-held])
        parts["H"].append(of_class[-held:])

    def join(*names: str) -> Tensor:
        return torch.cat([piece for name in names for piece in parts[name]]).sort().values

    return {"A": join("A"), "B": join("rest", "H"), "H": join("H"), "train": join("A", "rest")}


IMAGE_SETS = ("digits", "mnist", "fashion_mnist", "cifar10", "celeba")


def levels_of(name: str) -> int:
    """How many grey levels the image set has."""
    return 17 if instance(name, "name", str) == "digits" else 256


def load(name: str, root: str | Path | None = None, split: str = "train", size: int = 64) -> ImageData | ImageFiles:
    """The image set `name`, or the folder of images at that path; split is "train" or "test".

    `digits` needs nothing. The others are read from `root` (or the environment variable DDPM_EDU_DATA) in the layout
    that torchvision gives them. `size` is the side of celeba and folder images. A folder has no test split.
    Raises FileNotFoundError that says which file was looked for and how to get it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split = {split!r} must be 'train' or 'test'")
    instance(name, "name", str, Path), count(size, "size")
    if name == "digits":
        data, part = digits(), digits_split()["train" if split == "train" else "H"]
        return ImageData("digits", data.pixels[part], data.labels[part], data.levels)
    if name in IMAGE_SETS:
        return _from_torchvision(name, _root(name, root), split == "train", size)
    if Path(name).is_dir():
        if split == "test":
            raise ValueError(f"the image folder {name} has no test split")
        return _from_folder(Path(name), size)
    raise ValueError(f"data = {name!r} is neither one of {', '.join(IMAGE_SETS)} nor a folder of images")


def _root(name: str, root: str | Path | None) -> Path:
    root = root or os.environ.get("DDPM_EDU_DATA")
    if not root:
        raise FileNotFoundError(f"{name} is read from your disk: give its folder with --data-root or set DDPM_EDU_DATA")
    return Path(root)


def _from_torchvision(name: str, root: Path, train: bool, size: int) -> ImageData | ImageFiles:
    try:
        from torchvision import datasets
    except ImportError:
        raise ImportError(f"reading {name} needs torchvision: pip install torchvision") from None

    kind = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "celeba": "CelebA"}[name]
    first = {
        "mnist": f"MNIST/raw/{'train' if train else 't10k'}-images-idx3-ubyte",
        "fashion_mnist": f"FashionMNIST/raw/{'train' if train else 't10k'}-images-idx3-ubyte",
        "cifar10": f"cifar-10-batches-py/{'data_batch_1' if train else 'test_batch'}",
        "celeba": "celeba/img_align_celeba",
    }[name]
    fetch = f"""python -c "from torchvision.datasets import {kind}; {kind}({str(root)!r}, download=True)\""""
    if not (root / first).exists():
        raise FileNotFoundError(f"{name}: looked for {root / first}, which does not exist. To fetch it once: {fetch}")
    try:
        if name == "celeba":
            found = datasets.CelebA(str(root), split="train" if train else "test", target_type=[])
            paths = [root / "celeba" / "img_align_celeba" / file for file in found.filename]
            return ImageFiles(name, paths, size, crop=140)  # the usual cut around the face
        found = getattr(datasets, kind)(str(root), train=train)
    except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
        raise FileNotFoundError(
            f"{name}: {root / first} is there, but torchvision cannot read the set ({error}). To fetch it anew: {fetch}"
        ) from error
    pixels = torch.as_tensor(found.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return ImageData(name, pixels, torch.as_tensor(found.targets, dtype=torch.int64))


def _from_folder(folder: Path, size: int) -> ImageFiles:
    endings = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings)
    if not paths:
        raise FileNotFoundError(f"no image in {folder}: looked for files ending in {', '.join(sorted(endings))}")
    return ImageFiles(folder.name, paths, size)


# Points in the plane ----------------------------------------------------------------------------------------------


def two_moons(n: int, generator: torch.Generator | None = None, noise: float = 0.1) -> Tensor:
    """Two half circles that reach into each other, shape (n, 2), coordinates about in [-1.5, 1.5]."""
    angle = math.pi * torch.rand(count(n, "n"), generator=generator)
    upper = torch.rand(n, generator=generator) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], 1) + _noise(n, noise, generator)


def swiss_roll(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """A spiral of one and a half turns, shape (n, 2), radius from 0.45 to 1.35."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count(n, "n"), generator=generator))
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 10.5 + _noise(n, noise, generator)


def checkerboard(n: int, generator: torch.Generator | None = None, noise: float = 0.0) -> Tensor:
    """The eight dark squares of a 4×4 board on [-2, 2]², uniformly filled, shape (n, 2)."""
    place = torch.rand(count(n, "n"), 2, generator=generator)
    row = torch.randint(0, 4, (n,), generator=generator)
    column = 2 * torch.randint(0, 2, (n,), generator=generator) + row % 2
    return torch.stack([column, row], 1) + place - 2 + _noise(n, noise, generator)


def gaussian_ring(n: int, generator: torch.Generator | None = None, noise: float = 0.1, modes: int = 8) -> Tensor:
    """Equally many points (on average) from Gaussians of standard deviation `noise` on a circle of radius 1.5, (n, 2)."""
    angle = torch.randint(0, count(modes, "modes"), (count(n, "n"),), generator=generator) * (2 * math.pi / modes)
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1) + _noise(n, noise, generator)


TOYS = {"two_moons": two_moons, "swiss_roll": swiss_roll, "checkerboard": checkerboard, "gaussian_ring": gaussian_ring}


def toy(name: str, n: int, seed: int = 0) -> Tensor:
    """`n` points of the toy set `name` (one of TOYS), the same ones for the same seed; float32, shape (n, 2)."""
    if name not in TOYS:
        raise ValueError(f"toy = {name!r} must be one of {', '.join(TOYS)}")
    return TOYS[name](n, torch.Generator().manual_seed(count(seed, "seed", low=0)))


def _noise(n: int, noise: float, generator: torch.Generator | None) -> Tensor:
    return number(noise, "noise", 0, math.inf, closed="low") * torch.randn(n, 2, generator=generator)
