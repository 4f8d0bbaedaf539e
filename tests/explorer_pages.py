"""What tests of explorers share: a reader of their pages, and the data and schedules they show, from their definitions."""

import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from scipy.stats import norm

from ddpm_edu.explorers import Explorer

SUPERSCRIPTS = re.compile(r" × 10\^?(-?\d+)")

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


def curve_top(page, panel, k):
    """The upper edge of a band: its points up to where x turns back."""
    x, y = curve(page, panel, k)
    n = int(np.argmax(x)) + 1
    return x[:n], y[:n]


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


# What chapters show, from its definition ---------------------------------------------------------------------------

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
