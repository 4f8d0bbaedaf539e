"""The tables against literal loops, exact fractions and the joint covariance of the chain."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm_edu import GaussianDiffusion, NoiseSchedule
from ddpm_edu.gaussian import condition_joint
from ddpm_edu.routes import chain_joint

ALL = {
    "linear": NoiseSchedule.linear(),
    "linear10": NoiseSchedule.linear(10, 0.01, 0.3),
    "cosine": NoiseSchedule.cosine(),
    "quadratic": NoiseSchedule.quadratic(50, 1e-3, 0.2),
    "constant": NoiseSchedule.constant(7, 0.1),
    "one": NoiseSchedule.linear(1),
}
betas_lists = st.lists(st.floats(1e-4, 0.9), min_size=1, max_size=12)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_tables_have_the_clean_entry_and_float64(schedule):
    for table in (schedule.betas, schedule.alphas, schedule.alpha_bars, schedule.beta_tildes):
        assert table.shape == (schedule.T + 1,) and table.dtype == torch.float64
    assert schedule.betas[0] == 0 and schedule.alphas[0] == 1 and schedule.alpha_bars[0] == 1
    assert schedule.beta_tildes[0] == 0 and schedule.beta_tildes[1] == 0
    assert schedule.snr[0] == math.inf and (schedule.snr[1:] < schedule.snr[:-1]).all()


def test_linear_is_the_papers():
    schedule = NoiseSchedule.linear()
    product = Fraction(1)
    for t in range(1, 1001):
        beta = Fraction(1, 10000) + Fraction(t - 1, 999) * (Fraction(2, 100) - Fraction(1, 10000))
        product *= 1 - beta
        assert float(schedule.betas[t]) == pytest.approx(float(beta), rel=1e-12)
        if t in (1, 2, 500, 1000):
            assert float(schedule.alpha_bars[t]) == pytest.approx(float(product), rel=1e-12)


def test_cosine_follows_f_and_is_clipped():
    schedule = NoiseSchedule.cosine(1000)

    def f(t):
        return (1 + math.cos(math.pi * (t / 1000 + 0.008) / 1.008)) / 2  # cos² by the half-angle rule

    for t in (1, 10, 500, 990):
        assert float(schedule.alpha_bars[t]) == pytest.approx(f(t) / f(0), rel=1e-10)
    assert float(schedule.betas[-1]) == 0.999
    assert 1 / math.sqrt(float(schedule.alphas[-1])) < 100


def test_quadratic_and_constant():
    betas = NoiseSchedule.quadratic(3, 0.01, 0.09).betas.tolist()
    assert betas == pytest.approx([0, 0.01, 0.04, 0.09])  # roots 0.1, 0.2, 0.3
    assert NoiseSchedule.constant(3, 0.5).alpha_bars.tolist() == [1, 0.5, 0.25, 0.125]


@given(betas_lists)
@settings(max_examples=50, deadline=None)
def test_tables_against_loops(betas):
    schedule = NoiseSchedule.from_betas(betas)
    alpha_bar = 1.0
    for t, beta in enumerate(betas, start=1):
        before, alpha_bar = alpha_bar, alpha_bar * (1 - beta)
        assert float(schedule.alphas[t]) == pytest.approx(1 - beta, rel=1e-12)
        assert float(schedule.alpha_bars[t]) == pytest.approx(alpha_bar, rel=1e-12)
        assert float(schedule.beta_tildes[t]) == pytest.approx((1 - before) * beta / (1 - alpha_bar), rel=1e-9, abs=1e-15)
    again = NoiseSchedule.from_alpha_bars(schedule.alpha_bars)
    assert torch.allclose(again.betas, schedule.betas, rtol=1e-9, atol=1e-15)
    assert torch.equal(NoiseSchedule.from_betas(schedule.betas).alpha_bars, schedule.alpha_bars)


def test_beta_tilde_is_the_conditional_variance_of_the_path():
    betas = [0.1, 0.25, 0.4, 0.05]
    schedule = NoiseSchedule.from_betas(betas)
    mean, cov = chain_joint(betas, mean=0.0, var=0.0)  # x_0 known
    for t in range(2, 5):
        pair = [t - 1, t]
        _, var = condition_joint(mean[pair], cov[pair][:, pair], torch.zeros(1, dtype=torch.float64), keep=1)
        assert float(var) == pytest.approx(float(schedule.beta_tildes[t]), rel=1e-12)


def test_respaced_keeps_the_marginals():
    schedule = NoiseSchedule.linear(100)
    short = schedule.respaced([100, 40, 7, 0])
    assert torch.equal(short.alpha_bars, schedule.alpha_bars[[0, 7, 40, 100]])
    assert torch.equal(schedule.respaced(100).alpha_bars, schedule.alpha_bars)
    product = torch.ones(2, dtype=torch.float64)
    product[1:] = torch.prod(schedule.alphas[8:41])
    assert float(short.alphas[2]) == pytest.approx(float(product[1]), rel=1e-12)


def test_steps():
    schedule = NoiseSchedule.linear(10, 0.01, 0.3)
    assert schedule.steps() == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert schedule.steps(10) == schedule.steps() and schedule.steps(1) == [10, 0] and schedule.steps(2) == [10, 5, 0]
    assert schedule.steps([8, 3, 0]) == [8, 3, 0]
    assert all(len(schedule.steps(n)) == n + 1 for n in range(1, 11))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NoiseSchedule.from_betas([0.1, 1.0]), r"betas\[2\] = 1.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.from_betas([0.1, 0.0]), r"betas\[2\] = 0.0"),
        (lambda: NoiseSchedule.from_betas([-0.1]), r"betas\[1\] = -0.1"),
        (lambda: NoiseSchedule.from_betas([float("nan")]), r"betas\[1\] = nan"),
        (lambda: NoiseSchedule.from_betas([]), "betas is empty"),
        (lambda: NoiseSchedule.from_betas([[0.1]]), "list of numbers"),
        (lambda: NoiseSchedule.from_betas([0.999] * 200), "underflows"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, 0.9]), "must fall at every step"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, 0.95]), r"alpha_bars\[2\] = 0.95"),
        (lambda: NoiseSchedule.from_alpha_bars([1.1]), r"alpha_bars\[1\] = 1.1"),
        (lambda: NoiseSchedule.from_alpha_bars([0.5, 1e-40]), "beta_2 rounds to 1"),
        (lambda: NoiseSchedule.linear(0), "T = 0 is too small"),
        (lambda: NoiseSchedule.linear(10, beta_1=0.0), r"beta_1 = 0.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.linear(10, beta_T=1.5), "beta_T = 1.5"),
        (lambda: NoiseSchedule.constant(3, 1.0), "beta = 1.0"),
        (lambda: NoiseSchedule.cosine(10, offset=-1.0), "offset = -1.0"),
        (lambda: NoiseSchedule.cosine(10, max_beta=1.0), "max_beta = 1.0"),
        (lambda: ALL["linear10"].steps(11), "steps = 11 is more than"),
        (lambda: ALL["linear10"].steps(0), "steps = 0 is too small"),
        (lambda: ALL["linear10"].steps([5, 5, 0]), "strictly decreasing"),
        (lambda: ALL["linear10"].steps(5, 0.9), r"spacing = 0.9 is outside \[1, inf\)"),
        (lambda: ALL["linear10"].steps([5, 0], 2.0), "spacing = 2.0 is for a number of steps"),
        (lambda: ALL["linear10"].steps([5, 1]), "end in 0"),
        (lambda: ALL["linear10"].steps([11, 0]), "at most at T = 10"),
        (lambda: ALL["linear10"].steps([0]), "end in 0"),
        (lambda: ALL["linear10"].steps([5, 0, 0]), "strictly decreasing"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("T", [1.5, True, "10"])
def test_T_must_be_an_int(T):
    with pytest.raises(TypeError, match="T must be an int"):
        NoiseSchedule.linear(T)


def test_snr_is_a_ratio_of_powers():
    """Of squared signal to noise variance in a noised 1, read off draws' law and not off the tables."""
    schedule = NoiseSchedule.linear(10, 0.1, 0.5)
    q = [GaussianDiffusion(schedule).q_marginal(torch.ones((), dtype=torch.float64), t) for t in range(1, 11)]
    powers = torch.stack([g.mean**2 / g.var for g in q])
    assert torch.allclose(schedule.snr[1:], powers, rtol=1e-12, atol=0)
    assert float(schedule.snr[0]) == math.inf


def test_defaults_are_the_papers():
    assert [make().T for make in (NoiseSchedule.linear, NoiseSchedule.quadratic, NoiseSchedule.cosine)] == [1000] * 3
    for make in (NoiseSchedule.linear, NoiseSchedule.quadratic):
        assert make(5).betas[[1, 5]].tolist() == pytest.approx([1e-4, 0.02], rel=1e-12)


def test_it_is_shown_by_its_length_and_its_end():
    assert repr(NoiseSchedule.constant(3, 0.5)) == "NoiseSchedule(T=3, alpha_bar_T=0.125)"


def test_log_snr_is_the_logarithm_of_odds():
    lam = NoiseSchedule.constant(2, 0.5).log_snr
    assert lam.tolist() == pytest.approx([math.inf, 0.0, -math.log(3)], abs=1e-15)  # odds ∞, 1 : 1 and 1 : 3


def test_from_log_snr_reads_the_curve_at_both_ends():
    asked = []

    def curve(u):
        asked.append(u.tolist())
        return 2 - 5 * u

    schedule = NoiseSchedule.from_log_snr(curve, 3)
    assert asked == [[0.0, 0.5, 1.0]] and schedule.alpha_bars.dtype == torch.float64
    want = [1 / (1 + math.exp(-lam)) for lam in (2.0, -0.5, -3.0)]
    assert schedule.alpha_bars[1:].tolist() == pytest.approx(want, rel=1e-14)
    single = NoiseSchedule.from_log_snr(lambda u: (2 - 5 * u).float(), 2)
    assert single.alpha_bars[1:].tolist() == pytest.approx([want[0], want[2]], rel=1e-14)  # the sigmoid is formed in float64
    for bad in (lambda u: u[:1], lambda u: -u * math.inf):
        with pytest.raises(ValueError, match="log_snr must return 2 finite numbers for 2 times"):
            NoiseSchedule.from_log_snr(bad, 2)
    with pytest.raises(ValueError, match="T = 1 is too small"):
        NoiseSchedule.from_log_snr(curve, 1)


def test_evenly_spaced_steps_are_the_nearest():
    schedule = NoiseSchedule.linear(10, 0.01, 0.3)
    assert schedule.steps(4) == [10, 8, 5, 3, 0]  # 7.5 and 2.5 are rounded up
    assert schedule.steps(3) == [10, 7, 3, 0] and schedule.steps(7) == [10, 9, 7, 6, 4, 3, 1, 0]
    assert schedule.steps([10, 0]) == [10, 0] and schedule.steps((3, 2, 0)) == [3, 2, 0]


@given(T=st.integers(1, 1500), share=st.floats(0, 1), spacing=st.floats(1, 12))
@settings(max_examples=300, deadline=None)
def test_spaced_steps_are_the_power_rounded_and_never_twice(T, share, spacing):
    schedule, n = NoiseSchedule.constant(T, 0.01), 1 + round(share * (T - 1))
    visited = schedule.steps(n, spacing)
    assert len(visited) == n + 1 and visited[0] == T and visited[-1] == 0
    assert all(t > s for t, s in itertools.pairwise(visited))
    for k, t in enumerate(reversed(visited)):
        power = math.exp(spacing * math.log(k / n)) * T if k else 0.0
        assert abs(t - power) <= 0.5 + 2e-9 or (t == k and power < k)


@pytest.mark.parametrize("T", [1, 10, 1000])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_halves_go_up_exactly(T, power):
    for n in {1, 2, 4, 5, 7, 8, 10, 20, 100, 250, 1000} & set(range(T + 1)):
        exact = [math.floor(Fraction(T * k**power, n**power) + Fraction(1, 2)) for k in range(n, -1, -1)]
        assert NoiseSchedule.constant(T, 0.1).steps(n, float(power)) == [max(t, n - i) for i, t in enumerate(exact)]


def test_spaced_steps_by_hand():
    schedule = NoiseSchedule.linear(1000)
    assert schedule.steps(5, 2) == [1000, 640, 360, 160, 40, 0]  # DDIM's list: T (k/5)²
    assert schedule.steps(4, 1.5) == [1000, 650, 354, 125, 0]  # √(27/64) = 0.6495, √(1/8) = 0.3536, (1/4)^1.5 = 1/8
    assert schedule.steps(100, 3)[-12:] == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]  # 11³/1000 = 1.3 is below 11
    assert schedule.steps(10, 1.0) == schedule.steps(10) and schedule.steps(None, 2.0) == schedule.steps()
    assert NoiseSchedule.linear(10).steps(1, 7.0) == [10, 0] and NoiseSchedule.linear(3).steps(3, 1e9) == [3, 2, 1, 0]


def test_tables_do_not_share_memory_or_gradients_with_what_they_came_from():
    for make in (NoiseSchedule.from_betas, NoiseSchedule.from_alpha_bars):
        given = torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True)
        schedule = make(given[:1])
        before = schedule.alpha_bars.clone()
        with torch.no_grad():
            given.fill_(0.1)
        assert not schedule.alpha_bars.requires_grad and torch.equal(schedule.alpha_bars, before)


def test_a_long_list_is_shortened_in_the_message():
    schedule = NoiseSchedule.linear(20, 0.01, 0.3)
    with pytest.raises(ValueError, match=r"got \[9, 8, …, 1, 2\]$"):
        schedule.steps([9, 8, 7, 6, 5, 4, 3, 1, 2])
    with pytest.raises(ValueError, match=r"got \[8, 7, 6, 5, 4, 3, 1, 2\]$"):
        schedule.steps([8, 7, 6, 5, 4, 3, 1, 2])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: NoiseSchedule.from_alpha_bars([]), "alpha_bars is empty"),
        (lambda: NoiseSchedule.from_alpha_bars([1.0]), "alpha_bars is empty"),
        (lambda: NoiseSchedule.from_betas([0.0]), "betas is empty"),
        (lambda: NoiseSchedule.from_alpha_bars([0.5, 0.0]), r"alpha_bars\[2\] = 0.0 is outside"),
        (lambda: NoiseSchedule.from_alpha_bars([0.9, 0.8, 0.85]), r"alpha_bars\[3\] = 0.85 is not below alpha_bars\[2\] = 0.8"),
        (lambda: NoiseSchedule.from_alpha_bars([0.5, 1e-40]), r"alpha_bars\[2\] = .* so far below alpha_bars\[1\]"),
        (lambda: NoiseSchedule.linear(10, beta_1=1.0), r"beta_1 = 1.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.linear(10, beta_T=0.0), r"beta_T = 0.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.quadratic(10, beta_1=-0.1), r"beta_1 = -0.1 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.quadratic(0), "T = 0 is too small"),
        (lambda: NoiseSchedule.constant(3, 0.0), r"beta = 0.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.constant(0, 0.5), "T = 0 is too small"),
        (lambda: NoiseSchedule.cosine(10, max_beta=0.0), r"max_beta = 0.0 is outside \(0, 1\)"),
        (lambda: NoiseSchedule.cosine(0), "T = 0 is too small"),
        (lambda: NoiseSchedule.linear(10).steps([]), "end in 0"),
    ],
)
def test_more_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_cosine_without_an_offset_is_a_square_of_a_cosine():
    assert NoiseSchedule.cosine(4, offset=0.0).alpha_bars[[1, 2, 3]].tolist() == pytest.approx(
        [math.cos(k * math.pi / 8) ** 2 for k in (1, 2, 3)], rel=1e-13
    )
    assert float(NoiseSchedule.cosine(4, max_beta=0.5).betas.max()) == 0.5


@pytest.mark.parametrize("n", [2.0, [2.5, 0], True])
def test_steps_must_be_whole_numbers(n):
    with pytest.raises(TypeError, match="steps"):
        NoiseSchedule.linear(10).steps(n)


def test_tables_of_one_s_own_must_be_whole_tables():
    def table(*values):
        return torch.tensor(values, dtype=torch.float64)

    assert NoiseSchedule(table(1, 0.5), table(0, 0.5)).beta_tildes.tolist() == [0, 0]
    for alpha_bars, betas in (
        (table(1, 0.5), table(0, 0.5, 0.5)),
        (table(1, 0.5)[:, None], table(0, 0.5)[:, None]),
        (table(1), table(0)),
        (table(1, 0.5), table(0.1, 0.5)),
        (table(0.9, 0.5), table(0, 0.5)),
    ):
        with pytest.raises(ValueError, match=r"must both have shape \(T \+ 1,\) and start with 1 and 0"):
            NoiseSchedule(alpha_bars, betas)
    with pytest.raises(TypeError, match="betas must be a Tensor"):
        NoiseSchedule(table(1, 0.5), [0, 0.5])


def test_constants_and_curves_are_formed_in_float64():
    assert NoiseSchedule.constant(2, 0.1).betas.tolist() == [0.0, 0.1, 0.1]
    asked = []
    NoiseSchedule.from_log_snr(lambda u: asked.extend(u.tolist()) or -u, 4)
    assert asked == [0.0, 1 / 3, 2 / 3, 1.0]


def test_the_last_step_alone_can_underflow():
    almost = 1 - 2.0**-53  # 1 - β is 2^-53; the least number there is, 2^-1074, lies between the 20th and the 21st power
    assert float(NoiseSchedule.from_betas([almost] * 20).alpha_bars[-1]) == 2.0**-1060
    with pytest.raises(ValueError, match="underflows to 0 after T = 21 steps"):
        NoiseSchedule.from_betas([almost] * 21)


@pytest.mark.parametrize("which", [0, 1])
def test_tables_in_float32_are_refused(which):
    tables = [torch.tensor(x, dtype=torch.float64) for x in ([1.0, 0.9], [0.0, 0.1])]
    tables[which] = tables[which].float()
    with pytest.raises(TypeError, match="must be float64"):
        NoiseSchedule(*tables)


@pytest.mark.parametrize("betas", [[1e-17, 0.1], [0.1, 1e-17]])
def test_a_beta_that_rounding_loses_is_refused(betas):
    with pytest.raises(ValueError, match="is lost"):
        NoiseSchedule.from_betas(betas)
    assert NoiseSchedule.from_betas([1e-16, 0.1]).snr[1] < math.inf  # the next number below 1 is nearer than that
