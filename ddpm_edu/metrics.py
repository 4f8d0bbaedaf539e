"""How good are samples? Distances between sets of images or of their features, and a judge for digits.

No figure here means much alone: each is reported beside the same figure for real images that nothing was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._args import count, floating, number, real

# Distances --------------------------------------------------------------------------------------------------------


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features (n, d), (m, d) [Heusel 2017, Eq. 6].

    ‖m_x - m_y‖² + tr(S_x + S_y - 2 (S_x S_y)^½),   S with n - 1 in the denominator; computed in float64.
    Two finite samples of the same law do not have distance 0: compare with a distance between real sets of the same
    sizes. Raises ValueError for other shapes, or fewer than two rows.
    """
    x, y = _two_sets(x, y)
    S_x, S_y = torch.cov(x.T).reshape(x.shape[1], -1), torch.cov(y.T).reshape(y.shape[1], -1)
    # (S_x S_y)^½ has the trace of (S_x^½ S_y S_x^½)^½, which is symmetric: eigenvalues without complex parts.
    values, vectors = torch.linalg.eigh(S_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ S_y @ root).clamp(min=0).sqrt().sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + S_x.trace() + S_y.trace() - 2 * cross)


def frechet_bias(covariance: Tensor, n: int, m: int) -> float:
    """By how much `frechet_distance` of n against m draws of one Gaussian exceeds 0 on average, to first order.

    (1/n + 1/m) tr S + (1/(n-1) + 1/(m-1)) (½ Σ_ij λ_i λ_j / (λ_i + λ_j) + ¼ tr S),   λ the eigenvalues of S (d, d).
    What is left out is of order 1/n². Features with heavier tails than a Gaussian's have a larger bias.
    Raises ValueError if S is not symmetric and positive semi-definite, or n or m is below 2.
    """
    if real(covariance, "covariance").ndim != 2 or covariance.shape != covariance.T.shape or not covariance.numel():
        raise ValueError(f"covariance must have shape (d, d), got {tuple(covariance.shape)}")
    lam = torch.linalg.eigvalsh(covariance.double())
    if not torch.allclose(covariance, covariance.T) or float(lam[0]) < -1e-6 * float(lam[-1]):
        raise ValueError(f"covariance must be symmetric, without negative eigenvalues; the smallest is {float(lam[0]):.3g}")
    n, m, lam = count(n, "n", low=2), count(m, "m", low=2), lam[lam > 1e-12 * lam[-1]]  # an axis without spread adds nothing
    pairs = lam * lam.unsqueeze(1) / (lam + lam.unsqueeze(1))
    return float((1 / n + 1 / m) * lam.sum() + (1 / (n - 1) + 1 / (m - 1)) * (pairs.sum() / 2 + lam.sum() / 4))


def mmd2(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Squared maximum mean discrepancy of two sets (n, d), (m, d), unbiased [Gretton 2012, Eq. 3].

    E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = exp(-‖a - b‖² / (2 bandwidth²)); x, x' are never the same row.
    Two samples of one law give a value around 0, below half of the time or more: compare with `mmd2_null`. In float64.
    Raises ValueError for other shapes, fewer than two rows, or a bandwidth that is not > 0.
    """
    x, y = _two_sets(x, y)
    in_x = torch.zeros(len(x) + len(y), 1, dtype=torch.float64)
    in_x[: len(x)] = 1
    return float(_mmd2(_kernel(torch.cat([x, y]).cpu(), bandwidth), in_x, 1 - in_x))


def kid(x: Tensor, y: Tensor) -> float:
    """Kernel distance of two sets of features (n, d), (m, d): unbiased MMD², cubic kernel [Bińkowski 2018, Sec. 4].

    As `mmd2`, with k(a, b) = (aᵀb / d + 1)³. It compares moments up to the third, and nothing beyond them. The value
    depends on the scale of the features and on their origin: KIDs of different features are not comparable. In float64.
    Raises ValueError for other shapes, or fewer than two rows.
    """
    x, y = _two_sets(x, y)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (xx, yy))
    return float(within - 2 * xy.mean())


def mmd2_null(
    reference: Tensor,
    n: int,
    m: int,
    bandwidth: float,
    repeats: int = 200,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What `mmd2` says of real against real: its values for `repeats` random disjoint parts of n and m rows, sorted.

    Samples of the data's own law fall inside this band. `reference` (N, d) needs N >= n + m rows; the parts of two
    repeats overlap, so take N a few times larger for the ends of the band to be sharp. Shape (repeats,), float64.
    """
    if real(reference, "reference").ndim != 2 or len(reference) < count(n, "n", low=2) + count(m, "m", low=2):
        raise ValueError(f"reference must have shape (N, d) with N >= n + m = {n + m} rows, got {tuple(reference.shape)}")
    N, repeats = len(reference), count(repeats, "repeats")
    order = torch.stack([torch.randperm(N, generator=generator) for _ in range(repeats)], 1)
    in_x = torch.zeros(N, repeats, dtype=torch.float64).scatter_(0, order[:n], 1.0)
    in_y = torch.zeros(N, repeats, dtype=torch.float64).scatter_(0, order[n : n + m], 1.0)
    return _mmd2(_kernel(reference.double().cpu(), bandwidth), in_x, in_y).sort().values


def _two_sets(x: Tensor, y: Tensor, names: tuple[str, str] = ("x", "y")) -> tuple[Tensor, Tensor]:
    """x (n, d) and y (m, d) in float64, or an error that names what does not fit."""
    for name, features in zip(names, (x, y)):
        if real(features, name).ndim != 2 or len(features) < 2:
            raise ValueError(f"{name} must have shape (n, d) with n >= 2, got {tuple(features.shape)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{names[0]} has {x.shape[1]} features, {names[1]} has {y.shape[1]}; they must be equal")
    return x.double(), y.double()


def _kernel(rows: Tensor, bandwidth: float) -> Tensor:
    """k of every row with every row, 0 on the diagonal: a row is not compared with itself."""
    far2 = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    return torch.exp(far2 / (-2 * number(bandwidth, "bandwidth", 0, float("inf")) ** 2)).fill_diagonal_(0)


def _mmd2(kernel: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """One value per column of the 0/1 tables that say which rows are x and which are y."""
    n, m, by_x, by_y = in_x.sum(0), in_y.sum(0), kernel @ in_x, kernel @ in_y
    within = (in_x * by_x).sum(0) / (n * (n - 1)) + (in_y * by_y).sum(0) / (m * (m - 1))
    return within - 2 * (in_y * by_x).sum(0) / (n * m)


def nearest_distances(x: Tensor, reference: Tensor) -> Tensor:
    """For every row of x the Euclidean distance to the nearest row of `reference`, shape (len(x),).

    min_j ‖x_i - r_j‖; images are flattened. Raises ValueError when the rows differ in shape, or a set is empty.
    """
    if real(x, "x").shape[1:] != real(reference, "reference").shape[1:] or not len(x) or not len(reference):
        raise ValueError(
            "x and reference must be two non-empty sets of rows of one shape, "
            f"got {tuple(x.shape)} and {tuple(reference.shape)}"
        )
    flat = reference.flatten(1)
    # The exact differences: cdist's matrix product would lose the small distances, which are the ones that matter.
    far = [torch.cdist(part, flat, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for part in x.flatten(1).split(512)]
    return torch.cat(far)


class Neighbours(NamedTuple):
    """Shares between 0 and 1, but for `density`, which is about 1 for two sets of one law."""

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(reference: Tensor, samples: Tensor, k: int = 3) -> Neighbours:
    """Who lies among whom, by balls that reach to the k-th neighbour; features (n, d), (m, d) [Kynkäänniemi 2019, Eq. 2].

    precision  share of samples inside a ball around some reference row; its radius: to the k-th other reference row
    recall     the same with the roles exchanged: share of reference rows inside a ball around some sample
    density    how many reference balls hold a sample, on average over the samples, divided by k [Naeem 2020]
    coverage   share of reference balls that hold a sample [Naeem 2020]
    A row is not its own neighbour, but a second copy of it is one, at distance 0; balls include their surface. In float64.
    Raises ValueError for other shapes, or sets of k rows or fewer.
    """
    samples, reference = _two_sets(samples, reference, ("samples", "reference"))
    if count(k, "k") >= min(len(samples), len(reference)):
        raise ValueError(f"k = {k} needs more than k rows in each set, got {len(reference)} and {len(samples)}")
    far = lambda a, b: torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")  # noqa: E731
    r_reference, r_samples = (far(x, x).kthvalue(k + 1, dim=1).values for x in (reference, samples))
    in_reference, in_samples = far(reference, samples) <= r_reference.unsqueeze(1), far(reference, samples) <= r_samples
    return Neighbours(
        precision=_share(in_reference.any(0)),
        recall=_share(in_samples.any(1)),
        density=float(in_reference.double().sum(0).mean() / k),
        coverage=_share(in_reference.any(1)),
    )


def principal_components(reference: Tensor, k: int) -> Callable[[Tensor], Tensor]:
    """The map from images to their first k principal components, fitted on `reference`: (n, …) to (n, k)."""
    flat = real(reference, "reference").flatten(1).double()
    if not count(k, "k") <= min(flat.shape):
        raise ValueError(f"k = {k} must be at most {min(flat.shape)} for reference of shape {tuple(reference.shape)}")
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:k]

    def project(x: Tensor) -> Tensor:
        if real(x, "x").shape[1:] != reference.shape[1:]:
            raise ValueError(f"x has rows of shape {tuple(x.shape[1:])}; those of reference have {tuple(reference.shape[1:])}")
        return (x.flatten(1).double() - mean) @ axes.T

    return project


# Error bars -------------------------------------------------------------------------------------------------------

Distance = Callable[[Tensor, Tensor], float]


def null_values(
    distance: Distance, reference: Tensor, n: int, m: int, repeats: int = 200, generator: torch.Generator | None = None
) -> Tensor:
    """What `distance` says of real against real: its values for random disjoint parts of n and m rows, sorted.

    `reference` (N, ...) needs N >= n + m rows. With two sets put together and N = n + m it is the permutation test: if
    both are of one law, their own distance is no more special than any of these. Shape (repeats,), float64.
    """
    if len(real(reference, "reference")) < count(n, "n") + count(m, "m"):
        raise ValueError(f"reference must have N >= n + m = {n + m} rows, got {len(reference)}")
    orders = (torch.randperm(len(reference), generator=generator) for _ in range(count(repeats, "repeats")))
    values = [distance(reference[order[:n]], reference[order[n : n + m]]) for order in orders]
    return torch.tensor(values, dtype=torch.float64).sort().values


def bootstrap(distance: Distance, x: Tensor, y: Tensor, repeats: int = 200, generator: torch.Generator | None = None) -> Tensor:
    """Values of `distance` for sets redrawn from x and y, row by row with replacement [Efron 1979].

    Their standard deviation is the error bar of distance(x, y). Their mean is not a better estimate: a redrawn set holds
    copies of one row, which adds to the bias of a Fréchet distance, and makes a KID a biased one. Shape (repeats,), float64.
    """
    if not len(real(x, "x")) or not len(real(y, "y")):
        raise ValueError(f"x and y must be two non-empty sets, got {len(x)} and {len(y)} rows")
    draw = lambda rows: rows[torch.randint(len(rows), (len(rows),), generator=generator)]  # noqa: E731
    return torch.tensor([distance(draw(x), draw(y)) for _ in range(count(repeats, "repeats"))], dtype=torch.float64)


# A judge ----------------------------------------------------------------------------------------------------------


class Judge(nn.Module):
    """A small convolutional classifier: `features(x)` (n, 64), and class probabilities `probabilities(x)` (n, classes)."""

    def __init__(self, channels: int = 1, classes: int = 10):
        super().__init__()
        self.config = {"channels": count(channels, "channels"), "classes": count(classes, "classes", low=2)}
        conv = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())  # noqa: E731
        self.body = nn.Sequential(
            conv(channels, 32),
            conv(32, 32),
            nn.MaxPool2d(2),
            nn.Dropout(0.2),
            conv(32, 64),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(1024, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self._images(x)))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The 64 numbers before the last layer."""
        return self.eval().body(real(self._images(x), "x"))

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities, rows sum to 1."""
        return self.eval()(real(x, "x")).softmax(1)

    def _images(self, x: Tensor) -> Tensor:
        if floating(x, "x").ndim != 4 or x.shape[1] != self.config["channels"]:
            raise ValueError(f"x has shape {tuple(x.shape)}; this judge takes (n, {self.config['channels']}, H, W)")
        return x


def train_judge(x: Tensor, labels: Tensor, epochs: int = 40, seed: int = 0) -> Judge:
    """A judge trained on images x (n, C, H, W) in [-1, 1] and int64 labels (n,), the same one for the same seed."""
    if real(x, "x").ndim != 4 or not len(x):
        raise ValueError(f"x must have shape (n, C, H, W) with n >= 1, got {tuple(x.shape)}")
    _class_of_each(labels, "labels", x)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        judge = Judge(x.shape[1], int(labels.max()) + 1).train()
        steps = count(epochs, "epochs") * -(-len(x) // 64)
        optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
        for _ in range(epochs):
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(judge(x[batch]), labels[batch], label_smoothing=0.02).backward()
                optimizer.step()
                schedule.step()
    return judge.eval()


def quality(samples: Tensor, images: Tensor, labels: Tensor, split: dict[str, Tensor], sure: float = 0.9) -> dict[str, Any]:
    """Figures for samples beside the same figures for real images, as plain numbers for a card.

    Images are in [-1, 1], shape (n, C, H, W); `split` is that of `data.digits_split()`. The real images are cut into
    random halves four times. Each time a judge learns from one half, and two questions are asked of the samples and of
    the other half: on what share is the judge sure (its highest probability is at least `sure`), and how far is it to
    this half in Fréchet distance, from the samples and from the judge's half? In the judge's features the last figure
    would flatter the samples, since a judge spreads out what it learnt from: the distance is taken in 20 principal
    components. Last, the distances to the nearest training image, beside those of the images held out (H).
    Halves are not cut class by class: samples draw their classes at random too. Takes a minute for the digits.
    """
    number(sure, "sure", 0, 1)
    _class_of_each(labels, "labels", images)
    if not {"H", "train"} <= set(split):
        raise ValueError(f"split must name H and train, as `data.digits_split()` does; got {sorted(split)}")
    half = len(images) // 2
    if len(samples) < half:
        raise ValueError(f"samples has {len(samples)} images; a fair comparison with half of the real ones needs {half}")
    samples = samples[:half]
    classes = int(labels.max()) + 1
    pca = principal_components(images, min(20, images[0].numel()))
    generator = torch.Generator().manual_seed(0)
    rounds: list[dict[str, Any]] = []
    for _ in range(4):
        a, b = torch.randperm(len(images), generator=generator)[: 2 * half].split(half)
        judge = train_judge(images[a], labels[a])
        of_samples, of_real = judge.probabilities(samples), judge.probabilities(images[b])
        rounds.append(
            {
                "accuracy": _share(of_real.argmax(1) == labels[b]),
                "sure": (_share(of_samples.amax(1) >= sure), _share(of_real.amax(1) >= sure)),
                "frechet": tuple(frechet_distance(pca(x), pca(images[b])) for x in (samples, images[a])),
                "classes": torch.bincount(of_samples.argmax(1), minlength=classes) / half,
            }
        )
    near_samples, near_real = (nearest_distances(x, images[split["train"]]) for x in (samples, images[split["H"]]))
    levels = {"min": 0.0, "q01": 0.01, "q05": 0.05, "q50": 0.5}
    return {
        "samples": half,
        "judges": {
            "trained_on": f"{half} real images, in {len(rounds)} random halvings",
            "accuracy": [r["accuracy"] for r in rounds],
        },
        "sure": {"threshold": sure, **_beside([r["sure"] for r in rounds])},
        "class_shares": {
            "samples": torch.stack([r["classes"] for r in rounds]).mean(0).tolist(),
            "real": (torch.bincount(labels, minlength=classes) / len(labels)).tolist(),
        },
        "frechet_to_other_half": {"features": "20 principal components", **_beside([r["frechet"] for r in rounds])},
        "nearest_training_image": {
            "samples": {name: float(near_samples.quantile(q)) for name, q in levels.items()},
            "real": {name: float(near_real.quantile(q)) for name, q in levels.items()},
            "samples_nearer_than_any_real": _share(near_samples < near_real.min()),
            "samples_nearer_than_q01_real": _share(near_samples < near_real.quantile(0.01)),
        },
    }


def class_quality(
    judge: Judge, samples: Tensor, y: Tensor, guided: Tensor, guided_y: Tensor, real_images: Tensor, labels: Tensor
) -> dict[str, Any]:
    """Figures for class-conditional samples beside those of real images, as plain numbers for a card.

    `samples` were drawn for the classes `y` without guidance, `guided` for `guided_y` with it; the real images are ones
    that neither the judge nor the network was trained on. "recognised" is the share in which the judge sees the class
    that was asked for, on real images its accuracy. "frechet" is measured in the judge's features against random halves
    of the real images, from the samples and from the other half; so it needs as many samples as a half has images.
    """
    half = len(real(real_images, "real_images")) // 2
    if len(samples) < half:
        raise ValueError(f"samples has {len(samples)} images; a fair comparison with half of the real ones needs {half}")
    for name, classes, x in (("y", y, samples), ("guided_y", guided_y, guided), ("labels", labels, real_images)):
        _class_of_each(classes, name, x)
    seen = lambda x: torch.cat([judge.probabilities(part) for part in x.split(500)]).argmax(1)  # noqa: E731
    sees = seen(samples)
    return {
        "samples": len(samples),
        "guided_samples": len(guided),
        "recognised": {
            "unguided": _share(sees == y),
            "guided": _share(seen(guided) == guided_y),
            "real": _share(seen(real_images) == labels),
            "unguided_by_class": [_share(sees[y == k] == k) for k in range(int(y.max()) + 1)],
        },
        "frechet": frechet_beside(judge, samples[:half], real_images),
    }


def frechet_beside(judge: Judge, samples: Tensor, real_images: Tensor, halvings: int = 100) -> dict[str, Any]:
    """Fréchet distances in the judge's features to random halves of the real images, as plain numbers for a card.

    From `samples`, as many as a half has, and from the other half: "samples", "real" and their "ratio", means of `halvings`
    ways to halve them. A single way is not enough: of 10,000 MNIST digits, "real" varies by a third from one to the next.
    With images of the training set as `samples` it says what a model that copies its data would get.
    """
    half = len(real(real_images, "real_images")) // 2
    if len(real(samples, "samples")) != half:
        raise ValueError(f"samples has {len(samples)} images; a fair comparison with half of the real ones needs {half}")
    of_samples, of_real = _features(judge, samples), _features(judge, real_images)
    generator, pairs = torch.Generator().manual_seed(0), []
    for _ in range(count(halvings, "halvings")):
        a, b = torch.randperm(len(real_images), generator=generator)[: 2 * half].split(half)
        pairs.append((frechet_distance(of_samples, of_real[b]), frechet_distance(of_real[a], of_real[b])))
    of_samples_to_b, of_a_to_b = (sum(pair[k] for pair in pairs) / halvings for k in (0, 1))
    return {
        "features": "the judge's",
        "images": half,
        "halvings": halvings,
        "samples": of_samples_to_b,
        "real": of_a_to_b,
        "ratio": of_samples_to_b / of_a_to_b,
    }


def class_figures(
    judge: Judge, samples: Tensor, y: Tensor, reference: Tensor, labels: Tensor, features: Tensor | None = None
) -> dict[str, Any]:
    """How well samples (n, C, H, W) keep to the classes `y` (n,) they were drawn for, and how they vary, as plain numbers.

    recognised         share in which the judge sees the class asked for; its standard error is √(p (1-p) / n)
    frechet            to the reference images of the classes `labels`, in the judge's features
    precision, recall  `precision_recall` in these features, against n reference images of the same classes
    spread             variance of the pixels around the mean of their class, summed, over the reference's
    by_class           recognised and spread, class by class
    `features` are the judge's of the reference, if they are known already.
    Raises ValueError where a class of `y` has fewer than two samples, or fewer reference images than samples.
    """
    _class_of_each(y, "y", real(samples, "samples"))
    _class_of_each(labels, "labels", real(reference, "reference"))
    counts = torch.bincount(y, minlength=int(labels.max()) + 1)
    known = counts.nonzero()[:, 0].tolist()
    for k in known:
        if not 2 <= int(counts[k]) <= int((labels == k).sum()):
            raise ValueError(f"class {k} has {int(counts[k])} samples and {int((labels == k).sum())} reference images")
    sees = torch.cat([judge.probabilities(part) for part in samples.split(500)]).argmax(1) == y
    of_samples, of_real = _features(judge, samples), _features(judge, reference) if features is None else features
    same = torch.cat([(labels == k).nonzero()[: int(counts[k]), 0] for k in known])
    near = precision_recall(of_real[same], of_samples)
    variance = lambda x: float(x.flatten(1).double().var(0).sum())  # noqa: E731
    spreads = [(variance(samples[y == k]), variance(reference[labels == k])) for k in known]
    share = _share(sees)
    return {
        "recognised": share,
        "standard_error": (share * (1 - share) / len(y)) ** 0.5,
        "frechet": frechet_distance(of_samples, of_real),
        "precision": near.precision,
        "recall": near.recall,
        "spread": sum(a for a, _ in spreads) / sum(b for _, b in spreads),
        "by_class": {
            "recognised": [_share(sees[y == k]) for k in known],
            "spread": [a / b for a, b in spreads],
        },
    }


def guidance_curve(
    judge: Judge,
    draw: Callable[[Tensor, float], Tensor],
    y: Tensor,
    scales: Sequence[float],
    images: Tensor,
    labels: Tensor,
    rounds: int = 8,
) -> dict[str, Any]:
    """`class_figures` of draw(y, scale) for every guidance scale, and of real images, as plain numbers for a card.

    `images` are real ones that neither judge nor network was trained on. One random half of them is the reference for all
    rows; `rounds` times as many images as y has, of the same classes, are drawn from the other half for the row "real"
    (a mean) and its "real_range". Give `draw` the same noise for every scale, and neighbours in the curve compare better.
    """
    generator = torch.Generator().manual_seed(0)
    order, pool = torch.randperm(len(real(images, "images")), generator=generator).tensor_split(2)
    reference, of_reference = images[order], _features(judge, images[order])
    figures = lambda x, classes: class_figures(judge, x, classes, reference, labels[order], of_reference)  # noqa: E731
    repeats = []
    for _ in range(count(rounds, "rounds")):
        pool = pool[torch.randperm(len(pool), generator=generator)]
        rows = torch.cat([pool[labels[pool] == k][: int((y == k).sum())] for k in y.unique()])
        if len(rows) < len(y):
            raise ValueError(f"half of the {len(labels)} real images hold only {len(rows)} of the {len(y)} that y asks for")
        repeats.append(figures(images[rows], labels[rows]))
    names = [name for name in repeats[0] if name != "by_class"]
    return {
        "images": len(y),
        "curve": [{"scale": float(scale), **figures(draw(y, scale), y)} for scale in scales],
        "real": {name: sum(row[name] for row in repeats) / len(repeats) for name in names},
        "real_range": {name: [min(row[name] for row in repeats), max(row[name] for row in repeats)] for name in names},
    }


def _class_of_each(labels: Tensor, name: str, x: Tensor) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != x.shape[:1] or (labels < 0).any():
        got = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name} must hold a class >= 0 for each of the {len(x)} images, int64 ({len(x)},); got {got}")


def _features(judge: Judge, x: Tensor) -> Tensor:
    return torch.cat([judge.features(part) for part in x.split(500)])


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _beside(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Means over the rounds for samples and real images, their ratio, and the ratio of each round."""
    of_samples, of_real = (sum(pair[k] for pair in pairs) / len(pairs) for k in (0, 1))
    return {"samples": of_samples, "real": of_real, "ratio": of_samples / of_real, "ratios": [x / y for x, y in pairs]}
