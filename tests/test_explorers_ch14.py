"""Chapter 14's explorer: the walk by a whole covariance matrix, the losses by least squares on pairs of numbers."""

import math

import numpy as np
import pytest
from explorer_pages import at_position, close, curve, numbers

from ddpm_edu.explorers import clinic_explorer

S2 = 0.25
FAULTS = ["healthy", "told t−1", "√ forgotten", "bar forgotten", "other schedule", "data × ½", "noise at t = 1", "answers 0"]


@pytest.fixture(scope="module")
def explorer():
    return clinic_explorer()


def tables(T):
    betas = np.linspace(0.02, 0.75, 10) if T == 10 else np.linspace(1e-4, 0.02, 1000)
    return betas, np.concatenate([[1.0], np.cumprod(1 - betas)])


def cosine(T):
    f = np.cos(math.pi / 2 * (np.arange(T + 1) / T + 0.008) / 1.008) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))])


def line(a, b):
    """Slope and error of the least-squares line that guesses ε from a x_0 + b ε: (x_0, ε) as two orthogonal vectors."""
    seen, target = np.array([a * math.sqrt(S2), b]), np.array([0.0, 1.0])
    if not seen @ seen:
        return 0.0, 1.0
    slope = seen @ target / (seen @ seen)
    return slope, float(((target - slope * seen) ** 2).sum())


def patient(name, T):
    betas, bars = tables(T)
    own, handshake, gains = [], [], []
    for t in range(1, T + 1):
        told = t - 1 if name == "told t−1" else t
        a, b = math.sqrt(bars[told]), math.sqrt(1 - bars[told])
        if name == "√ forgotten":
            b = 1 - bars[t]
        if name == "bar forgotten":
            a, b = math.sqrt(1 - betas[t - 1]), math.sqrt(betas[t - 1])
        if name == "other schedule":
            a, b = math.sqrt(cosine(T)[t]), math.sqrt(1 - cosine(T)[t])
        if name == "data × ½":
            a = a / 2
        slope, error = line(a, b)
        if name == "told t−1":
            error = line(math.sqrt(bars[t]), math.sqrt(1 - bars[t]))[1]
        if name == "answers 0":
            slope, error = 0.0, 1.0
        seen = np.array([math.sqrt(bars[t] * S2), math.sqrt(1 - bars[t])])
        own.append(error)
        handshake.append(float(((np.array([0.0, 1.0]) - slope * seen) ** 2).sum()))
        gains.append((1 - betas[t - 1] / math.sqrt(1 - bars[t]) * slope) / math.sqrt(1 - betas[t - 1]))
    # The state at 0 as a sum: the start and each noise times the product of the later gains.
    below = np.concatenate([[1.0], np.cumprod(gains)])
    noises = betas.copy()
    noises[0] = betas[0] if name == "noise at t = 1" else 0.0
    generated = below[T] ** 2 + float((noises * below[:T] ** 2).sum())
    return np.mean(own), np.mean(handshake), generated


@pytest.mark.parametrize("T", [10, 1000])
@pytest.mark.parametrize("name", FAULTS)
def test_readings(explorer, name, T):
    page = at_position(explorer.to_html(), (FAULTS.index(name), [10, 1000].index(T)))
    own, handshake, generated = patient(name, T)
    shown = numbers(page)
    assert close(shown["loss, as training reports it"], own)
    assert close(shown["handshake"], handshake)
    assert close(shown["generated variance"], generated)
    assert close(shown["√ᾱT"], math.sqrt(tables(T)[1][-1]))
    u, y = curve(page, 0, 0)  # the forward process's variance
    bars = tables(T)[1]
    np.testing.assert_allclose(np.interp(np.linspace(0, 1, T + 1), u, y), np.log10(bars * S2 + 1 - bars), atol=0.06)
    _, y = curve(page, 0, 1)
    assert y[0] == pytest.approx(np.clip(math.log10(generated), -2, 5), abs=0.06)


def test_what_the_caption_says():
    healthy = {T: patient("healthy", T)[2] for T in (10, 1000)}
    for name in ("√ forgotten", "other schedule", "data × ½"):
        assert abs(patient(name, 1000)[2] / healthy[1000] - 1) > 0.05
    shifts = [abs(patient("told t−1", T)[2] / healthy[T] - 1) for T in (10, 1000)]
    assert shifts[1] < 0.02 and shifts[0] > 0.5
