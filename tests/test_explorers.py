"""The interactive figures: both faces show the package's numbers, got here by other routes."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from bs4 import BeautifulSoup
from scipy.integrate import quad
from scipy.stats import norm

from ddpm_edu.explorers import (
    MAX_BYTES,
    Band,
    Bars,
    Choice,
    Explorer,
    Frame,
    Line,
    Panel,
    Points,
    Slider,
    Text,
    coordinates_explorer,
    decoder_explorer,
    diffusion_elbo_explorer,
    elbo_explorer,
    forward_process_explorer,
    kl_explorer,
    posterior_explorer,
    product_explorer,
    reverse_process_explorer,
    reverse_variance_explorer,
    sig,
)

BUILDERS = {
    "forward-process": forward_process_explorer,
    "posterior": posterior_explorer,
    "diffusion-elbo": diffusion_elbo_explorer,
    "coordinates": coordinates_explorer,
    "reverse-variance": reverse_variance_explorer,
    "elbo-gap": elbo_explorer,
    "kl": kl_explorer,
    "product": product_explorer,
    "reverse-process": reverse_process_explorer,
    "decoder": decoder_explorer,
}
SUPERSCRIPTS = re.compile(r" × 10\^?(-?\d+)")


@pytest.fixture(scope="module")
def explorers():
    return {name: build() for name, build in BUILDERS.items()}


def small(draw=None, sliders=None, **kwargs):
    """An explorer of 3 x 2 positions that uses every kind of mark."""

    def every_mark(a, b):
        x = np.linspace(0, 1, 5)
        marks = [
            Line(x, a * x / 4, "blue", "line", dash=True, fill=True),
            Line([0, 0], [0, 1], "grey", shift=a / 4),
            Band(x, 0.1, 0.2 + a * x / 8, "green", "band"),
            Bars([0.25, 0.75], [a / 4, 0.5], "purple", "bars", width=0.2),
            Points([0.5], [a / 4], "ink", "dot"),
            Text(0.5, 0.9, "x_{t-1} < " + b),
        ]
        return Frame([Panel("All of x_t", "A test.", (0, 1), (0, 1), marks, "x_t", "y")], [("x_t", sig(a)), ("b", b)])

    sliders = [Slider("x_t", [0, 1, 2], start=1), Choice("kind", ["p", "q"])] if sliders is None else sliders
    texts = {"title": "Every mark", "caption": "A & B < C.", **kwargs}
    return Explorer(texts.pop("name", "small"), sliders, draw or every_mark, **texts)


# What the script does, in Python ---------------------------------------------------------------------------------


def at_position(html: str, position) -> BeautifulSoup:
    """The static page after its controls were moved to `position`, as the script does it."""
    page = BeautifulSoup(html, "html.parser")
    data = json.loads(page.find("script", type="application/json").string)
    parts = {el["data-k"]: el for el in page.find_all(attrs={"data-k": True})}
    for slot in data["slots"]:
        i = 0
        for axis in slot["axes"]:
            i = i * data["shape"][axis] + position[axis]
        part = parts[str(slot["k"])]
        if slot["attr"]:
            part[slot["attr"]] = slot["values"][i]
        else:
            part.clear()
            part.extend(list(BeautifulSoup(slot["values"][i], "html.parser").contents))
    return page


def picture(page: BeautifulSoup) -> str:
    """Panels and read-out as text, without the marks of what may change."""
    page = BeautifulSoup(str(page), "html.parser")
    for el in page.find_all(attrs={"data-k": True}):
        del el["data-k"]
    return "".join(str(page.find(class_=name)) for name in ("ddpm-panels", "ddpm-readout"))


def live_picture(explorer: Explorer, position) -> str:
    """The same of the live face, with its controls moved to `position`."""
    *controls, view = explorer.widget().children
    for control, k in zip(controls, position):
        control.value = k
    return picture(BeautifulSoup(view.value, "html.parser"))


def curve(page: BeautifulSoup, panel: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k-th path inside a panel's axes, back in data coordinates (the axes' ends are read off their ticks)."""
    svg = page.select(".ddpm-panel > svg")[panel]
    inside = svg.find("svg")
    path = inside.find_all("path")[k]
    numbers = [int(n) for n in re.findall(r"-?\d+", path["d"])]
    points = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0).astype(float)
    if path.has_attr("transform"):
        points[:, 0] += int(re.search(r"-?\d+", path["transform"])[0])
    texts = [el for el in svg.find("g").find_all("text") if re.fullmatch(r"−?[\d.]+", el.text)]
    values = [float(el.text.replace("−", "-")) for el in texts]
    across = [k for k, el in enumerate(texts) if el["text-anchor"] == "middle"]
    up = [k for k, el in enumerate(texts) if el["text-anchor"] == "end"]
    left, top = float(inside["x"]), float(inside["y"])
    # Ticks' labels stand at the tick (x), or 4.5 units below it (y).
    to_x = np.polyfit([(float(texts[k]["x"]) - left) * 10 for k in across], [values[k] for k in across], 1)
    to_y = np.polyfit([(float(texts[k]["y"]) - 4.5 - top) * 10 for k in up], [values[k] for k in up], 1)
    return np.polyval(to_x, points[:, 0]), np.polyval(to_y, points[:, 1])


def numbers(page: BeautifulSoup) -> dict[str, str]:
    """The read-out, name -> value, with powers of ten spelled so that float() reads them."""
    out = {}
    for sup in page.select(".ddpm-readout sup"):
        sup.replace_with(f"^{sup.text}")
    for pair in page.select(".ddpm-readout > span"):
        value = pair.find("b").text.replace("−", "-")
        out[pair.find("span").text.removesuffix(" = ")] = SUPERSCRIPTS.sub(r"e\1", value)
    return out


def close(shown: str, want: float) -> bool:
    """Three significant digits of `want` are shown."""
    return float(shown.split()[0]) == pytest.approx(want, rel=6e-3, abs=1e-9)


# One page: the reverse process -------------------------------------------------------------------------------------


def dots(page: BeautifulSoup, panel: int) -> tuple[np.ndarray, list[str]]:
    """The dots of a panel whose axes both run from -3 to 3, and their colours."""
    inside = page.select(".ddpm-panel > svg")[panel].find("svg")
    size = np.array([float(inside["width"]), float(inside["height"])])
    circles = inside.find_all("circle")
    at = np.array([[int(c["cx"]), int(c["cy"])] for c in circles]) / 10 / size
    return np.stack([6 * at[:, 0] - 3, 3 - 6 * at[:, 1]], 1), [c["fill"] for c in circles]


def test_reverse_process_ends_on_the_arms_of_its_colour(explorers):
    html = explorers["reverse-process"].to_html()
    radius = np.linspace(0.3, 1.8, 200)
    arm = np.stack([radius * np.cos(2 * radius), radius * np.sin(2 * radius)], 1)
    off = lambda x, sign: np.sqrt(((x[:, None] - sign * arm) ** 2).sum(2)).min(1)  # noqa: E731
    x, colours = dots(at_position(html, (19,)), 0)
    near, far = (np.where(np.array(colours) == colours[0], off(x, s), off(x, -s)) for s in (1, -1))
    assert len(set(colours)) == 2 and (near < far).all() and np.quantile(near, 0.95) < 3 * 0.02**0.5
    start, _ = dots(at_position(html, (0,)), 0)
    assert abs(start.var() - 1) < 0.3 and abs(start.mean()) < 0.3  # some of the noise lies outside the axes, but not much


def test_reverse_process_guess_is_the_mean_of_x_0_by_sampling_the_data(explorers):
    """E[x_0 | x_t] by importance weights on many draws of the data; nothing of the package."""
    rng, t, k = np.random.default_rng(0), 60, 4
    radius = np.linspace(0.3, 1.8, 20)
    arm = np.stack([radius * np.cos(2 * radius), radius * np.sin(2 * radius)], 1)
    x_0 = np.concatenate([arm, -arm])[rng.integers(40, size=100_000)] + 0.02**0.5 * rng.normal(size=(100_000, 2))
    page = at_position(explorers["reverse-process"].to_html(), (k,))
    a = np.prod(1 - np.linspace(1e-3, 0.2, 100)[:t])
    assert numbers(page)["t"] == str(t) and close(numbers(page)["signal √ᾱt"], a**0.5)
    (x_t, _), (guess, _) = dots(page, 0), dots(page, 1)
    for x, want in zip(x_t[:20], guess[:20]):
        w = np.exp(-((x - a**0.5 * x_0) ** 2).sum(1) / (2 * (1 - a)))
        assert np.allclose(w @ x_0 / w.sum(), want, atol=0.03)


# The forward process ---------------------------------------------------------------------------------------------

BETAS = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "quadratic": np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2,
}


def alpha_bar(name: str, t: int) -> float:
    if name == "cosine":
        f = [np.cos(np.pi / 2 * (u + 0.008) / 1.008) ** 2 for u in (0, t / 1000)]
        return f[1] / f[0]
    return float(np.exp(np.log1p(-BETAS[name][:t]).sum()))


def mixture(x, a: float):
    """The density of √a x_0 + √(1-a) ε, from the definition of the data."""
    parts = [(0.3, -1.2, 0.05), (0.7, 0.8, 0.10)]
    return sum(w * norm.pdf(x, a**0.5 * m, (a * v + 1 - a) ** 0.5) for w, m, v in parts)


@pytest.mark.parametrize("t, name", [(0, "linear"), (100, "linear"), (325, "cosine"), (650, "quadratic"), (975, "linear")])
def test_forward_process_shows_the_diffused_mixture(explorers, t, name):
    explorer = explorers["forward-process"]
    position = (explorer.sliders[0].values.index(t), explorer.sliders[1].values.index(name))
    page, a = at_position(explorer.to_html(), position), alpha_bar(name, t)
    grid = np.linspace(-2.9, 2.9, 500)
    # The drawing rounds to a tenth of a unit, 1/2000 of the height; the steepest slope adds twice that.
    for k, want in ((0, mixture(grid, 1.0)), (1, norm.pdf(grid)), (2, mixture(grid, a))):
        np.testing.assert_allclose(np.interp(grid, *curve(page, 0, k)), want, atol=3e-3)
    shown = numbers(page)
    assert shown["t"] == str(t)
    assert close(shown["ᾱt"], a)
    kl = quad(lambda x: mixture(x, a) * np.log(mixture(x, a) / norm.pdf(x)), -6, 6, limit=400, points=[-1.2, 0, 0.8])[0]
    assert close(shown["KL(q(xt) ‖ N(0, 1))"], kl)
    if t:
        assert close(shown["SNR"], a / (1 - a))
    else:
        assert shown["SNR"] == "∞"


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic"])
def test_forward_process_shows_signal_and_noise_of_the_schedule(explorers, name):
    explorer = explorers["forward-process"]
    page = at_position(explorer.to_html(), (10, explorer.sliders[1].values.index(name)))
    for k, want in ((1, lambda a: a**0.5), (2, lambda a: (1 - a) ** 0.5)):
        t, y = curve(page, 1, k)
        inner = (t > 20) & (t < 980)  # the square root is steep at the ends
        np.testing.assert_allclose(y[inner], [want(alpha_bar(name, round(u))) for u in t[inner]], atol=4e-3)
    dots = page.select(".ddpm-panel > svg")[1].find_all("circle")
    a = alpha_bar(name, 250)
    height = 10 * 200  # the axes go from 0 to 1
    assert [1 - int(dot["cy"]) / height for dot in dots] == pytest.approx([a**0.5, (1 - a) ** 0.5], abs=1 / height)


def test_forward_process_caption_knows_when_the_peaks_merge(explorers):
    x = np.linspace(-2, 2, 40001)

    def peaks(a):
        y = mixture(x, a)
        return ((y[1:-1] > y[:-2]) & (y[1:-1] > y[2:])).sum()

    found = re.findall(r"t\s=\s(\d+) \((\w+)\)", explorers["forward-process"].caption)
    assert [name for _, name in found] == ["linear", "cosine", "quadratic"]
    for t, name in found:
        assert peaks(alpha_bar(name, int(t) - 1)) == 2
        assert peaks(alpha_bar(name, int(t))) == 1


# The posterior ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t, x_t", [(2, -2.0), (2, 1.0), (4, 0.0), (7, 1.25), (10, 2.0), (10, -0.5)])
def test_posterior_is_the_product_of_prior_and_likelihood(explorers, t, x_t):
    explorer = explorers["posterior"]
    page = at_position(explorer.to_html(), (t - 2, explorer.sliders[1].values.index(x_t)))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before = float(np.prod(1 - betas[: t - 1]))
    beta_t = float(betas[t - 1])
    grid = np.linspace(-7, 7, 20001)
    step = grid[1] - grid[0]

    # Bayes' rule on a grid, from the two Gaussians of the forward process alone.
    prior = norm.pdf(grid, before**0.5, (1 - before) ** 0.5)
    likelihood = norm.pdf(x_t, (1 - beta_t) ** 0.5 * grid, beta_t**0.5)
    evidence = (prior * likelihood).sum() * step
    posterior = prior * likelihood / evidence
    mean = (grid * posterior).sum() * step
    var = ((grid - mean) ** 2 * posterior).sum() * step

    seen = abs(grid) < 3.9
    # x is rounded by up to 1/925; times the steepest slope, 4, twice (for curve and shift), that is 0.01. The straight
    # pieces between the drawn points add up to 0.005.
    for k, want in ((0, prior), (1, likelihood), (3, posterior)):
        np.testing.assert_allclose(np.interp(grid, *curve(page, 0, k))[seen], want[seen], atol=0.02)
    x, y = curve_top(page, 0, 2)
    np.testing.assert_allclose(np.interp(grid, x, y)[seen], (prior * likelihood)[seen], atol=0.02)

    shown = numbers(page)
    of_x_0, of_x_t, total = (float(n) for n in re.findall(r"-?\d+\.\d+", shown["mean μ̃t"]))
    assert total == pytest.approx(mean, rel=6e-3, abs=1e-3)
    assert of_x_0 + of_x_t * x_t == pytest.approx(mean, abs=2e-3)
    assert close(shown["variance β̃t"], var) and close(shown["βt"], beta_t)
    assert close(shown["area of the product, q(xt | x0)"], evidence)
    # What the caption says.
    centres = sorted([before**0.5, x_t / (1 - beta_t) ** 0.5])
    assert centres[0] < mean < centres[1]
    assert var < min(1 - before, beta_t / (1 - beta_t))


def curve_top(page, panel, k):
    """The upper edge of a band: its points up to where x turns back."""
    x, y = curve(page, panel, k)
    n = int(np.argmax(x)) + 1
    return x[:n], y[:n]


def test_posterior_variances_over_t(explorers):
    page = at_position(explorers["posterior"].to_html(), (0, 0))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before, after = np.cumprod(np.concatenate([[1], 1 - betas]))[:-1], np.cumprod(1 - betas)
    t, y = curve(page, 1, 1)
    np.testing.assert_allclose(np.interp(np.arange(1, 11), t, y), betas, atol=1e-3)
    t, y = curve(page, 1, 2)
    np.testing.assert_allclose(np.interp(np.arange(1, 11), t, y), (1 - before) / (1 - after) * betas, atol=1e-3)


# Gaussians: the divergence and the product -----------------------------------------------------------------------


def kl_by_quad(m, v, m_p, v_p):
    def integrand(x):
        return norm.pdf(x, m, v**0.5) * (norm.logpdf(x, m, v**0.5) - norm.logpdf(x, m_p, v_p**0.5))

    return quad(integrand, m - 10 * v**0.5, m + 10 * v**0.5, limit=200)[0]


@pytest.mark.parametrize("j, k", [(0, 0), (12, 0), (6, 8), (10, 2), (6, 4), (3, 6)])
def test_kl_is_the_area_that_is_drawn(explorers, j, k):
    explorer = explorers["kl"]
    mean, var = explorer.sliders[0].values[j], explorer.sliders[1].values[k]
    page = at_position(explorer.to_html(), (j, k))
    shown = numbers(page)
    forward, backward, spread = kl_by_quad(0, 1, mean, var), kl_by_quad(mean, var, 0, 1), kl_by_quad(0, 1, 0, var)
    assert close(shown["KL(q ‖ p)"], forward) and close(shown["KL(p ‖ q)"], backward)
    assert close(shown["its part from the variances"], spread) and close(shown["from the means"], forward - spread)
    x = np.linspace(-4, 4, 801)
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 0)), norm.pdf(x), atol=0.01)
    seen = abs(x - mean) < 2.5
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 1))[seen], norm.pdf(x, mean, var**0.5)[seen], atol=0.02)
    want = norm.pdf(x) * (norm.logpdf(x) - norm.logpdf(x, mean, var**0.5))
    np.testing.assert_allclose(np.interp(x, *curve_top(page, 1, 0)), want.clip(min=0), atol=0.05)
    x_below, y_below = (line[len(curve_top(page, 1, 1)[0]) :][::-1] for line in curve(page, 1, 1))
    np.testing.assert_allclose(np.interp(x, x_below, y_below), want.clip(max=0), atol=0.05)
    assert want.max() < 3 and want.min() > -0.5  # nothing leaves the axes


def test_kl_caption_a_narrow_p_costs_more_and_in_the_other_direction_less():
    for m in (0.0, 0.5, 1.5):
        for factor in (1.41, 2.0, 4.0):
            assert kl_by_quad(0, 1, m, 1 / factor) > kl_by_quad(0, 1, m, factor)
            assert kl_by_quad(m, 1 / factor, 0, 1) < kl_by_quad(m, factor, 0, 1)


@pytest.mark.parametrize("j, k", [(0, 0), (12, 8), (10, 2), (4, 4)])
def test_product_adds_precisions(explorers, j, k):
    explorer = explorers["product"]
    mean, var = explorer.sliders[0].values[j], explorer.sliders[1].values[k]
    page = at_position(explorer.to_html(), (j, k))
    x = np.linspace(-15, 15, 30001)
    both = norm.pdf(x, -1, 1) * norm.pdf(x, mean, var**0.5)
    area = both.sum() * 1e-3
    m = (x * both).sum() * 1e-3 / area
    v = ((x - m) ** 2 * both).sum() * 1e-3 / area
    shown = numbers(page)
    assert close(shown["variance"], v) and close(shown["area Z of g × h"], area)
    of_g, at_g, of_h, at_h, total = (float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", shown["mean"]))
    assert (at_g, at_h) == (-1, mean) and total == pytest.approx(m, rel=6e-3, abs=2e-3)
    assert of_g * at_g + of_h * at_h == pytest.approx(m, abs=3e-3)
    seen = abs(x) < 3.9
    np.testing.assert_allclose(np.interp(x, *curve(page, 0, 2))[seen], (both / area)[seen], atol=0.02)
    tops = [float(el.text) for el in page.select(".ddpm-panel > svg")[1].find("svg").find_all("text")]
    assert tops == pytest.approx([1, 1 / var, 1 / v], rel=6e-3)


# One latent: the bound and its gap -------------------------------------------------------------------------------


@pytest.mark.parametrize("j, k", [(4, 6), (0, 8), (8, 2), (8, 5), (16, 0), (12, 9), (3, 4)])
def test_elbo_and_gap_add_up(explorers, j, k):
    """z ~ N(0, 1), x = 2z + N(0, 1), x = 2.5: everything by integrating on a grid, the posterior by Bayes' rule."""
    explorer = explorers["elbo-gap"]
    page = at_position(explorer.to_html(), (j, k))
    z = np.linspace(-12, 12, 48001)
    step = z[1] - z[0]
    log_joint = norm.logpdf(z) + norm.logpdf(2.5, 2 * z, 1)
    log_p = np.log(np.exp(log_joint).sum() * step)
    post = np.exp(log_joint - log_p)
    width = [1 / 4, 1 / 3, 1 / 2, 2**-0.5, 0.8, 1, 1.5, 2, 5**0.5, 3][k] * 0.2**0.5
    q, log_q = norm.pdf(z, j / 8, width), norm.logpdf(z, j / 8, width)
    elbo = (q * (log_joint - log_q)).sum() * step
    seen = (z > -1.9) & (z < 2.9)
    for curve_at, want in ((0, norm.pdf(z)), (1, post), (2, q)):
        np.testing.assert_allclose(np.interp(z, *curve(page, 0, curve_at))[seen], want[seen], atol=0.04)
    shown = numbers(page)
    assert close(shown["ELBO"], elbo) and close(shown["their sum, log p(x)"], log_p)
    assert float(shown["gap KL(q ‖ p(z | x))"].split()[0]) == pytest.approx(log_p - elbo, rel=6e-3, abs=1e-9)
    # Where q is at most 1/√2 as wide as the posterior, the weights have no variance and nothing is left.
    share = 1 / (np.exp(2 * (log_joint - log_p) - log_q).sum() * step) if width**2 > 0.1 + 1e-9 else 0
    assert float(shown["ESS / n"].split()[0]) == pytest.approx(100 * share, abs=0.051)
    bars = page.select(".ddpm-panel > svg")[1].find_all("rect")
    assert [int(bar["height"]) / 2000 * 8 for bar in bars] == pytest.approx([-elbo, -log_p], abs=8e-3)


# The chain: the bound and its gap, step by step ----------------------------------------------------------------------


@pytest.mark.parametrize("j, k", [(3, 4), (8, 4), (0, 0), (4, 7), (6, 2)])
def test_diffusion_bound_is_entropy_plus_divergence_plus_gap(explorers, j, k):
    """Two Gaussian vectors of 11 numbers, the forward and the reverse path; numpy's linear algebra and nothing else."""
    page = at_position(explorers["diffusion-elbo"].to_html(), (j, k))
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


# Both faces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_static_html_is_deterministic_small_and_asks_for_nothing(explorers, name):
    text = explorers[name].to_html()
    assert BUILDERS[name]().to_html() == text
    assert len(text.encode()) < MAX_BYTES
    for request in ("http", "//cdn", "src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert request not in text


@pytest.mark.parametrize("name", BUILDERS)
def test_static_html_is_accessible(explorers, name):
    page = BeautifulSoup(explorers[name].to_html(), "html.parser")
    root = page.find(class_="ddpm-explorer")
    assert root["id"] == f"ddpm-{name}" and root["aria-label"]
    ids = [el["id"] for el in page.find_all(id=True)]
    assert len(ids) == len(set(ids)) and all(i.startswith(f"ddpm-{name}") for i in ids)
    panels = page.select(".ddpm-panel > svg")
    assert panels
    for svg in panels:
        assert svg["role"] == "img"
        assert [page.find(id=i).text != "" for i in svg["aria-labelledby"].split()] == [True, True]
    assert page.find(class_="ddpm-readout")["aria-live"] == "polite"
    for control in page.find_all("input"):
        assert control["type"] in ("range", "radio")
        assert control.get("aria-label") or control.parent.name == "label"


@pytest.mark.parametrize("position", list(itertools.product(range(3), range(2))))
def test_both_faces_agree_at_every_position_of_a_small_explorer(position):
    explorer = small()
    assert picture(at_position(explorer.to_html(), position)) == live_picture(explorer, position)


@pytest.mark.parametrize("name, position", [("forward-process", (0, 2)), ("forward-process", (33, 1)), ("posterior", (8, 16))])
def test_both_faces_agree(explorers, name, position):
    assert picture(at_position(explorers[name].to_html(), position)) == live_picture(explorers[name], position)


def test_live_face_redraws_when_a_control_moves():
    slider, choice, view = small().widget().children
    seen = {view.value}
    slider.value = 2
    seen.add(view.value)
    choice.value = 1
    seen.add(view.value)
    assert len(seen) == 3 and "script" not in view.value


def test_mime_bundle_has_the_widget_only_where_a_kernel_runs(monkeypatch):
    explorer = small()
    assert set(explorer._repr_mimebundle_()) == {"text/plain", "text/html"}
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: object())
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert bundle["text/html"] == explorer.to_html()
    assert bundle["text/plain"] == "Explorer('small': x_t: 3 positions, kind: 2 positions)"


def test_text_is_escaped_and_scripts_are_set():
    text = small().to_html()
    assert "A &amp; B &lt; C." in text and "x<sub>t</sub>" in text and "All of x_t</title>" in text
    assert '<tspan dy="0.29em" font-size="75%">t−1</tspan><tspan dy="-0.22em"> &lt; p</tspan>' in text


def test_constant_parts_are_stored_once():
    page = BeautifulSoup(small().to_html(), "html.parser")
    data = json.loads(page.find("script", type="application/json").string)
    assert data["shape"] == [3, 2]
    assert {tuple(slot["axes"]) for slot in data["slots"]} == {(0,), (1,)}
    assert all(len(slot["values"]) == data["shape"][slot["axes"][0]] for slot in data["slots"])


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0.00"),
        (1.2345, "1.23"),
        (-0.04567, "−0.0457"),
        (1234, "1234"),
        (9.999, "10.0"),
        (0.00012345, "1.23 × 10^{−4}"),
        (2.5e7, "2.50 × 10^{7}"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
        (float("nan"), "undefined"),
    ],
)
def test_sig(value, text):
    assert sig(value) == text


# What is refused -------------------------------------------------------------------------------------------------


def panel(**changes):
    plain = {"title": "P", "alt": "A.", "x": (0, 1), "y": (0, 1), "marks": [Line([0, 1], [0, 1])], "xlabel": "x", "ylabel": "y"}
    return Panel(**{**plain, **changes})


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: small(sliders=[]), "sliders of 'small' is empty"),
        (lambda: Slider("t", []), "'t' has no values"),
        (lambda: Choice("t", []), "'t' has no values"),
        (lambda: Slider(" ", [1]), "label is empty"),
        (lambda: Slider("t", [1, 2], start=2), r"start = 2 of 't' is outside 0\.\.1"),
        (lambda: small(name="Two Words"), "name = 'Two Words'"),
        (lambda: small(caption=" "), "caption of explorer 'small' is empty"),
        (lambda: small(title=""), "title of explorer 'small' is empty"),
        (lambda: panel(alt=""), "needs alt"),
        (lambda: panel(xlabel=""), "needs xlabel"),
        (lambda: panel(x=(1, 0)), r"x = \(1, 0\)"),
        (lambda: panel(y=(0, float("inf"))), "must be finite"),
        (lambda: panel(marks=[]), "no marks"),
    ],
)
def test_refuses_what_cannot_be_shown(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"marks": [Line([0, 1], [0, float("nan")])]}, "NaN or infinity"),
        ({"marks": [Line([0, 1], [0, 1], "pink")]}, "colour = 'pink' is unknown"),
        ({"marks": [Line([], [])]}, "length >= 1"),
        ({"marks": [Text(0, 0, "a", anchor="left")]}, "anchor = 'left'"),
        ({"xticks": [2]}, "tick 2 is outside"),
    ],
)
def test_refuses_marks_that_cannot_be_drawn(changes, message):
    with pytest.raises(ValueError, match=message):
        small(lambda a, b: Frame([panel(**changes)], [])).to_html()


def test_refuses_frames_with_different_marks():
    def draw(a, b):
        return Frame([panel(marks=[Line([0, 1], [0, 1])] * (a + 1))], [])

    with pytest.raises(ValueError, match=r"other marks at position \(1, 0\) than at \(0, 0\)"):
        small(draw).to_html()


def test_refuses_a_page_that_is_too_large():
    noise = np.random.default_rng(0).random((40, 2000))

    def draw(k):
        return Frame([panel(marks=[Line(np.linspace(0, 1, 2000), noise[k])])], [])

    with pytest.raises(ValueError, match=f"more than {MAX_BYTES}"):
        small(draw, [Slider("k", range(40))]).to_html()


# In a browser ----------------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_the_keyboard_moves_the_picture_without_any_request(explorers, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    html = "".join(explorer.to_html() for explorer in explorers.values())
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><body>{html}", encoding="utf-8")
    requests, errors = [], []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 390, "height": 844})
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(error))
        tab.goto((tmp_path / "page.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        for name, moves in (("forward-process", (3, 1)), ("posterior", (2, 4))):
            explorer = explorers[name]
            for axis, move in enumerate(moves):
                tab.locator(f"#ddpm-{name} [data-axis='{axis}']").nth(0).focus()
                for _ in range(move):
                    tab.keyboard.press("ArrowRight")
            position = [start + move for start, move in zip(explorer.start, moves)]
            shown = BeautifulSoup(tab.locator(f"#ddpm-{name}").evaluate("e => e.outerHTML"), "html.parser")
            want = BeautifulSoup(explorer._page(tuple(position)).html(), "html.parser")
            assert [el["d"] for el in shown.select("svg path")] == [el["d"] for el in want.select("svg path")]
            assert shown.find(class_="ddpm-readout").text == want.find(class_="ddpm-readout").text
            assert [el.text for el in shown.find_all("output")] == [el.text for el in want.find_all("output")]
            assert [el.get("aria-valuetext") for el in shown.find_all("input")] == [
                el.get("aria-valuetext") for el in want.find_all("input")
            ]
        browser.close()
    assert not errors
    assert all(url.startswith("file:") for url in requests)


# Predicting the noise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t, x_t", [(1, -1.5), (50, 0.0), (300, 0.5), (700, 1.25), (1000, -0.25)])
def test_coordinates_are_the_means_of_the_pairs_that_make_x_t(explorers, t, x_t):
    explorer = explorers["coordinates"]
    position = (explorer.sliders[0].values.index(t), explorer.sliders[1].values.index(x_t))
    page, a = at_position(explorer.to_html(), position), alpha_bar("linear", t)
    # Bayes' rule by quadrature over ε, from the definition of x_t: no oracle, no converter.
    eps = np.linspace(-20, 20, 400_001)
    x_0 = (x_t - (1 - a) ** 0.5 * eps) / a**0.5
    weight = mixture(x_0, 1.0) * norm.pdf(eps)
    weight /= weight.sum()
    mean_eps, mean_x_0 = (weight * eps).sum(), (weight * x_0).sum()
    shown = numbers(page)
    assert close(shown["ε̂"], mean_eps) and close(shown["x̂0"], mean_x_0)
    assert close(shown["v̂"], a**0.5 * mean_eps - (1 - a) ** 0.5 * mean_x_0)
    assert close(shown["factor of ε̂"], ((1 - a) / a) ** 0.5)
    step = 1e-4  # the slope of the marginal's log-density
    slope = (np.log(mixture(x_t + step, a)) - np.log(mixture(x_t - step, a))) / (2 * step)
    assert close(shown["score"], slope)
    beta = BETAS["linear"][t - 1]
    assert float(shown["mean of the step, μ"]) == pytest.approx((x_t + beta * slope) / (1 - beta) ** 0.5, rel=6e-3, abs=1e-4)


# The reverse variance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t, x_t", [(2, -0.25), (2, 2.0), (3, -0.5), (6, 0.0), (10, -2.0)])
def test_reverse_variance_is_that_of_bayes_rule(explorers, t, x_t):
    explorer = explorers["reverse-variance"]
    page = at_position(explorer.to_html(), (t - 2, explorer.sliders[1].values.index(x_t)))
    betas = np.array([0.1 + 0.4 * k / 9 for k in range(10)])
    before, beta_t = float(np.prod(1 - betas[: t - 1])), float(betas[t - 1])
    grid = np.linspace(-8, 8, 8001)
    step = grid[1] - grid[0]

    def by_bayes(seen):
        weight = mixture(grid, before) * norm.pdf(seen, (1 - beta_t) ** 0.5 * grid, beta_t**0.5)
        evidence = weight.sum() * step
        mean = (grid * weight).sum() * step / evidence
        return evidence, weight / evidence, ((grid - mean) ** 2 * weight).sum() * step / evidence

    _, _, var = by_bayes(x_t)
    shown = numbers(page)
    assert close(shown["truth"], var)
    assert close(shown["βt"], beta_t)
    assert close(shown["β̃t"], beta_t * (1 - before) / (1 - before * (1 - beta_t)))
    places = np.linspace(-6, 6, 601)
    columns = [by_bayes(place) for place in places]
    assert close(shown["its average over xt"], sum(e * v for e, _, v in columns) * (places[1] - places[0]))

    seen = np.linspace(-2.2, 2.2, 45)
    want = [by_bayes(place)[2] / beta_t for place in seen]
    np.testing.assert_allclose(np.interp(seen, *curve(page, 0, 3)), want, atol=1e-2)
    dot = page.select(".ddpm-panel > svg")[0].find("circle")
    assert 2.4 * (1 - int(dot["cy"]) / 2000) == pytest.approx(var / beta_t, abs=2e-3)


@pytest.mark.parametrize("mean, ratio", [(0.3, 0.78), (-1.2, 2.0), (1.05, 19.0)])
def test_decoder_bits_are_areas_under_the_bell(explorers, mean, ratio):
    explorer = explorers["decoder"]
    means, ratios = (slider.values for slider in explorer.sliders)
    page = at_position(explorer.to_html(), (int(np.abs(np.array(means) - mean).argmin()), ratios.index(ratio)))
    values = numbers(page)
    x, sigma = np.linspace(-1, 1, 9), 0.25 / ratio
    cuts = np.array([-np.inf, *(x[:-1] + 0.125), np.inf])
    areas = np.diff(norm.cdf(cuts, mean, sigma))
    k = int(np.abs(x - mean).argmin())
    assert values["sum of the masses"] == "1.000"
    assert close(values["sum of density × width"], float((norm.pdf(x, mean, sigma) * 0.25).sum()))
    bits = next(text for name, text in values.items() if name.startswith("bits for the level"))
    assert float(bits) == pytest.approx(-np.log2(areas[k]), rel=0.06, abs=1e-9)
