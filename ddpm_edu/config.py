"""How a training run goes, as data: every number that decides it, and the runs that have a name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from ._args import count, instance, number
from .diffusion import GaussianDiffusion
from .weights import NETWORKS, build_schedule

NONE = type(None)


HOW = ("precision", "accumulate", "compile", "channels_last")  # fields that may differ between two parts of one run


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a run goes. The defaults are the paper's for CIFAR-10 [Ho 2020, Appendix B];
    warm-up and clipping, of which it does not speak, are those of its authors' code.

    `dataclasses.replace(PRESETS["digits"], steps=100)` changes a value. Values out of range raise at once.
    """

    data: str = "cifar10"
    network: dict[str, Any] = field(default_factory=lambda: {"kind": "UNet", "dropout": 0.1})
    schedule: str = "linear"
    T: int = 1000
    steps: int = 800_000
    batch: int = 128
    lr: float = 2e-4
    warmup: int = 5000  # steps over which the learning rate rises to lr
    lr_decay: bool = False  # let it fall to 0 along a half cosine until the last step
    weight_decay: float = 0.0
    clip_grad: float = 1.0  # the gradient's norm is cut to this
    ema_decay: float = 0.9999
    flip: bool = False  # mirror half of the images left to right
    label_drop: float = 0.1  # share of labels hidden from a network with classes [Ho & Salimans 2022, Alg. 1]
    loss: str = "simple"  # "hybrid" or "vlb": for a network with a learned variance, see `GaussianDiffusion.hybrid_term`
    vlb_weight: float = 0.001  # λ in L_simple + λ L_vlb [Nichol 2021, Eq. 16]
    times: str = "uniform"  # how t is drawn; "importance": in proportion to the losses seen, see `training.ImportanceSampler`
    seed: int = 0
    # How the same thing is computed: without dropout the numbers of one step differ by rounding only.
    precision: str = "auto"  # "float32", "bfloat16", "float16" (with a scaled loss), or "auto": what the device is fast at
    accumulate: int = 1  # pieces into which each process cuts its share of the batch, to need less memory
    compile: bool | None = None  # by torch.compile; None: on CUDA, where Triton runs
    channels_last: bool | None = None  # images stored pixel by pixel; None: on CUDA
    stored: str = "float32"  # how the finished weights are written; "float16" halves the file
    sample_steps: int | None = None  # moves of the default sampler; None visits all T

    def __post_init__(self):
        instance(self.data, "data", str), instance(self.network, "network", dict)
        of_noise = [kind for kind in NETWORKS if kind != "Judge"]  # a judge predicts classes; see `metrics.train_judge`
        if self.network.get("kind") not in of_noise:
            raise ValueError(f"network = {self.network} must name its kind: one of {', '.join(of_noise)}")
        for name, kinds in (
            ("flip", (bool,)),
            ("lr_decay", (bool,)),
            ("compile", (bool, NONE)),
            ("channels_last", (bool, NONE)),
        ):
            instance(getattr(self, name), name, *kinds)
        for name in ("T", "steps", "batch", "accumulate"):
            count(getattr(self, name), name)
        count(self.warmup, "warmup", low=0)
        count(self.seed, "seed", low=0)
        number(self.lr, "lr", 0, math.inf)
        number(self.weight_decay, "weight_decay", 0, math.inf, closed="low")
        number(self.clip_grad, "clip_grad", 0, math.inf, closed="high")
        number(self.ema_decay, "ema_decay", 0, 1, closed="low")
        number(self.label_drop, "label_drop", 0, 1, closed="low high")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"precision = {self.precision!r} must be 'auto', 'float32', 'bfloat16' or 'float16'")
        number(self.vlb_weight, "vlb_weight", 0, math.inf, closed="low")
        if self.loss not in ("simple", "hybrid", "vlb"):
            raise ValueError(f"loss = {self.loss!r} must be 'simple', 'hybrid' or 'vlb'")
        if (self.loss == "simple") == bool(self.network.get("learned_variance")):
            raise ValueError(
                f"loss = {self.loss!r} with learned_variance = {bool(self.network.get('learned_variance'))} in the network: "
                f"'simple' trains a network without a learned variance, 'hybrid' and 'vlb' one with it"
            )
        if self.times not in ("uniform", "importance"):
            raise ValueError(f"times = {self.times!r} must be 'uniform' or 'importance'")
        if self.times == "importance" and self.loss == "simple":
            raise ValueError("times = 'importance' is for the losses 'hybrid' and 'vlb', got loss = 'simple'")
        if self.accumulate > self.batch:
            raise ValueError(f"accumulate = {self.accumulate} is more than the batch = {self.batch}")
        if self.stored not in ("float32", "float16"):
            raise ValueError(f"stored = {self.stored!r} must be 'float32' or 'float16'")
        if self.sample_steps is not None and count(self.sample_steps, "sample_steps") > self.T:
            raise ValueError(f"sample_steps = {self.sample_steps} is more than T = {self.T}")
        build_schedule(self.schedule, self.T)

    def diffusion(self) -> GaussianDiffusion:
        """The diffusion this configuration trains for."""
        return GaussianDiffusion(build_schedule(self.schedule, self.T))


_SMALL = {"kind": "UNet", "channels": 1, "base": 32, "blocks": 1}

_DIGITS = TrainConfig(
    data="digits",
    network={**_SMALL, "size": 8, "base": 16, "multipliers": [1, 2, 2], "attention": [4], "dropout": 0.05},
    schedule="cosine",
    steps=4000,
    batch=128,
    lr=2e-3,
    warmup=200,
    lr_decay=True,
    ema_decay=0.999,
    precision="float32",
    sample_steps=50,
)


class _Presets(dict[str, TrainConfig]):
    """The runs that have a name: `PRESETS["mnist"]`."""

    def __missing__(self, name: str) -> TrainConfig:
        raise ValueError(f"no preset {name!r}: the presets are {', '.join(self)}")


PRESETS = _Presets(
    digits=_DIGITS,
    # small enough to run inside a web page, and trained fast enough to be made again by the tests
    playground=replace(
        _DIGITS,
        network={**_DIGITS.network, "base": 20, "multipliers": [1, 2], "dropout": 0.1, "classes": 10},
        steps=2500,
        batch=64,
        stored="float16",
    ),
    mnist=TrainConfig(
        data="mnist",
        network={**_SMALL, "size": 28, "multipliers": [1, 2, 3], "attention": [7], "classes": 10},
        schedule="cosine",
        steps=8000,
        batch=64,
        lr=1e-3,
        warmup=300,
        lr_decay=True,
        ema_decay=0.999,
        stored="float16",
        sample_steps=100,
    ),
    cifar10=TrainConfig(flip=True),
    # the network of [Song 2021, DDIM, Appendix D.1]: five levels, from 64 pixels to 4; trained as for CIFAR-10
    celeba64=TrainConfig(
        data="celeba",
        network={"kind": "UNet", "size": 64, "multipliers": [1, 2, 2, 2, 4], "attention": [16], "dropout": 0.1},
        flip=True,
    ),
)
