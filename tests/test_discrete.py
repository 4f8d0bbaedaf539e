"""Discrete diffusion against whole chains written out: every path, from the step matrices, by numpy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from ddpm_edu.discrete import (
    DiscreteDiffusion,
    SequenceLaw,
    any_order_bound,
    draw,
    expected_terms,
    masked_loss,
    mix,
    model_law,
    rates,
    reverse_rates,
    sequences,
    step_matrix,
)

BARS = [0.8, 0.5, 0.15]
MASKS = [0.75, 0.4, 0.0]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rows(*shape, seed=0):
    raw = torch.rand(*shape, generator=rng(seed), dtype=torch.float64) + 0.05
    return raw / raw.sum(-1, keepdim=True)


CHAINS = {
    "uniform": DiscreteDiffusion.uniform(3, BARS),
    "mask": DiscreteDiffusion.absorbing(2, MASKS),
    "any": DiscreteDiffusion(random_rows(3, 3, 3, seed=1), random_rows(3, seed=2)),
}
every = pytest.mark.parametrize("name", CHAINS)


def data_of(diffusion, D=2, seed=5):
    return SequenceLaw(random_rows(diffusion.letters**D, seed=seed).reshape((diffusion.letters,) * D))


def table_model(diffusion, D=2, seed=7):
    """An imperfect x0_model: one row of logits for every x_t, t and position."""
    table = torch.randn(diffusion.T + 1, diffusion.states**D, D, diffusion.letters, generator=rng(seed), dtype=torch.float64)
    base = diffusion.states ** torch.arange(D - 1, -1, -1)
    return lambda x_t, t: table[t, (x_t * base).sum(1)]


def joint_of(diffusion, x_0):
    """q(x_1, …, x_T | x_0) of one position, an array with T axes, multiplied out."""
    Q = diffusion.Q.numpy()
    joint = Q[1][x_0]
    for t in range(2, diffusion.T + 1):
        joint = joint[..., None] * Q[t]
    return joint


@every
def test_marginals_jumps_and_posteriors_by_enumeration(name):
    diffusion = CHAINS[name]
    for x_0 in range(diffusion.letters):
        joint = joint_of(diffusion, x_0)
        start = torch.tensor([[x_0]])
        for t in range(1, 4):
            one = joint.sum(tuple(k for k in range(3) if k != t - 1))
            assert np.allclose(diffusion.q_marginal(start, t)[0, 0], one, atol=1e-14)
            for s in range(1, t):
                pair = joint.sum(tuple(k for k in range(3) if k not in (s - 1, t - 1)))  # [x_s, x_t]
                assert np.allclose(pair, diffusion.Q_bars[s][x_0][:, None] * diffusion.jump(t, s), atol=1e-14)
                for x_t in np.nonzero(one)[0]:
                    got = diffusion.q_posterior(start, torch.tensor([[x_t]]), t, s)
                    assert np.allclose(got[0, 0], pair[:, x_t] / one[x_t], atol=1e-13)
            at_0 = diffusion.q_posterior(start, torch.tensor([[int(np.nonzero(one)[0][0])]]), t, 0)
            assert torch.equal(at_0[0, 0], torch.eye(diffusion.states, dtype=torch.float64)[x_0])


def test_closed_forms_of_the_pulled_chains():
    for diffusion, bars in ((CHAINS["uniform"], BARS), (CHAINS["mask"], MASKS)):
        assert torch.allclose(diffusion.Q_bars[1:], mix(torch.tensor(bars), diffusion.prior), atol=1e-15)
    mask = CHAINS["mask"]
    assert mask.states == 3 and torch.equal(mask.Q[:, 2], torch.tensor([[0.0, 0.0, 1.0]] * 4, dtype=torch.float64))
    assert torch.allclose(mask.Q[1], torch.tensor([[0.75, 0, 0.25], [0, 0.75, 0.25], [0, 0, 1]], dtype=torch.float64))
    K, beta = 3, 0.2
    assert torch.allclose(CHAINS["uniform"].Q[1].diagonal(), torch.tensor(1 - beta * (K - 1) / K, dtype=torch.float64))


@every
def test_bound_gap_and_law_by_enumeration_of_every_path(name):
    """p and q as arrays over (x_0, x_1, x_2, x_3), each a pair of positions; nothing but sums."""
    diffusion, D = CHAINS[name], 2
    model, S, K, T = table_model(CHAINS[name]), diffusion.states, diffusion.letters, 3
    pairs = list(itertools.product(range(S), repeat=D))
    Q = [np.kron(M, M) for M in diffusion.Q.numpy()]
    p_steps = [None]
    for t in range(1, T + 1):
        matrix = np.zeros((S**D, S**D))
        for i, x_t in enumerate(pairs):
            logits = model(torch.tensor([x_t]), torch.tensor([t]))[0]
            guess = logits.softmax(-1).numpy()
            rows = []
            for d in range(D):
                row, total = np.zeros(S), 0.0
                for x_0 in range(K):
                    bar_s, bar_t = diffusion.Q_bars[t - 1][x_0].numpy(), float(diffusion.Q_bars[t][x_0, x_t[d]])
                    if bar_t > 0:
                        row += guess[d, x_0] * bar_s * diffusion.Q[t].numpy()[:, x_t[d]] / bar_t
                        total += guess[d, x_0]
                rows.append(row / total if total else row)
            matrix[i] = np.kron(*rows)
        p_steps.append(matrix)
        assert np.allclose(step_matrix(diffusion, model, D, t), matrix, atol=1e-14)
    prior = np.kron(diffusion.prior, diffusion.prior)
    p = np.einsum("d,dc,cb,ba->abcd", prior, p_steps[3], p_steps[2], p_steps[1])
    law = model_law(diffusion, model, D)
    letters = [i for i, x in enumerate(pairs) if max(x) < K]
    assert np.allclose(law.probs, p.sum((1, 2, 3))[letters], atol=1e-14)
    x_0 = sequences(K, D)
    terms = expected_terms(diffusion, model, x_0)
    for n, i in enumerate(letters):
        q = np.einsum("b,bc,cd->bcd", Q[1][i], Q[2], Q[3])
        used = q > 0
        bound = math.inf if (p[i][used] == 0).any() else float((q[used] * np.log(q[used] / p[i][used])).sum())
        assert float(terms[n].sum()) == pytest.approx(bound, abs=1e-12)
        assert bound >= -math.log(p[i].sum())


def test_the_ideal_denoiser_samples_one_position_exactly_and_pays_for_two():
    for name, diffusion in CHAINS.items():
        one = data_of(diffusion, 1)
        start = (one.probs @ diffusion.Q_bars[-1][: diffusion.letters]).numpy()
        matched = DiscreteDiffusion(diffusion.Q, start / start.sum(), diffusion.letters)
        assert torch.allclose(model_law(matched, one.denoiser(matched), 1).probs, one.probs, atol=1e-14), name
        assert torch.allclose(model_law(matched, one.denoiser(matched), 1, [3, 1, 0]).probs, one.probs, atol=1e-14)
    twins = SequenceLaw(torch.diag(torch.full((2,), 0.5)))
    for T in (1, 4, 16):
        masking = DiscreteDiffusion.absorbing(2, 1 - torch.arange(1, T + 1) / T)
        bound = twins.probs @ expected_terms(masking, twins.denoiser(masking), twins.sequences).sum(1).nan_to_num(posinf=0)
        assert float(bound - twins.entropy()) == pytest.approx(math.log(2) / T, abs=1e-6)


def test_bound_terms_average_to_the_expected_ones():
    diffusion = CHAINS["uniform"]
    model, x_0 = table_model(diffusion), torch.tensor([[0, 2]])
    draws = diffusion.bound_terms(model, x_0.expand(20000, 2), rng(1))
    se = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected_terms(diffusion, model, x_0)[0]).abs() <= 5 * se + 1e-12).all()


@every
def test_draws_follow_their_laws(name):
    diffusion, n = CHAINS[name], 40000
    model = table_model(diffusion)
    *_, last = diffusion.ancestral(model, (n, 2), generator=rng(2))
    share = (
        torch.zeros(diffusion.letters**2).index_add(0, last.x_t[:, 0] * diffusion.letters + last.x_t[:, 1], torch.ones(n)) / n
    )
    want = model_law(diffusion, model, 2).probs
    assert ((share - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-12).all()
    x_t = diffusion.q_sample(torch.zeros(n, 1, dtype=torch.int64), 2, rng(3))
    want = diffusion.Q_bars[2][0]
    assert ((torch.bincount(x_t[:, 0], minlength=3) / n - want).abs() <= 5 * (want * (1 - want) / n).sqrt() + 1e-12).all()
    assert draw(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])).tolist() == [[1, 0]]


def test_steps_of_each_entry_and_strides():
    diffusion = CHAINS["any"]
    model, x_t, x_0 = table_model(diffusion), torch.tensor([[0, 1], [2, 2]]), torch.tensor([[1, 1], [0, 2]])
    t, s = torch.tensor([3, 2]), torch.tensor([1, 0])
    both, posterior = diffusion.p_step(model, x_t, t, s)[0], diffusion.q_posterior(x_0, x_t, t, s)
    for k in range(2):
        alone = x_t[k : k + 1], int(t[k]), int(s[k])
        assert torch.allclose(both[k], diffusion.p_step(model, *alone)[0][0])
        assert torch.allclose(posterior[k], diffusion.q_posterior(x_0[k : k + 1], *alone)[0])
    from_one = diffusion.q_posterior(x_0, x_t, 3, s), diffusion.q_posterior(x_0, x_t, torch.tensor([3, 3]), s)
    assert torch.equal(*from_one)  # one t, an s for each entry
    visited = list(diffusion.ancestral(model, (4, 2), steps=[3, 1, 0], generator=rng()))
    assert [step.t for step in visited] == [3, 1, 0] and visited[0].x_0_hat.shape == (4, 2, 3)
    mask = CHAINS["mask"]
    kept = mask.p_step(table_model(mask), torch.tensor([[0, 2]]), 2)[0]
    assert torch.equal(kept[0, 0], torch.tensor([1.0, 0, 0], dtype=torch.float64)) and float(kept[0, 1, 2]) > 0


def test_sequence_law():
    law = SequenceLaw.markov([0.3, 0.7], [[0.9, 0.1], [0.4, 0.6]], 3)
    assert float(law.probs[0b011]) == pytest.approx(0.3 * 0.1 * 0.6)
    assert law.log_prob(torch.tensor([[0, 1, 1], [1, 0, 0]])).exp().tolist() == pytest.approx([0.018, 0.7 * 0.4 * 0.9])
    h = lambda *p: -sum(x * math.log(x) for x in p)  # noqa: E731
    second = 0.3 * 0.9 + 0.7 * 0.4
    by_rows = h(0.3, 0.7) + sum(a * h(0.9, 0.1) + (1 - a) * h(0.4, 0.6) for a in (0.3, second))
    assert float(law.entropy()) == pytest.approx(by_rows)
    x, n = law.sample(20000, rng()), 20000
    assert float((x[:, 0] == 1).double().mean()) == pytest.approx(0.7, abs=5 * (0.21 / n) ** 0.5)
    assert law.sequences[0b110].tolist() == [1, 1, 0]


def test_masked_loss_and_the_any_order_bound():
    law = SequenceLaw.markov([0.3, 0.7], [[0.9, 0.1], [0.4, 0.6]], 3)
    diffusion = DiscreteDiffusion.absorbing(2, [0.5, 0.0])
    ideal = law.denoiser(diffusion)
    timeless = lambda x_t, t: ideal(x_t, 1)  # noqa: E731
    assert torch.allclose(any_order_bound(timeless, law.sequences, 2), -law.probs.log(), atol=1e-12)
    logits = torch.randn(27, 3, 2, generator=rng(4), dtype=torch.float64)
    wrong = lambda x_t, t: logits[(x_t * torch.tensor([9, 3, 1])).sum(1)]  # noqa: E731
    x_0 = law.sequences[[3]]
    exact = any_order_bound(wrong, x_0, 2)

    # The integral over t of (1/t) E Σ CE, every set of masks with its probability.
    def at(t):
        out = 0.0
        for hidden in itertools.product([0, 1], repeat=3):
            x_t = torch.where(torch.tensor([hidden]).bool(), 2, x_0)
            nll = -wrong(x_t, t).log_softmax(-1)[0, range(3), x_0[0]]
            out += t ** sum(hidden) * (1 - t) ** (3 - sum(hidden)) * float(nll @ torch.tensor(hidden).double())
        return out / t

    assert float(exact) == pytest.approx(quad(at, 0, 1)[0], abs=1e-9)
    t = torch.rand(40000, generator=rng(5), dtype=torch.float64) * 0.999 + 0.001
    draws = masked_loss(wrong, x_0.expand(len(t), 3), t, 2, rng(6))
    assert float(draws.mean()) == pytest.approx(quad(at, 0.001, 1)[0] / 0.999, abs=5 * float(draws.std()) / 200)


def test_continuous_time():
    R = torch.tensor([[-1.0, 0.7, 0.3], [0.2, -0.5, 0.3], [0.0, 2.0, -2.0]], dtype=torch.float64)
    chain = DiscreteDiffusion.from_rates(R, [0.3, 0.8, 2.0], [0.2, 0.3, 0.5])
    for t, B in enumerate((0.3, 0.8, 2.0), 1):
        assert np.allclose(chain.Q_bars[t], expm(B * R.numpy()), atol=1e-13)
    start = np.array([0.6, 0.3, 0.1])
    q = torch.tensor(start @ expm(R.numpy()))
    # Run from q back for the same time, with the reverse rates at each instant: the start is found again.
    back = lambda u, y: y @ reverse_rates(R, torch.tensor(start @ expm((1 - u) * R.numpy()))).numpy()  # noqa: E731
    found = solve_ivp(back, (0, 1), q.numpy(), rtol=1e-11, atol=1e-13).y[:, -1]
    assert np.allclose(found, start, atol=1e-9)
    assert torch.equal(rates(R), R) and torch.allclose(reverse_rates(R, q).sum(1), torch.zeros(3, dtype=torch.float64))


def test_a_first_step_without_noise_is_a_step():
    assert DiscreteDiffusion.pulled([1.0, 1.0, 0.5], [0.5, 0.5]).T == 2  # ᾱ_0, and two steps
    R = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    chain = DiscreteDiffusion.from_rates(R, [0.0, 0.5, 1.0], [0.5, 0.5])
    assert chain.T == 3 and np.allclose(chain.Q_bars[[1, 3]], [np.eye(2), expm(R.numpy())], atol=1e-13)


def test_training_through_the_bound_has_finite_gradients():
    mask = CHAINS["mask"]
    logits = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    x_0, x_t = torch.tensor([[0, 1]]), torch.tensor([[0, 2]])
    mask.L_t(lambda x, t: logits, x_0, x_t, 2).sum().backward()
    assert logits.grad.isfinite().all() and float(logits.grad[0, 1, 1]) < 0 and float(logits.grad[0, 0].abs().max()) == 0


I2 = torch.eye(2).expand(2, 2, 2).contiguous()
U = CHAINS["uniform"]
X = torch.tensor([[0, 1]])
flat = lambda x, t: torch.zeros(*x.shape, 3)  # noqa: E731


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: DiscreteDiffusion(I2 * 0.8999, [0.5, 0.5]), ValueError, "row 0 of Q number 1 sums to 0.8999"),
        (lambda: DiscreteDiffusion(U.Q.mT.clone() * 0 + CHAINS["any"].Q.mT, U.prior), ValueError, "rows, not columns"),
        (lambda: DiscreteDiffusion(torch.tensor([[[1.5, -0.5], [0.0, 1.0]]]), [0.5, 0.5]), ValueError, "Q holds a negative"),
        (lambda: DiscreteDiffusion(torch.full((1, 2, 2), math.nan), [0.5, 0.5]), ValueError, "NaN"),
        (lambda: DiscreteDiffusion(torch.eye(2), [0.5, 0.5]), ValueError, r"shape \(T, S, S\)"),
        (lambda: DiscreteDiffusion(I2, [0.5, 0.4]), ValueError, "prior sums to 0.9"),
        (lambda: DiscreteDiffusion(I2, [0.5, 0.25, 0.25]), ValueError, "prior has 3 entries"),
        (lambda: DiscreteDiffusion(I2, [0.5, 0.5], letters=3), ValueError, "letters = 3"),
        (lambda: DiscreteDiffusion.uniform(1, BARS), ValueError, "letters = 1"),
        (lambda: DiscreteDiffusion.uniform(3, [0.5, 0.6]), ValueError, "must not rise"),
        (lambda: DiscreteDiffusion.uniform(3, [0.5, 0.0, 0.0]), ValueError, "only the last may be 0"),
        (lambda: DiscreteDiffusion.absorbing(3, [1.5]), ValueError, r"in \[0, 1\]"),
        (lambda: mix(1.2, [0.5, 0.5]), ValueError, "alpha = 1.2"),
        (lambda: U.q_marginal(torch.tensor([[0, 3]]), 1), ValueError, "x_0 holds categories from 0 to 3; allowed are 0..2"),
        (lambda: U.q_marginal(torch.tensor([[-1, 0]]), 1), ValueError, "from -1"),
        (lambda: U.q_marginal(torch.tensor([[0.0, 1.0]]), 1), TypeError, "x_0 must be an int64"),
        (lambda: U.q_marginal(torch.tensor([0, 1]), 1), ValueError, r"shape \(B, D\)"),
        (lambda: U.q_marginal(X, 4), ValueError, "t = 4 is outside 0..3"),
        (lambda: U.q_marginal(X, torch.tensor([1, 2])), ValueError, "one per batch entry"),
        (lambda: CHAINS["mask"].q_marginal(torch.tensor([[2]]), 1), ValueError, "x_0 holds categories"),
        (
            lambda: CHAINS["mask"].q_posterior(torch.tensor([[0]]), torch.tensor([[1]]), 2),
            ValueError,
            "cannot come from x_0 = 0",
        ),
        (lambda: U.q_posterior(X, X, 2, 2), ValueError, "s must be smaller"),
        (lambda: U.q_posterior(X, torch.tensor([[0]]), 2), ValueError, "they must be equal"),
        (lambda: U.p_step(lambda x, t: torch.zeros(1, 2, 4), X, 2), ValueError, r"wanted \(B, D, letters\) = \(1, 2, 3\)"),
        (lambda: U.p_step(lambda x, t: flat(x, t) * math.nan, X, 2), ValueError, "NaN"),
        (lambda: U.L_t(flat, X, X, 1), ValueError, "t = 1 is outside 2..3"),
        (lambda: list(U.ancestral(flat, (2, 2), steps=[3, 3, 0])), ValueError, "strictly decreasing"),
        (lambda: U.ancestral(flat, (0, 2)), ValueError, r"shape\[0\] = 0"),
        (lambda: SequenceLaw(torch.full((2, 3), 1 / 6)), ValueError, "one axis for each position"),
        (lambda: SequenceLaw.markov([0.5, 0.5], torch.eye(3), 2), ValueError, r"step must have shape \(2, 2\)"),
        (lambda: SequenceLaw(torch.full((2, 2), 0.25)).log_prob(torch.tensor([[0]])), ValueError, "x has 1 positions"),
        (lambda: sequences(10, 9), ValueError, "too many"),
        (lambda: rates(torch.tensor([[-1.0, 1.0], [1.0, 0.0]])), ValueError, "row 1 of R sums to 1"),
        (lambda: rates(torch.tensor([[1.0, -1.0], [1.0, -1.0]])), ValueError, "R holds a negative"),
        (lambda: DiscreteDiffusion.from_rates(torch.zeros(2, 2), [1.0, 0.5], [0.5, 0.5]), ValueError, "never fall"),
        (lambda: reverse_rates(torch.zeros(2, 2), [1.0, 0.0]), ValueError, "entries > 0"),
        (lambda: masked_loss(flat, X, torch.tensor([0.0]), 3), ValueError, r"\(0, 1\]"),
        (lambda: any_order_bound(flat, torch.zeros(1, 17, dtype=torch.int64), 3), ValueError, "at most 16"),
    ],
)
def test_bad_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_model_that_denies_what_it_sees_is_refused():
    certain = torch.tensor([0.0, -math.inf]).expand(1, 1, 2)
    with pytest.raises(ValueError, match="probability 0 to every x_0"):
        CHAINS["mask"].p_step(lambda x, t: certain, torch.tensor([[1]]), 2)
