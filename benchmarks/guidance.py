"""The guidance curve of a class-conditional checkpoint: how recognisable its samples are, and how varied, scale by scale.

    python benchmarks/guidance.py --data-root DATA     # a quarter of an hour on one core; writes into weights/mnist.json

Every scale starts from the same noise and gets the same fresh noise. The figures are those of
`ddpm_edu.metrics.guidance_curve`; they go into the checkpoint's card under "guidance", with how they were made.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from ddpm_edu import TrainConfig, cli, data, weights
from ddpm_edu.metrics import Judge, guidance_curve


def measure(
    path: Path, judge_path: Path, scales: list[float], images: int, moves: int, seed: int, root: Path | None = None
) -> dict[str, Any]:
    """The entry "guidance" of the card: `images` samples at each scale, all classes equally often."""
    network, card = weights.load(path)
    config = TrainConfig(**card["config"])
    classes = config.network.get("classes", 0)
    if not classes or images % classes or images < 4 * classes:
        raise ValueError(f"--images {images} must be a multiple of the network's {classes} classes, four of each at least")
    judge, _ = weights.load(judge_path)
    test = data.load(config.data, root, "test")
    if not isinstance(judge, Judge) or not isinstance(test, data.ImageData):
        raise ValueError(f"--judge {judge_path} is not a judge of {config.data}")

    def draw(y: torch.Tensor, scale: float) -> torch.Tensor:
        x = cli.draw(network, config, len(y), moves, seed, y=y, scale=scale)
        print(f"scale {scale:g}: {len(y)} images drawn", flush=True)
        return data.to_unit(data.to_pixels(x, test.levels), test.levels)

    y = torch.arange(images) % classes
    curve = guidance_curve(judge, draw, y, scales, test[torch.arange(len(test))], test.labels)
    return {"command": "", "moves": moves, "seed": seed, "test_images": len(test), **curve}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="checkpoint with classes (default: the shipped MNIST)")
    parser.add_argument("--judge", type=Path, help="the judge's checkpoint (default: the shipped one for MNIST)")
    parser.add_argument("--data-root", type=Path, help="where the image sets lie (default: the variable DDPM_EDU_DATA)")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--images", type=int, default=400, help="samples at each scale (default: 400)")
    parser.add_argument("--moves", type=int, default=50, help="moves of the sampler (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    path = weights.check_writable(args.weights or weights.shipped("mnist"))
    entry = measure(
        path, args.judge or weights.shipped("mnist_judge"), args.scales, args.images, args.moves, args.seed, args.data_root
    )
    scales = " ".join(f"{scale:g}" for scale in args.scales)
    entry["command"] = (
        f"python benchmarks/guidance.py --scales {scales} --images {args.images} --moves {args.moves} --seed {args.seed}"
    )
    card = weights.read_card(path)  # read late: another command may have written into it meanwhile
    weights.write_card(path, {**card, "guidance": cli._rounded(entry)})
    for row in entry["curve"]:
        print(" ".join(f"{name} {row[name]:.3f}" for name in ("scale", "recognised", "frechet", "recall", "spread")))


if __name__ == "__main__":
    main()
