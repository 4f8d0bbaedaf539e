"""Diffusion over categories: letters, grey levels, tokens, with a transition matrix in place of Gaussian noise [Austin 2021].

A sample x_0 is a row of an int64 tensor (B, D): D positions, each one of `letters` categories 0..letters-1. A noised x_t may
use more `states` than letters: a mask, say. Every position is noised by itself. A network is any callable
`x0_model(x_t, t) -> logits` of shape (B, D, letters), its guess p̃(x_0 | x_t) position by position, with t an int64 tensor (B,).
Probabilities are float64, their last axis runs over the categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor

from ._args import as_steps, count, instance
from .samplers import Step
from .schedules import NoiseSchedule

X0Model = Callable[[Tensor, Tensor], Tensor]


def mix(alpha: float | Tensor, prior: Tensor) -> Tensor:
    """α I + (1 - α) 1 πᵀ: keep the category with probability α, else draw a new one from π = prior [Austin 2021, App. A.4].

    It is Q_t for α = 1 - β_t, Q̄_t for α = ᾱ_t, and a jump from s to t for α = ᾱ_t/ᾱ_s: products multiply the α's.
    `alpha` in [0, 1] is a number (gives (S, S)) or a tensor (N,) (gives (N, S, S)).
    """
    prior = _law(prior, "prior")
    alpha = torch.as_tensor(alpha, dtype=torch.float64)
    if alpha.ndim > 1 or not bool(((alpha >= 0) & (alpha <= 1)).all()):
        raise ValueError(f"alpha = {alpha.tolist()} must be a number or a list of numbers in [0, 1]")
    alpha = alpha.reshape(*alpha.shape, 1, 1)
    return alpha * torch.eye(len(prior), dtype=torch.float64) + (1 - alpha) * prior


class DiscreteDiffusion:
    """Forward and reverse process over transition matrices [Austin 2021, Sec. 3].

    [Q_t]_{ij} = q(x_t = j | x_{t-1} = i),    Q̄_t = Q_1 Q_2 … Q_t,    x_T ~ prior in every position of the model

    Q (T, S, S) holds Q_1..Q_T (a leading identity, the stored Q_0, is accepted); each row is a law. The tables `Q` and `Q_bars`
    have shape (T+1, S, S), entry 0 the identity. `letters` <= S is the number of categories data may use; default: all.
    Everywhere t is an int or an int64 tensor (B,) in 1..T; s, the earlier step, 0 <= s < t, defaults to t - 1.
    """

    def __init__(self, Q: Tensor, prior: Sequence[float] | Tensor, letters: int | None = None):
        Q = torch.as_tensor(Q, dtype=torch.float64).detach().to("cpu")
        if Q.ndim != 3 or Q.shape[1] != Q.shape[2] or not Q.numel():
            raise ValueError(f"Q must have shape (T, S, S), one square matrix for each step; got {tuple(Q.shape)}")
        identity = torch.eye(Q.shape[1], dtype=torch.float64)[None]
        if len(Q) > 1 and torch.equal(Q[0], identity[0]):
            Q = Q[1:]
        _rows(Q, "Q", 1.0)
        self.Q = torch.cat([identity, Q])
        self.T, self.states = len(Q), Q.shape[1]
        self.letters = self.states if letters is None else count(letters, "letters")
        if self.letters > self.states:
            raise ValueError(f"letters = {letters} is more than the {self.states} states of Q")
        self.prior = _law(prior, "prior")
        if len(self.prior) != self.states:
            raise ValueError(f"prior has {len(self.prior)} entries, Q has {self.states} states")
        bars = [identity[0]]
        for step in Q:
            bars.append(bars[-1] @ step)
        self.Q_bars = torch.stack(bars)

    def __repr__(self) -> str:
        return f"DiscreteDiffusion(T={self.T}, states={self.states}, letters={self.letters})"

    # Where the matrices come from ---------------------------------------------------------------------------------

    @classmethod
    def pulled(cls, alpha_bars: Sequence[float] | Tensor, prior, letters: int | None = None) -> DiscreteDiffusion:
        """Q_t = (1 - β_t) I + β_t 1 πᵀ with β_t = 1 - ᾱ_t/ᾱ_{t-1}: every step pulls towards π = prior.

        `alpha_bars` ᾱ_1..ᾱ_T never rises and lies in [0, 1] (a leading 1, the stored ᾱ_0, is accepted); only the last may be 0.
        """
        bars = torch.as_tensor(alpha_bars, dtype=torch.float64).detach().to("cpu")
        if bars.ndim == 1 and len(bars) > 1 and bars[0] == 1:
            bars = bars[1:]
        if bars.ndim != 1 or not len(bars) or not bool(((bars >= 0) & (bars <= 1)).all()):
            raise ValueError(f"alpha_bars must be a list of numbers in [0, 1], got {bars.tolist()}")
        before = torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
        if bool((bars > before).any()) or bool((before == 0).any()):
            raise ValueError(f"alpha_bars must not rise, and only the last may be 0; got {bars.tolist()}")
        return cls(mix(torch.cat([before[:1], bars / before]), torch.as_tensor(prior)), prior, letters)

    @classmethod
    def uniform(cls, letters: int, alpha_bars: Sequence[float] | Tensor) -> DiscreteDiffusion:
        """π uniform: with probability β_t the category is drawn anew from all, itself included [Hoogeboom 2021, Sec. 4]."""
        return cls.pulled(alpha_bars, torch.full((count(letters, "letters", 2),), 1 / letters, dtype=torch.float64))

    @classmethod
    def absorbing(cls, letters: int, alpha_bars: Sequence[float] | Tensor) -> DiscreteDiffusion:
        """π a mask, the state `letters`: with probability β_t a letter is hidden, for good [Austin 2021, Sec. 3.1]."""
        mask = torch.nn.functional.one_hot(torch.tensor(count(letters, "letters")), letters + 1)
        return cls.pulled(alpha_bars, mask.double(), letters)

    @classmethod
    def from_rates(cls, R: Tensor, integrals: Sequence[float] | Tensor, prior, letters: int | None = None) -> DiscreteDiffusion:
        """The process in continuous time with rates β(t) R, seen at T times: Q_t = exp((B_t - B_{t-1}) R), exactly.

        R (S, S) has rates >= 0 off its diagonal and rows that sum to 0; `integrals` holds B_1 <= … <= B_T, where B_t is
        the integral of β up to the t-th time.
        """
        R = rates(R)
        B = torch.as_tensor(integrals, dtype=torch.float64)
        if B.ndim != 1 or not len(B):
            raise ValueError(f"integrals must be a list of numbers, got shape {tuple(B.shape)}")
        gains = torch.diff(B, prepend=torch.zeros(2, dtype=torch.float64))  # the first 0 makes Q_0, the identity
        if not bool(((gains >= 0) & gains.isfinite()).all()):
            raise ValueError(f"integrals must be finite, >= 0 and never fall, got {B.tolist()}")
        return cls(torch.linalg.matrix_exp(gains[:, None, None] * R), prior, letters)

    # The forward process q ----------------------------------------------------------------------------------------

    def jump(self, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """q(x_t = j | x_s = i) as a matrix, Q_{s+1} Q_{s+2} … Q_t: (S, S), or (B, S, S) when t is a tensor."""
        t, s = self._pair(t, s)
        if bool((s == t - 1).all()):
            return self.Q[t]
        if t.ndim:
            return torch.stack([self.jump(int(a), int(b)) for a, b in zip(t, s.expand(t.shape))])
        return torch.linalg.multi_dot([*self.Q[s + 1 : t + 1]])

    def q_marginal(self, x_0: Tensor, t: int | Tensor) -> Tensor:
        """q(x_t | x_0) = the row x_0 of Q̄_t, shape (B, D, S) [Austin 2021, Eq. 3]. t may be 0: then x_0 itself."""
        return _row(self.Q_bars[as_steps(t, self.T, low=0)], self._data(x_0))

    def q_sample(self, x_0: Tensor, t: int | Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of x_t ~ q(x_t | x_0), int64 (B, D)."""
        return draw(self.q_marginal(x_0, t), generator)

    def q_posterior(self, x_0: Tensor, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> Tensor:
        """q(x_s | x_t, x_0) = q(x_s | x_0) q(x_t | x_s) / q(x_t | x_0), shape (B, D, S) [Austin 2021, Eq. 3].

        Raises ValueError where q(x_t | x_0) = 0: there is nothing to condition on.
        """
        self._data(x_0), self._state(x_t, x_0)
        t, s = self._pair(t, s)
        joint = _row(self.Q_bars[s], x_0) * _row(self.jump(t, s).mT, x_t)
        total = joint.sum(-1, keepdim=True)
        if not bool((total > 0).all()):
            b, d = (int(k) for k in torch.nonzero(total[..., 0] == 0)[0])
            raise ValueError(f"x_t = {int(x_t[b, d])} cannot come from x_0 = {int(x_0[b, d])} (batch entry {b}, position {d})")
        return joint / total

    # The reverse process p ----------------------------------------------------------------------------------------

    def predict(self, x0_model: X0Model, x_t: Tensor, t: int | Tensor) -> Tensor:
        """p̃(x_0 | x_t) = softmax of the model's logits, float64 (B, D, letters), its shape checked."""
        steps = as_steps(t, self.T).to(x_t.device).expand(len(self._state(x_t)))
        return _softmax(x0_model(x_t, steps), (*x_t.shape, self.letters))

    def p_step(self, x0_model: X0Model, x_t: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p_θ(x_s | x_t) = Σ_{x_0} q(x_s | x_t, x_0) p̃(x_0 | x_t), shape (B, D, S), and p̃ [Austin 2021, Sec. 3.3].

        The paper's Eq. 4 sums q(x_s, x_t | x_0) instead, which fits a p̃ that leaves x_t[d] itself out. An x_0 from which x_t
        cannot come has no q(x_s | x_t, x_0); what p̃ gives to it is shared out among the others, so a letter that is not
        masked stays as it is. Raises ValueError if nothing is left for the others.
        """
        x_0_hat = self.predict(x0_model, x_t, t)
        t, s = self._pair(t, s)
        reach = _row(self.Q_bars[t].mT, x_t)[..., : self.letters]  # q(x_t | x_0) for each x_0
        possible = reach > 0
        weight = torch.where(possible, x_0_hat / reach.where(possible, 1.0), 0.0)
        total = x_0_hat.where(possible, 0.0).sum(-1, keepdim=True)
        if not bool((total > 0).all()):
            raise ValueError("x0_model gives probability 0 to every x_0 from which its x_t can come")
        before = self.Q_bars[s][..., : self.letters, :]
        return (weight @ before) * _row(self.jump(t, s).mT, x_t) / total, x_0_hat

    def ancestral(
        self,
        x0_model: X0Model,
        shape: tuple[int, int],
        steps: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Step]:
        """Sampling: x_T ~ prior, then x_s ~ p_θ(x_s | x_t) down to x_0, for shape = (B, D).

        `steps` as in `NoiseSchedule.steps`. Yields a Step(t, x_t, p̃) for every state; at t = 0 its last entry is x_0 again.
        """
        visited = NoiseSchedule.steps(self, steps)  # type: ignore[arg-type]  # it asks for T only
        B, D = (count(n, name) for n, name in zip(shape, ("shape[0]", "shape[1]"), strict=True))

        @torch.no_grad()
        def walk() -> Iterator[Step]:
            x_t = draw(self.prior.expand(B, D, -1), generator)
            for t, s in pairwise(visited):
                p, x_0_hat = self.p_step(x0_model, x_t, t, s)
                yield Step(t, x_t, x_0_hat)
                x_t = draw(p, generator)
            yield Step(0, x_t, x_t)

        return walk()

    # The bound ----------------------------------------------------------------------------------------------------

    def L_T(self, x_0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) ‖ prior), shape (B,), in nats; +∞ if x_T can be what the prior excludes [Austin 2021, Eq. 1]."""
        return _kl(self.q_marginal(x_0, self.T), self.prior).sum(1)

    def L_t(self, x0_model: X0Model, x_0: Tensor, x_t: Tensor, t: int | Tensor) -> Tensor:
        """L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p_θ(x_{t-1} | x_t)) for t in 2..T, shape (B,), in nats [Austin 2021, Eq. 1].

        `x_t` is a draw of q(x_t | x_0); average over draws to get the bound's expectation.
        """
        as_steps(t, self.T, low=2)
        return _kl(self.q_posterior(x_0, x_t, t), self.p_step(x0_model, x_t, t)[0]).sum(1)

    def L_0(self, x0_model: X0Model, x_0: Tensor, x_1: Tensor) -> Tensor:
        """-log p_θ(x_0 | x_1), shape (B,), in nats [Austin 2021, Eq. 1]."""
        self._data(x_0), self._state(x_1, x_0)
        return -self.p_step(x0_model, x_1, 1)[0].gather(-1, x_0[..., None]).log().sum((1, 2))

    def bound_terms(self, x0_model: X0Model, x_0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """L_0, …, L_T for each x_0, shape (B, T+1), with one draw of x_t for each term; the rows sum to the bound, in nats."""
        x = [x_0] + [self.q_sample(x_0, t, generator) for t in range(1, self.T + 1)]
        middle = [self.L_t(x0_model, x_0, x[t], t) for t in range(2, self.T + 1)]
        return torch.stack([self.L_0(x0_model, x_0, x[1]), *middle, self.L_T(x_0)], 1)

    # Arguments ----------------------------------------------------------------------------------------------------

    def _pair(self, t: int | Tensor, s: int | Tensor | None) -> tuple[Tensor, Tensor]:
        later = as_steps(t, self.T)
        earlier = later - 1 if s is None else as_steps(s, self.T, name="s", low=0)
        if bool((earlier >= later).any()):
            raise ValueError(f"s must be smaller than t; got s = {earlier.tolist()}, t = {later.tolist()}")
        later, earlier = torch.broadcast_tensors(later, earlier)
        return later, earlier

    def _data(self, x_0: Tensor) -> Tensor:
        return _categories(x_0, self.letters, "x_0")

    def _state(self, x_t: Tensor, x_0: Tensor | None = None) -> Tensor:
        _categories(x_t, self.states, "x_t")
        if x_0 is not None and x_0.shape != x_t.shape:
            raise ValueError(f"x_0 has shape {tuple(x_0.shape)}, x_t {tuple(x_t.shape)}; they must be equal")
        return x_t


# Data whose law is a table, and models small enough to enumerate ---------------------------------------------------


class SequenceLaw:
    """A law over all K^D sequences as a table `probs` of shape (K,) * D: data of which everything can be enumerated."""

    def __init__(self, probs: Tensor):
        probs = torch.as_tensor(probs, dtype=torch.float64)
        if probs.ndim < 1 or len(set(probs.shape)) != 1:
            raise ValueError(f"probs must have shape (K, K, …, K), one axis for each position; got {tuple(probs.shape)}")
        self.letters, self.D = probs.shape[0], probs.ndim
        self.probs = _law(probs.flatten(), "probs")
        self.sequences = sequences(self.letters, self.D)

    @classmethod
    def markov(cls, start, step, D: int) -> SequenceLaw:
        """The first letter from the law `start` (K,), every next one from the row of `step` (K, K) that the last one names."""
        probs, step = _law(start, "start"), torch.as_tensor(step, dtype=torch.float64)
        if step.shape != (len(probs), len(probs)):
            raise ValueError(f"step must have shape {(len(probs), len(probs))}, as start has {len(probs)} letters")
        _rows(step[None], "step", 1.0)
        for _ in range(count(D, "D") - 1):
            probs = probs[..., None] * step
        return cls(probs)

    def log_prob(self, x: Tensor) -> Tensor:
        """log q(x) for sequences x (B, D), shape (B,); -∞ for impossible ones."""
        if _categories(x, self.letters, "x").shape[1] != self.D:
            raise ValueError(f"x has {x.shape[1]} positions, this law {self.D}")
        return self.probs[(x * self.letters ** torch.arange(self.D - 1, -1, -1)).sum(1)].log()

    def entropy(self) -> Tensor:
        """-Σ q log q, in nats."""
        return -torch.special.xlogy(self.probs, self.probs).sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent sequences, int64 (n, D)."""
        return self.sequences[torch.multinomial(self.probs, count(n, "n"), replacement=True, generator=generator)]

    def posterior(self, diffusion: DiscreteDiffusion, x_t: Tensor, t: int | Tensor) -> Tensor:
        """q(x_0 | x_t) over all sequences x_0, shape (B, K^D), by Bayes' rule.

        A sampler can arrive at an x_t that this data is never noised to; there, the law without any evidence is returned.
        """
        bars = diffusion.Q_bars[as_steps(t, diffusion.T)]
        reach = _row(bars.mT, diffusion._state(x_t))  # (B, D, S): q(x_t[d] | every state)
        if x_t.shape[1] != self.D:
            raise ValueError(f"x_t has {x_t.shape[1]} positions, this law {self.D}")
        joint = self.probs * torch.stack([reach[:, d, self.sequences[:, d]] for d in range(self.D)]).prod(0)
        joint = torch.where(joint.sum(1, keepdim=True) > 0, joint, self.probs)
        return joint / joint.sum(1, keepdim=True)

    def denoiser(self, diffusion: DiscreteDiffusion) -> X0Model:
        """The ideal x0_model: log q(x_0[d] | x_t) for each position d, from the table."""
        instance(diffusion, "diffusion", DiscreteDiffusion)
        one_hot = torch.nn.functional.one_hot(self.sequences, self.letters).double()
        return lambda x_t, t: torch.einsum("bn,ndk->bdk", self.posterior(diffusion, x_t, t), one_hot).log()


def sequences(states: int, D: int) -> Tensor:
    """All states^D sequences in the order of counting, int64 (states^D, D). Refuses more than 2^20."""
    if count(states, "states") ** count(D, "D") > 2**20:
        raise ValueError(f"states = {states} and D = {D}: {states}^{D} sequences are too many to enumerate; at most 2^20")
    return torch.cartesian_prod(*[torch.arange(states)] * D).reshape(-1, D)


def step_matrix(diffusion: DiscreteDiffusion, x0_model: X0Model, D: int, t: int, s: int | None = None) -> Tensor:
    """p_θ(x_s | x_t) between whole sequences, (S^D, S^D): row x_t, column x_s, both in the order of `sequences`.

    Rows of an x_t that no x_0 leads to (a letter where all is masked by now) are 0.
    """
    every, t = sequences(diffusion.states, D), int(as_steps(t, diffusion.T))
    reached = (diffusion.Q_bars[t][: diffusion.letters].sum(0) > 0)[every].all(1)
    p = torch.zeros(*every.shape, diffusion.states, dtype=torch.float64)
    p[reached] = diffusion.p_step(x0_model, every[reached], t, s)[0]
    return torch.stack([p[:, d, every[:, d]] for d in range(D)]).prod(0)


def model_law(diffusion: DiscreteDiffusion, x0_model: X0Model, D: int, steps=None) -> SequenceLaw:
    """p_θ(x_0), the law of what `ancestral` samples, by enumeration: the prior pushed through every step back."""
    law = torch.stack([diffusion.prior[column] for column in sequences(diffusion.states, D).T]).prod(0)
    for t, s in pairwise(NoiseSchedule.steps(diffusion, steps)):  # type: ignore[arg-type]
        law = law @ step_matrix(diffusion, x0_model, D, t, s)
    return SequenceLaw(law.reshape((diffusion.states,) * D)[(slice(diffusion.letters),) * D])


def expected_terms(diffusion: DiscreteDiffusion, x0_model: X0Model, x_0: Tensor) -> Tensor:
    """E L_0, …, E L_T over q(x_t | x_0), exactly, shape (B, T+1): `bound_terms` with every x_t instead of one draw."""
    B, D = diffusion._data(x_0).shape
    every = sequences(diffusion.states, D)
    columns = []
    for t in range(1, diffusion.T + 1):
        q = diffusion.q_marginal(x_0, t)
        weights = torch.stack([q[:, d, every[:, d]] for d in range(D)]).prod(0)
        b, n = torch.nonzero(weights, as_tuple=True)
        loss = diffusion.L_0(x0_model, x_0[b], every[n]) if t == 1 else diffusion.L_t(x0_model, x_0[b], every[n], t)
        columns.append(torch.zeros(B, dtype=torch.float64).index_add(0, b, weights[b, n] * loss))
    return torch.stack([*columns, diffusion.L_T(x_0)], 1)


# Continuous time --------------------------------------------------------------------------------------------------


def rates(R: Tensor) -> Tensor:
    """R if it is a rate matrix, float64: square, no negative rate off the diagonal, rows that sum to 0."""
    R = torch.as_tensor(R, dtype=torch.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1]:
        raise ValueError(f"R must be a square matrix, got shape {tuple(R.shape)}")
    _rows(R[None], "R", 0.0)
    return R


def reverse_rates(R: Tensor, q_t: Tensor) -> Tensor:
    """R̃_{xy} = R_{yx} q_t(y) / q_t(x) for y ≠ x: the rates of the same process run backwards [Campbell 2022, Prop. 1].

    R (S, S) holds the forward rates at time t, q_t (S,) the law then, > 0 everywhere. The diagonal makes each row sum to 0.
    """
    R, q_t = rates(R), _law(q_t, "q_t")
    if len(q_t) != len(R) or not bool((q_t > 0).all()):
        raise ValueError(f"q_t must have {len(R)} entries > 0, got {q_t.tolist()}")
    back = R.T * q_t / q_t[:, None]
    back.fill_diagonal_(0)
    return back - torch.diag(back.sum(1))


def masked_loss(x0_model: X0Model, x_0: Tensor, t: Tensor, mask: int, generator: torch.Generator | None = None) -> Tensor:
    """(1/t) Σ_{masked d} -log p̃(x_0[d] | x_t), shape (B,): for t ~ U(0, 1) its mean is the bound of endless masking steps.

    Each position of x_0 is hidden (set to `mask`, the number of letters) with probability t, for t (B,) in (0, 1]. Nats.
    """
    _categories(x_0, count(mask, "mask"), "x_0")
    if t.shape != x_0.shape[:1] or not bool(((t > 0) & (t <= 1)).all()):
        raise ValueError(f"t must hold one number in (0, 1] for each of the {len(x_0)} sequences, shape (B,); got {t}")
    hidden = torch.rand(x_0.shape, generator=generator, dtype=t.dtype) < t[:, None]
    x_t = x_0.masked_fill(hidden, mask)
    cross_entropy = torch.nn.functional.cross_entropy(x0_model(x_t, t).mT, x_0, reduction="none")
    return (cross_entropy * hidden).sum(1) / t


def any_order_bound(x0_model: X0Model, x_0: Tensor, mask: int) -> Tensor:
    """The mean of `masked_loss` over t and masks, exactly, for a model that ignores t: (B,), in nats [Ou 2025, Sec. 3].

    Σ over all non-empty sets M of positions of Σ_{d in M} -log p̃(x_0[d] | the rest) / (|M| · (D choose |M|)): the letters
    revealed one at a time in random order. D at most 16.
    """
    B, D = _categories(x_0, count(mask, "mask"), "x_0").shape
    if D > 16:
        raise ValueError(f"x_0 has D = {D} positions: 2^D sets of masks are too many; at most 16")
    total = torch.zeros(B, dtype=torch.float64)
    for k in range(1, D + 1):
        for chosen in combinations(range(D), k):
            x_t = x_0.clone()
            x_t[:, chosen] = mask
            p = _softmax(x0_model(x_t, torch.full((B,), k / D)), (B, D, mask))
            total -= p.gather(-1, x_0[..., None])[:, chosen, 0].log().sum(1) / (k * math.comb(D, k))
    return total


# Small things -----------------------------------------------------------------------------------------------------


def draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One category from each law in the last axis of probs (..., S), int64 (...)."""
    flat = instance(probs, "probs", Tensor).reshape(-1, probs.shape[-1])
    try:
        return torch.multinomial(flat, 1, generator=generator).reshape(probs.shape[:-1])
    except RuntimeError as error:
        raise ValueError(f"probs must hold laws, numbers >= 0 with a sum above 0: {error}") from None


def _row(M: Tensor, x: Tensor) -> Tensor:
    """M[x]: the row of M (S, S) that each entry of x (B, D) names; of M[b] if M is (B, S, S)."""
    if M.ndim == 3 and len(M) != len(x):
        raise ValueError(f"t has {len(M)} entries, but the data have shape {tuple(x.shape)}: give one per batch entry")
    x = x.to(M.device)
    return M[x] if M.ndim == 2 else M[torch.arange(len(x))[:, None], x]


def _kl(q: Tensor, p: Tensor) -> Tensor:
    """Σ q log(q/p) over the last axis, with 0 log 0 = 0 and +∞ where q > 0 = p; its gradient is finite where q = 0."""
    return (torch.special.xlogy(q, q) - q * torch.where(q > 0, p, 1.0).log()).sum(-1)


def _softmax(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(instance(logits, "x0_model(x_t, t)", Tensor).shape) != shape:
        raise ValueError(f"x0_model returned shape {tuple(logits.shape)}; wanted (B, D, letters) = {shape}")
    p = logits.double().softmax(-1)
    if bool(p.isnan().any()):
        raise ValueError("x0_model returned logits that are NaN, +∞, or -∞ for every letter of a position")
    return p.to("cpu")


def _categories(x: Tensor, n: int, name: str) -> Tensor:
    if not isinstance(x, Tensor) or x.dtype != torch.int64:
        raise TypeError(f"{name} must be an int64 tensor of categories, got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (B, D), got {tuple(x.shape)}")
    if x.numel() and not (0 <= int(x.min()) and int(x.max()) < n):
        raise ValueError(f"{name} holds categories from {int(x.min())} to {int(x.max())}; allowed are 0..{n - 1}")
    return x


def _law(p, name: str) -> Tensor:
    p = torch.as_tensor(p, dtype=torch.float64)
    if p.ndim != 1 or not len(p):
        raise ValueError(f"{name} must be a list of probabilities, got shape {tuple(p.shape)}")
    _rows(p[None, None], name, 1.0)
    return p


def _rows(matrices: Tensor, name: str, total: float) -> None:
    """Refuse matrices (N, R, S) with a row that does not sum to `total`, or negative (for rates: off the diagonal)."""
    off = matrices if total else matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    if not bool(matrices.isfinite().all()) or bool((off < 0).any()):
        raise ValueError(f"{name} holds a negative entry, NaN or infinity; its smallest is {float(off.min())}")
    sums = matrices.sum(-1)
    wrong = torch.nonzero(~torch.isclose(sums, torch.tensor(total, dtype=torch.float64), rtol=0, atol=1e-6))
    if len(wrong):
        k, i = (int(j) for j in wrong[0])
        which = f" number {k + 1}" if len(matrices) > 1 else ""
        where = name if matrices.shape[1] == 1 else f"row {i} of {name}{which}"
        raise ValueError(f"{where} sums to {float(sums[k, i]):.12g}; it must sum to {total:g} (rows, not columns)")
