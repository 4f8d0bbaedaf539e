"""Denoising diffusion, equation by equation: the model of Ho, Jain & Abbeel (2020), small enough to read."""

from .diffusion import GaussianDiffusion
from .gaussian import Gaussian
from .mlp import MLP
from .oracles import GaussianMixture, Oracle
from .samplers import Step, ancestral
from .schedules import NoiseSchedule
from .training import TrainConfig, TrainState, train
from .unet import UNet

__version__ = "0.1.0"
__all__ = [
    "MLP",
    "Gaussian",
    "GaussianDiffusion",
    "GaussianMixture",
    "NoiseSchedule",
    "Oracle",
    "Step",
    "TrainConfig",
    "TrainState",
    "UNet",
    "ancestral",
    "train",
]
