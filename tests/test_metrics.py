"""Distances between sets, each against another route, and the judge."""

import numpy as np
import pytest
import scipy.linalg
import torch

from ddpm_edu import data
from ddpm_edu.metrics import frechet_distance, nearest_distances, principal_components, quality, train_judge

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


def test_nearest_distances_by_brute_force():
    x, reference = torch.rand(30, 1, 4, 4, generator=GEN), torch.rand(40, 1, 4, 4, generator=GEN)
    reference[7] = x[3] + 1e-4  # a near copy: its distance must not drown in rounding
    want = torch.tensor([min(float((a - b).double().pow(2).sum().sqrt()) for b in reference) for a in x])
    assert torch.allclose(nearest_distances(x, reference), want, rtol=1e-4)
    assert nearest_distances(x, reference)[3] == pytest.approx(4e-4, rel=1e-2)
    with pytest.raises(ValueError, match="one shape"):
        nearest_distances(x, reference[:, :, :3])


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

    good = quality(x[split["B"]][:n], x, labels, split)  # real images that the judge has not seen
    assert good["sure"]["ratio"] > 0.9 and good["frechet_pca20"]["ratio"] < 1.1 and good["frechet_judge"]["ratio"] < 0.1
    assert sum(good["class_shares"]["samples"]) == pytest.approx(1)

    copies = quality(x[split["train"]][:n], x, labels, split)["nearest_training_image"]
    assert copies["samples"]["q50"] == 0 and copies["samples_nearer_than_any_real"] == 1

    noise = 2 * torch.rand(n, 1, 8, 8, generator=GEN) - 1
    bad = quality(noise, x, labels, split)
    assert bad["sure"]["ratio"] < 0.8 and bad["frechet_pca20"]["ratio"] > 20
    assert bad["nearest_training_image"]["samples"]["min"] > good["nearest_training_image"]["real"]["q50"]

    with pytest.raises(ValueError, match=f"needs {n}"):
        quality(noise[:10], x, labels, split)
