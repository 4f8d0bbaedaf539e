"""Chapter 6's explorer: the bound, by the linear algebra of whole paths."""

import numpy as np
import pytest
from explorer_pages import at_position, numbers

from ddpm_edu.explorers import diffusion_elbo_explorer


@pytest.fixture(scope="module")
def explorer():
    return diffusion_elbo_explorer()


@pytest.mark.parametrize("j, k", [(3, 4), (8, 4), (0, 0), (4, 7), (6, 2)])
def test_diffusion_bound_is_entropy_plus_divergence_plus_gap(explorer, j, k):
    """Two Gaussian vectors of 11 numbers, the forward and the reverse path; numpy's linear algebra and nothing else."""
    page = at_position(explorer.to_html(), (j, k))
    ratio = [0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0][j]
    stretch = [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2][k]
    betas, T = np.linspace(0.1, 0.5, 10), 10
    q, p = np.zeros((11, 11)), np.eye(11)  # path = matrix · independent noises
    q[0, 0] = 1
    for t in range(1, 11):
        q[t] = np.sqrt(1 - betas[t - 1]) * q[t - 1]
        q[t, t] = np.sqrt(betas[t - 1])
    for t in range(10, 0, -1):
        p[t - 1] = stretch * np.sqrt(1 - betas[t - 1]) * p[t]
        p[t - 1, t - 1] = np.sqrt(ratio * betas[t - 1])
    Q, P = q @ q.T, p @ p.T

    def kl(Q, P):
        inner = np.linalg.solve(P, Q)
        return 0.5 * (np.trace(inner) - len(Q) - np.linalg.slogdet(inner)[1])

    entropy = 0.5 * np.log(2 * np.pi * np.e)
    whole, of_data = kl(Q, P), kl(Q[:1, :1], P[:1, :1])
    shown = numbers(page)
    assert float(shown["entropy of the data"]) == pytest.approx(entropy, abs=6e-4)
    assert float(shown["bound L"]) == pytest.approx(entropy + whole, abs=6e-4)
    assert float(shown["KL(data ‖ model)"]) == pytest.approx(of_data, abs=6e-4)
    assert float(shown["gap"]) == pytest.approx(whole - of_data, abs=6e-4)
    # Both sets of bars, by the chain rule for divergences of Markov chains: the pair (x_{t-1}, x_t) less x_{t-1}.
    left, right = page.select(".ddpm-panel > svg")
    gaps = [
        kl(Q[t - 1 : t + 1, t - 1 : t + 1], P[t - 1 : t + 1, t - 1 : t + 1])
        - kl(Q[t - 1 : t, t - 1 : t], P[t - 1 : t, t - 1 : t])
        for t in range(1, T + 1)
    ]
    assert [int(bar["height"]) / 2000 * 0.5 for bar in right.find_all("rect")] == pytest.approx(gaps, abs=1e-3)
    bars = [int(bar["height"]) / 2000 * 1.3 for bar in left.find_all("rect")]
    assert sum(bars[:11]) == pytest.approx(entropy, abs=5e-3) and sum(bars[11:]) == pytest.approx(entropy + whole, abs=5e-3)
    last = 0.5 * (np.log(1 / (1 - np.prod(1 - betas))))  # averaged over x_0² = 1
    assert bars[21] == pytest.approx(last, abs=1e-3)
