"""Denoising diffusion, equation by equation: the model of Ho, Jain & Abbeel (2020), small enough to read."""

from .diffusion import GaussianDiffusion
from .gaussian import Gaussian
from .oracles import GaussianMixture, Oracle
from .samplers import Step, ancestral
from .schedules import NoiseSchedule

__version__ = "0.1.0"
__all__ = ["Gaussian", "GaussianDiffusion", "GaussianMixture", "NoiseSchedule", "Oracle", "Step", "ancestral"]
