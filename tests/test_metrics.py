"""Distances between sets, each against another route, and the judge."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from ddpm_edu import data
from ddpm_edu.metrics import (
    bootstrap,
    class_figures,
    class_quality,
    frechet_beside,
    frechet_bias,
    frechet_distance,
    guidance_curve,
    kid,
    mmd2,
    mmd2_null,
    nearest_distances,
    null_values,
    precision_recall,
    principal_components,
    quality,
    train_judge,
)

GEN = torch.Generator().manual_seed(0)
X, Y = torch.randn(200, 5, generator=GEN) @ torch.randn(5, 5, generator=GEN), torch.randn(150, 5, generator=GEN) + 0.3


def test_frechet_against_the_matrix_square_root_of_scipy():
    x, y = X.double().numpy(), Y.double().numpy()
    S_x, S_y = np.cov(x.T), np.cov(y.T)
    cross = scipy.linalg.sqrtm(S_x @ S_y)
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(S_x + S_y - 2 * cross.real)
    assert frechet_distance(X, Y) == pytest.approx(want, rel=1e-9)


def test_frechet_in_one_dimension_is_means_and_standard_deviations():
    x, y = X[:, :1], Y[:, :1]
    want = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert frechet_distance(x, y) == pytest.approx(want.item(), rel=1e-5)


def test_frechet_properties():
    assert frechet_distance(X, X) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(X, Y) == pytest.approx(frechet_distance(Y, X), rel=1e-9)
    shift = torch.tensor([1.0, 2.0, 0.0, 0.0, -2.0])
    assert frechet_distance(X, X + shift) == pytest.approx(9.0, rel=1e-5)
    few = X[:3]  # fewer rows than features: a singular covariance
    assert frechet_distance(few, few + shift) == pytest.approx(9.0, rel=1e-5)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=GEN)).Q
    assert frechet_distance(X @ rotation, Y @ rotation) == pytest.approx(frechet_distance(X, Y), rel=1e-4)


def test_frechet_refuses():
    for x, y in ((X, Y[:, :4]), (X[:1], Y), (X[0], Y)):
        with pytest.raises(ValueError, match=r"features|shape"):
            frechet_distance(x, y)
    with pytest.raises(ValueError, match="NaN"):
        frechet_distance(X, Y * torch.nan)


def test_frechet_bias_in_one_dimension_is_the_bias_of_a_standard_deviation():
    # E (s_x - s_y)² = σ² (2 - 2 c(n) c(m)) with c(n) = √(2/(n-1)) Γ(n/2) / Γ((n-1)/2), exactly.
    def c(n):
        return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))

    for n, m in ((100, 100), (400, 100), (1000, 3000)):
        want = 2.5 * (1 / n + 1 / m + 2 - 2 * c(n) * c(m))
        # What the formula leaves out is σ²/4n²; n in place of n - 1 would be off by three times that.
        assert frechet_bias(torch.tensor([[2.5]]), n, m) == pytest.approx(want, abs=0.3 * 2.5 / min(n, m) ** 2)


def test_frechet_bias_by_drawing():
    gen = torch.Generator().manual_seed(4)
    root = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.8, 0, 0], [0, 0.3, 0.5, 0], [0, 0, 0, 0]], dtype=torch.float64)  # rank 3
    sets = [torch.randn(2, 400, 4, generator=gen, dtype=torch.float64) @ root.T for _ in range(600)]
    drawn = torch.tensor([frechet_distance(x, y) for x, y in sets])
    assert abs(drawn.mean() - frechet_bias(root @ root.T, 400, 400)) < 4 * drawn.std() / math.sqrt(600)
    assert drawn.std() / math.sqrt(600) < 0.03 * drawn.mean()
    white = frechet_bias(torch.eye(6), 1000, 10**9)
    assert white == pytest.approx((6**2 + 5 * 6) / 4 / 1000, rel=2e-3)  # d (d + 5) / 4n


def test_frechet_bias_refuses():
    with pytest.raises(ValueError, match="shape"):
        frechet_bias(torch.ones(3), 10, 10)
    for bad in (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])):
        with pytest.raises(ValueError, match="symmetric"):
            frechet_bias(bad, 10, 10)
    with pytest.raises(ValueError, match="m = 1"):
        frechet_bias(torch.eye(2), 10, 1)


def test_kid_by_the_double_sum():
    x, y = X[:12, :3].double(), Y[:15, :3].double()
    k = lambda a, b: (float(a @ b) / 3 + 1) ** 3  # noqa: E731
    xx = sum(k(x[i], x[j]) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    yy = sum(k(y[i], y[j]) for i in range(15) for j in range(15) if i != j) / (15 * 14)
    assert kid(x, y) == pytest.approx(xx + yy - 2 * sum(k(a, b) for a in x for b in y) / 180, rel=1e-12)


def test_kid_is_unbiased_on_a_law_that_can_be_enumerated():
    # x uniform on two points, y on two others: all 2³ · 2² outcomes of three and two draws.
    p, q = torch.tensor([[0.0, 1.0], [2.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.5, 0.0]])
    outcomes = itertools.product(itertools.product(p, repeat=3), itertools.product(q, repeat=2))
    mean = np.mean([kid(torch.stack(x), torch.stack(y)) for x, y in outcomes])
    k = lambda a, b: float(((a @ b.T / 2 + 1) ** 3).mean())  # noqa: E731
    assert mean == pytest.approx(k(p, p) + k(q, q) - 2 * k(p, q), rel=1e-12)


def test_kid_sees_three_moments_and_no_more():
    # Gauss-Hermite points share five moments with the normal; two points ±1 share three; a skewed pair only two.
    normal = torch.randn(200_000, 1, generator=GEN)
    k = lambda a, b: float(((a @ b.T + 1) ** 3).mean())  # noqa: E731
    pair, skewed = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-0.5], [-0.5], [-0.5], [-0.5], [2.0]])
    biased = [k(z, z) + 1 + 3 * 1 - 2 * (1 + 3 * float(z.square().mean())) for z in (pair, skewed)]
    assert biased[0] == pytest.approx(0, abs=1e-6)  # E k(n, n') = 1 + 3 (n, n' normal), E k(n, z) = 1 + 3 z²
    assert biased[1] == pytest.approx(float((skewed**3).mean()) ** 2, rel=1e-5)
    assert abs(kid(normal[:3000], pair.repeat(1500, 1))) < 0.05


def mean_kernel(m, v, n, w, h):
    """E k(x, y) for x ~ N(m, v I), y ~ N(n, w I): the Gaussian integral, done by hand."""
    spread = h**2 + v + w
    return (h**2 / spread) ** (len(m) / 2) * np.exp(-((m - n) ** 2).sum() / (2 * spread))


def test_mmd2_by_the_double_sum():
    x, y, h = X[:20, :3].double(), Y[:30, :3].double(), 0.8

    def k(a, b):
        return float(torch.exp(-(a - b).square().sum() / (2 * h**2)))

    xx = sum(k(x[i], x[j]) for i in range(20) for j in range(20) if i != j) / (20 * 19)
    yy = sum(k(y[i], y[j]) for i in range(30) for j in range(30) if i != j) / (30 * 29)
    xy = sum(k(a, b) for a in x for b in y) / 600
    assert mmd2(x, y, h) == pytest.approx(xx + yy - 2 * xy, abs=1e-12)
    assert mmd2(y, x, h) == pytest.approx(mmd2(x, y, h), abs=1e-12)


def test_mmd2_is_unbiased_for_the_closed_form_of_two_gaussians():
    m, n, h, gen = np.array([0.0, 0.0]), np.array([0.5, -0.3]), 0.7, torch.Generator().manual_seed(1)
    want = mean_kernel(m, 1.0, m, 1.0, h) + mean_kernel(n, 0.25, n, 0.25, h) - 2 * mean_kernel(m, 1.0, n, 0.25, h)
    got = torch.tensor(
        [
            mmd2(torch.randn(40, 2, generator=gen), 0.5 * torch.randn(50, 2, generator=gen) + torch.tensor(n).float(), h)
            for _ in range(400)
        ]
    )
    assert abs(got.mean() - want) < 4 * got.std() / 20 and got.std() / 20 < 0.02 * want


def test_mmd2_null_covers_the_same_law_and_not_another():
    gen = torch.Generator().manual_seed(2)
    null = mmd2_null(torch.randn(1000, 2, generator=gen), 100, 150, 0.7, repeats=300, generator=gen)
    assert null.shape == (300,) and (null.diff() >= 0).all() and null[0] < 0 < null[-1]
    fresh = torch.tensor(
        [mmd2(torch.randn(100, 2, generator=gen), torch.randn(150, 2, generator=gen), 0.7) for _ in range(300)]
    )
    assert abs(float((fresh < null.quantile(0.9)).double().mean()) - 0.9) < 0.08
    other = mmd2(torch.randn(100, 2, generator=gen), 0.7 * torch.randn(150, 2, generator=gen), 0.7)
    assert other > null[-1]
    # All rows used: then a repeat is mmd2 of the two parts that its permutation names.
    order = torch.randperm(200, generator=torch.Generator().manual_seed(5))
    one = mmd2_null(X, 80, 120, 2.0, repeats=1, generator=torch.Generator().manual_seed(5))
    assert one.item() == pytest.approx(mmd2(X[order[:80]], X[order[80:]], 2.0), abs=1e-12)


def test_mmd2_refuses():
    for x, y in ((X, Y[:, :4]), (X[:1], Y), (X[0], Y)):
        with pytest.raises(ValueError, match=r"features|shape"):
            mmd2(x, y, 1.0)
    with pytest.raises(ValueError, match="bandwidth = 0"):
        mmd2(X, Y, 0)
    with pytest.raises(ValueError, match="n \\+ m = 201"):
        mmd2_null(X, 100, 101, 1.0)
    with pytest.raises(ValueError, match="m = 1"):
        mmd2_null(X, 100, 1, 1.0)


def test_nearest_distances_by_brute_force():
    x, reference = torch.rand(30, 1, 4, 4, generator=GEN), torch.rand(40, 1, 4, 4, generator=GEN)
    reference[7] = x[3] + 1e-4  # a near copy: its distance must not drown in rounding
    want = torch.tensor([min(float((a - b).double().pow(2).sum().sqrt()) for b in reference) for a in x])
    assert torch.allclose(nearest_distances(x, reference), want, rtol=1e-4)
    assert nearest_distances(x, reference)[3] == pytest.approx(4e-4, rel=1e-2)
    with pytest.raises(ValueError, match="one shape"):
        nearest_distances(x, reference[:, :, :3])


def test_precision_recall_by_loops():
    x, y = X[:40, :2].double(), Y[:25, :2].double() * 2

    def balls(points, k):
        return [sorted(float((a - b).norm()) for j, b in enumerate(points) if j != i)[k - 1] for i, a in enumerate(points)]

    for k in (1, 3):
        r_x, r_y = balls(x, k), balls(y, k)
        hits = [[float((a - b).norm()) <= r for b in y] for a, r in zip(x, r_x)]
        back = [[float((a - b).norm()) <= r for b, r in zip(y, r_y)] for a in x]
        got = precision_recall(x, y, k)
        assert got.precision == pytest.approx(np.mean([any(row[j] for row in hits) for j in range(25)]))
        assert got.recall == pytest.approx(np.mean([any(row) for row in back]))
        assert got.density == pytest.approx(np.sum(hits) / (25 * k))
        assert got.coverage == pytest.approx(np.mean([any(row) for row in hits]))
        assert 0 < got.precision < 1 and 0 < got.recall < 1 and 0 < got.coverage < 1
        turned = precision_recall(y, x, k)
        assert (turned.precision, turned.recall) == (got.recall, got.precision)


def test_precision_recall_of_copies_and_of_one_law():
    assert precision_recall(X, X, 1) == pytest.approx((1, 1, precision_recall(X, X, 1).density, 1))
    twice = torch.cat([X[:50], X[:50]])  # every row has a neighbour at distance 0, and that is where its ball ends
    assert precision_recall(twice, X[:50], 1).coverage == 1 and precision_recall(twice, X[50:], 1).precision == 0
    gen = torch.Generator().manual_seed(6)
    scores = [precision_recall(*torch.randn(2, 60, 3, generator=gen), k=2) for _ in range(300)]
    density, coverage = (torch.tensor([getattr(s, name) for s in scores]).double() for name in ("density", "coverage"))
    assert abs(density.mean() - 1) < 4 * density.std() / math.sqrt(300)
    want = 1 - (59 / 119) * (58 / 118)  # the two nearest of the other 119 points are both reference rows
    assert abs(coverage.mean() - want) < 4 * coverage.std() / math.sqrt(300)


def test_precision_recall_refuses():
    with pytest.raises(ValueError, match="features"):
        precision_recall(X, Y[:, :4])
    with pytest.raises(ValueError, match="k = 3"):
        precision_recall(X, Y[:3])
    with pytest.raises(ValueError, match="k = 0"):
        precision_recall(X, Y, 0)


def test_null_values_are_distances_of_disjoint_parts():
    def overlap(x, y):
        assert x.shape == (30, 5) and y.shape == (20, 5)
        return float((torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") == 0).sum())

    assert null_values(overlap, X, 30, 20, repeats=20).sum() == 0
    gen = lambda: torch.Generator().manual_seed(8)  # noqa: E731
    one = null_values(lambda x, y: mmd2(x, y, 2.0), X, 80, 120, 30, gen())
    assert torch.allclose(one, mmd2_null(X, 80, 120, 2.0, 30, gen()), atol=1e-12) and (one.diff() >= 0).all()
    with pytest.raises(ValueError, match=r"n \+ m = 201"):
        null_values(frechet_distance, X, 100, 101)


def test_bootstrap_of_a_mean_has_its_standard_error():
    difference = lambda x, y: float(x.mean() - y.mean())  # noqa: E731
    got = bootstrap(difference, X[:, 0], Y[:, 0], 4000, torch.Generator().manual_seed(9))
    want = math.sqrt(float(X[:, 0].var(correction=0)) / len(X) + float(Y[:, 0].var(correction=0)) / len(Y))
    assert got.shape == (4000,) and float(got.std()) == pytest.approx(want, rel=0.05)
    assert float(got.mean()) == pytest.approx(difference(X[:, 0], Y[:, 0]), abs=5 * want / math.sqrt(4000))
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap(difference, X, Y[:0])


def test_principal_components_by_the_covariance():
    k = 3
    got = principal_components(X, k)(Y)
    _, vectors = np.linalg.eigh(np.cov(X.double().numpy().T))
    want = (Y.double().numpy() - X.double().numpy().mean(0)) @ vectors[:, ::-1][:, :k]
    assert np.allclose(np.abs(got.numpy()), np.abs(want), atol=1e-9)
    with pytest.raises(ValueError, match="k = 6"):
        principal_components(X, 6)


@pytest.fixture(scope="module")
def real():
    digits = data.digits()
    return digits[:], digits.labels, data.digits_split()


def test_judge_knows_the_digits(real):
    x, labels, split = real
    part = split["A"][::3]
    judge = train_judge(x[part], labels[part], epochs=8)
    p = judge.probabilities(x[split["H"]])
    assert torch.allclose(p.sum(1), torch.ones(len(p)), atol=1e-5)
    assert (p.argmax(1) == labels[split["H"]]).double().mean() > 0.85
    assert judge.features(x[:3]).shape == (3, 64)
    again = train_judge(x[part], labels[part], epochs=8)
    assert torch.equal(again.probabilities(x[:5]), judge.probabilities(x[:5]))


def test_quality_tells_good_from_bad_and_copies_from_originals(real, monkeypatch):
    x, labels, split = real
    monkeypatch.setattr("ddpm_edu.metrics.train_judge", lambda a, b: train_judge(a, b, epochs=5))
    n = len(split["A"])

    good = quality(x[split["B"]][:n], x, labels, split)  # real images
    assert 0.97 < good["sure"]["ratio"] < 1.1 and good["frechet_to_other_half"]["ratio"] < 1.1
    assert good["sure"]["ratio"] == pytest.approx(good["sure"]["samples"] / good["sure"]["real"])
    assert sum(good["class_shares"]["samples"]) == pytest.approx(1)

    copies = quality(x[split["train"]][:n], x, labels, split)["nearest_training_image"]
    assert copies["samples"]["q50"] == 0 and copies["samples_nearer_than_any_real"] == 1

    noise = 2 * torch.rand(n, 1, 8, 8, generator=GEN) - 1
    bad = quality(noise, x, labels, split)
    assert bad["sure"]["ratio"] < 0.8 and bad["frechet_to_other_half"]["ratio"] > 20
    assert bad["nearest_training_image"]["samples"]["min"] > good["nearest_training_image"]["real"]["q50"]

    with pytest.raises(ValueError, match=f"needs {n}"):
        quality(noise[:10], x, labels, split)


# Samples of known classes -------------------------------------------------------------------------------------------


def test_class_quality_sees_a_wrong_class_and_a_collapse():
    generator = torch.Generator().manual_seed(0)

    def bars(n):  # images whose class is the bright column
        y = torch.arange(n) % 4
        x = 0.3 * torch.randn(n, 1, 8, 8, generator=generator)
        x[torch.arange(n), 0, :, 2 * y] += 1.0
        return x, y

    judge = train_judge(*bars(400), epochs=4)
    (real_x, labels), (x, y) = bars(200), bars(100)
    good = class_quality(judge, x, y, x[:8], y[:8], real_x, labels)
    assert good["recognised"]["unguided"] > 0.95 and good["recognised"]["real"] > 0.95 and good["guided_samples"] == 8
    assert 0.1 < good["frechet"]["ratio"] < 2  # below 1: the samples' classes are in exact balance
    assert good["frechet"] == frechet_beside(judge, x, real_x)
    off = class_quality(judge, x, torch.where(y == 0, 1, y), x[:8], (y[:8] + 1) % 4, real_x, labels)
    assert off["recognised"]["unguided"] == pytest.approx(good["recognised"]["unguided"] - 0.25, abs=0.03)
    assert off["recognised"]["guided"] < 0.1 and off["recognised"]["unguided_by_class"][1] == pytest.approx(0.5, abs=0.03)
    collapsed = class_quality(judge, x[y.argsort()][:1].expand(100, -1, -1, -1), y, x[:8], y[:8], real_x, labels)
    assert collapsed["frechet"]["ratio"] > 5 * good["frechet"]["ratio"]
    with pytest.raises(ValueError, match=r"samples has 99 images.*needs 100"):
        class_quality(judge, x[:99], y[:99], x[:8], y[:8], real_x, labels)


class Eyes:
    """A judge that reads the class off the brightest column pair, and whose features are the pixels."""

    def probabilities(self, x):
        return torch.nn.functional.one_hot(x.mean((1, 2))[:, ::2].argmax(1), 4).double()

    def features(self, x):
        return x.flatten(1)


def columns(n, generator, noise=0.1):
    y = torch.arange(n) % 4
    x = noise * torch.randn(n, 1, 4, 8, generator=generator, dtype=torch.float64)
    x[torch.arange(n), 0, :, 2 * y] += 1.0
    return x, y


def test_frechet_beside_is_the_mean_over_the_ways_to_halve_the_real_images():
    generator = torch.Generator().manual_seed(0)
    real_x, _ = columns(6, generator, noise=0.5)
    x, _ = columns(3, generator, noise=0.5)
    flat, pairs = real_x.flatten(1), []
    for a in itertools.combinations(range(6), 3):
        b = [k for k in range(6) if k not in a]
        pairs.append([frechet_distance(x.flatten(1), flat[b]), frechet_distance(flat[list(a)], flat[b])])
    every = torch.tensor(pairs, dtype=torch.float64)
    found = frechet_beside(Eyes(), x, real_x, halvings=2000)
    for k, name in enumerate(("samples", "real")):
        assert found[name] == pytest.approx(float(every[:, k].mean()), abs=4 * float(every[:, k].std()) / 2000**0.5)
    assert found["ratio"] == found["samples"] / found["real"] and found["halvings"] == 2000 and found["images"] == 3
    assert frechet_beside(Eyes(), x, real_x)["halvings"] == 100
    with pytest.raises(ValueError, match="halvings"):
        frechet_beside(Eyes(), x, real_x, halvings=0)


def test_class_figures_count_and_measure_what_is_said():
    generator = torch.Generator().manual_seed(0)
    (reference, labels), (x, y) = columns(4000, generator), columns(200, generator, noise=0.05)
    row = class_figures(Eyes(), x, y, reference, labels)
    assert row["recognised"] == 1 and row["standard_error"] == 0 and row["by_class"]["recognised"] == [1.0] * 4
    assert row["spread"] == pytest.approx(0.25, rel=0.05)  # (0.05 / 0.1)²
    assert row["by_class"]["spread"] == pytest.approx([0.25] * 4, rel=0.1)
    assert row["precision"] == 1 and row["recall"] < 0.05  # all inside, and too close to the middle to reach the rest
    wrong = class_figures(Eyes(), x, torch.where(torch.arange(200) < 20, (y + 1) % 4, y), reference, labels)
    assert wrong["recognised"] == pytest.approx(0.9) and wrong["standard_error"] == pytest.approx((0.09 / 200) ** 0.5)
    alike = class_figures(Eyes(), *columns(200, generator), reference, labels)
    assert alike["recall"] > 0.3 and alike["frechet"] < wrong["frechet"] / 3


def test_class_figures_refuse():
    generator = torch.Generator().manual_seed(0)
    (reference, labels), (x, y) = columns(40, generator), columns(20, generator)
    with pytest.raises(ValueError, match=r"each of the 19 images, int64 \(19,\); got torch.int64 of shape \(20,\)"):
        class_figures(Eyes(), x[1:], y, reference, labels)
    with pytest.raises(ValueError, match="class 3 has 1 samples"):
        class_figures(Eyes(), x[:7], y[:7], reference, labels)
    with pytest.raises(ValueError, match="class 0 has 20 samples and 10 reference images"):
        class_figures(Eyes(), x, torch.zeros_like(y), reference, labels)


def test_guidance_curve_has_a_row_for_each_scale_and_one_for_real_images():
    generator = torch.Generator().manual_seed(0)
    images, labels = columns(800, generator)

    def draw(y, scale):  # guidance narrows
        return columns(len(y), torch.Generator().manual_seed(1), noise=0.1 / (1 + scale))[0]

    report = guidance_curve(Eyes(), draw, torch.arange(40) % 4, [0, 1], images, labels, rounds=3)
    assert report["images"] == 40 and [row["scale"] for row in report["curve"]] == [0.0, 1.0]
    assert report["curve"][1]["spread"] == pytest.approx(report["curve"][0]["spread"] / 4)
    assert report["real"]["recognised"] == 1 and report["real"]["spread"] == pytest.approx(1, rel=0.1)
    low, high = report["real_range"]["frechet"]
    assert low < report["real"]["frechet"] < high and json.loads(json.dumps(report)) == report
    with pytest.raises(ValueError, match="hold only"):
        guidance_curve(Eyes(), draw, torch.arange(800) % 4, [0], images, labels)
