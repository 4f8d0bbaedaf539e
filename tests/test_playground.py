"""The playground computes what the package computes, and works: in a headless browser, on the built page.

Each function of book/assets/playground/diffusion.js is held to the one of ddpm_edu whose name it carries.
"""

import base64
import json
import math
import re

import numpy as np
import playground
import pytest
import torch
from test_browser import HTML, PATIENCE, browser, pytestmark, site  # noqa: F401

from ddpm_edu import GaussianDiffusion, NoiseSchedule, data, guidance, samplers, unet, weights
from ddpm_edu.guidance import guided
from ddpm_edu.samplers import ddim
from ddpm_edu.steering import inpaint
from ddpm_edu.unet import time_embedding

PAGE = "book/playground.html"
PATH = weights.shipped("playground")
CARD = json.loads(PATH.with_suffix(".json").read_text())
T, CLASSES = CARD["config"]["T"], CARD["network"]["classes"]
SCHEDULE = NoiseSchedule.cosine(T)
DIFFUSION = GaussianDiffusion(SCHEDULE)
WALK = """({x_T, y, scale, steps, eta, seed, known}) => {
  const noise = diffusion.normals(seed), alpha_bars = diffusion.cosine(playgroundWeights.T);
  const eps_model = y < 0 ? (x, t) => net(x, t) : diffusion.guided(net, y, scale);
  const visited = diffusion.steps(playgroundWeights.T, steps);
  return [...diffusion.ddim(alpha_bars, eps_model, Float64Array.from(x_T), visited, eta, noise, known)]
    .map(({t, x_t, x_0_hat}) => [t, [...x_t], [...x_0_hat]]);
}"""


def normals(seed: int):
    """The page's random numbers once more, from their description."""

    def mix(h: int) -> int:
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    state = mix(seed)
    while True:
        uniforms = []
        for _ in range(2):
            state = (state + 0x9E3779B9) % 2**32
            uniforms.append((mix(state) + 0.5) / 2**32)
        yield math.floor(math.sqrt(-2 * math.log(uniforms[0])) * math.cos(2 * math.pi * uniforms[1]) * 2**20 + 0.5) / 2**20


def draws(stream, n: int = 64) -> torch.Tensor:
    return torch.tensor([next(stream) for _ in range(n)], dtype=torch.float32).reshape(-1, 1, 8, 8)


def like_images(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64).reshape(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def network():
    return weights.load(PATH)[0]


def opened(browser, url, wrong, **options):  # noqa: F811
    context = browser.new_context(**{"viewport": {"width": 1000, "height": 1400}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.on("console", lambda m: wrong.append(f"console: {m.text} {m.location}") if m.type == "error" else None)
    page.on("pageerror", lambda e: wrong.append(f"script error: {e}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed request: {r.url}"))
    page.on("request", lambda r: None if r.url.startswith(url[:20]) else wrong.append(f"request to elsewhere: {r.url}"))
    page.goto(url, wait_until="load")
    return page


def part(page, name: str):
    return page.locator(f'#playground [data-part="{name}"]')


def done(page) -> str:
    """Wait for the walk to end; what the page says of it."""
    page.wait_for_function("document.querySelector('#playground [data-part=status]').textContent.startsWith('Done')")
    return part(page, "status").inner_text()


def stop(page) -> None:
    if part(page, "run").inner_text() == "Stop":
        part(page, "run").click()


def slide(page, name: str, value) -> None:
    """Move a slider, as a hand does: input events on the way, one change at the end."""
    part(page, name).evaluate(
        "(e, v) => { e.value = v; for (const k of ['input', 'change']) e.dispatchEvent(new Event(k, {bubbles: true})); }", value
    )


def greys(page, name: str) -> np.ndarray:
    """The 64 grey levels of a picture, 0..255."""
    pixels = part(page, name).evaluate("e => [...e.getContext('2d').getImageData(0, 0, 8, 8).data]")
    pixels = np.array(pixels).reshape(64, 4)
    assert (pixels[:, 0] == pixels[:, 1]).all() and (pixels[:, 1] == pixels[:, 2]).all() and (pixels[:, 3] == 255).all()
    return pixels[:, 0]


def shows(page, name: str, x: torch.Tensor) -> bool:
    want = (x.double().clamp(-1, 1).flatten().numpy() + 1) / 2 * 255
    return np.abs(greys(page, name) - want).max() <= 1


@pytest.fixture(scope="module")
def page(browser, site):  # noqa: F811
    """The page, opened once; whatever goes wrong on it until the last test is an error."""
    wrong: list[str] = []
    page = opened(browser, site + PAGE, wrong)
    done(page)
    page.evaluate("() => { window.net = diffusion.unet(diffusion.unpack(playgroundWeights)); }")
    yield page
    page.context.close()
    assert not wrong, "\n".join(wrong)


# The same numbers as Python --------------------------------------------------------------------------------------------


def test_a_forward_pass_is_pytorchs(page, network):
    t = torch.tensor([1, 2, 10, 50, 100, 250, 333, 500, 750, 900, T - 1, T])
    y = torch.tensor([CLASSES, *range(CLASSES), CLASSES])  # every class, and "not told" at both ends
    eps = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x_t = DIFFUSION.q_sample(data.load("digits")[torch.arange(12)], t, eps)
    golden = """({x, t, y}) => x.map((x, k) => [...net(Float64Array.from(x), t[k], y[k])])"""
    got = like_images(page.evaluate(golden, {"x": x_t.flatten(1).tolist(), "t": t.tolist(), "y": y.tolist()}))
    with torch.no_grad():
        want = network(x_t, t, y)
        exact = network.double()(x_t.double(), t, y)
        network.float()
    assert float((got - want).abs().max()) < 1e-5
    assert float((got - exact).abs().max()) < 1e-6  # PyTorch in the page's own precision
    untold = page.evaluate("x => [...net(Float64Array.from(x), 500)]", x_t[0].flatten().tolist())
    with torch.no_grad():
        assert torch.allclose(like_images(untold), network(x_t[:1], torch.tensor([500])).double(), atol=1e-5)


def test_schedule_steps_and_embedding(page):
    for n in (10, 100, T):
        got = page.evaluate("n => [...diffusion.cosine(n)]", n)
        np.testing.assert_allclose(got, NoiseSchedule.cosine(n).alpha_bars, rtol=1e-12)
    for n in (1, 2, 3, 7, 20, 50, 333, 999, T):
        assert page.evaluate("([T, n]) => diffusion.steps(T, n)", [T, n]) == SCHEDULE.steps(n)
    assert page.evaluate("diffusion.steps(470, 50)") == NoiseSchedule.cosine(470).steps(50)
    for t in (1, 77, T):
        got = page.evaluate("t => [...diffusion.time_embedding(t, 20, 1)]", t)
        np.testing.assert_allclose(got, time_embedding(torch.tensor([t]), 20)[0], atol=2e-7)


def test_one_step(page):
    """q_sample, x0_from_eps and q_ddim at the same numbers; at η = 1 it is the posterior."""
    generator = torch.Generator().manual_seed(1)
    x, e = (torch.randn(1, 64, generator=generator, dtype=torch.float64) for _ in range(2))
    call = """([f, ...a]) => [...diffusion[f](diffusion.cosine(1000), ...a.map((v) => Array.isArray(v) ? Float64Array.from(v) : v))]"""
    for t in (1, 400, 999):
        for name, arguments in (("q_sample", (x, t, e)), ("x0_from_eps", (x, e, t))):
            plain = [v.flatten().tolist() if isinstance(v, torch.Tensor) else v for v in arguments]
            want = getattr(DIFFUSION, name)(*arguments).flatten()
            np.testing.assert_allclose(page.evaluate(call, [name, *plain]), want, rtol=1e-9, atol=1e-9)
    for t, s in ((1000, 980), (500, 499), (300, 20), (20, 0), (1, 0)):
        for eta in (0, 0.3, 1):
            p = page.evaluate("a => diffusion.q_ddim(diffusion.cosine(1000), ...a)", [t, s, eta])
            laws = [DIFFUSION.q_ddim(x, e, t, s, eta)] + [DIFFUSION.q_posterior(x, e, t, s)] * (eta == 1)
            for q in laws:
                np.testing.assert_allclose(p["of_x_0"] * x + p["of_x_t"] * e, q.mean, rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(p["sigma2"], float(q.var), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0, 1, 2.5])
def test_guidance(page, network, scale):
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = guided(network, torch.tensor([8]), scale)(x, torch.tensor([600]))
    got = page.evaluate(
        "([x, scale]) => [...diffusion.guided(net, 8, scale)(Float64Array.from(x), 600)]", [x.flatten().tolist(), scale]
    )
    assert torch.allclose(like_images(got), want.double(), atol=1e-5)


def test_random_numbers(page):
    """As described, the same for a seed, others for another seed, and normal."""
    got = {seed: page.evaluate("s => Array.from({length: 4000}, diffusion.normals(s))", seed) for seed in (0, 1, 2, 2**32 - 1)}
    for seed, values in got.items():
        stream = normals(seed)
        assert values == [next(stream) for _ in values]
        z = np.array(values)
        assert abs(z.mean()) < 4 / 4000**0.5 and abs(z.var() - 1) < 4 * (2 / 4000) ** 0.5
        assert abs((z**4).mean() - 3) < 4 * (96 / 4000) ** 0.5
        assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / 4000**0.5
    assert abs(np.corrcoef(np.array(list(got.values()))) - np.eye(4)).max() < 4 / 4000**0.5


def walked(page, x_T: torch.Tensor, **arguments):
    arguments = {"scale": 1, "steps": 50, "eta": 0, "seed": 0, "known": None, **arguments}
    return page.evaluate(WALK, {"x_T": x_T.flatten().tolist(), **arguments})


def same_walk(got, want) -> None:
    want = list(want)
    assert [t for t, _, _ in got] == [step.t for step in want]
    for (_, x_t, x_0_hat), step in zip(got, want):
        assert torch.allclose(like_images(x_t), step.x_t.double(), rtol=0, atol=1e-3)
        assert torch.allclose(like_images(x_0_hat), step.x_0_hat.double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("y, scale", [(3, 1), (8, 2), (-1, 1)])
def test_fifty_moves_of_ddim_are_pythons(page, network, y, scale):
    x_T = draws(normals(10 + y))
    eps_model = network if y < 0 else guided(network, torch.tensor([y]), scale)
    same_walk(walked(page, x_T, y=y, scale=scale), ddim(DIFFUSION, eps_model, x_T, 50, clip=1.0))


@pytest.fixture
def pages_noise(monkeypatch):
    """From now on the package's samplers draw what the page draws."""

    def use(seed: int) -> None:
        stream = normals(seed)
        monkeypatch.setattr(torch, "randn", lambda *shape, **options: draws(stream))

    return use


@pytest.mark.parametrize("eta", [0.5, 1])
def test_noise_in_each_move(page, network, pages_noise, eta):
    x_T = draws(normals(4))
    pages_noise(9)
    eps_model = guided(network, torch.tensor([5]), 1)
    same_walk(walked(page, x_T, y=5, steps=20, eta=eta, seed=9), ddim(DIFFUSION, eps_model, x_T, 20, eta, clip=1.0))


@pytest.mark.parametrize("eta", [0, 1])
def test_inpainting_is_replacement(page, network, pages_noise, eta):
    x_T, x_0 = draws(normals(5)), data.load("digits")[torch.arange(1)]
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4, :] = True
    known = {"x_0": x_0.flatten().tolist(), "mask": mask.flatten().tolist()}
    got = walked(page, x_T, y=2, steps=15, eta=eta, seed=6, known=known)
    pages_noise(6)
    eps_model = guided(network, torch.tensor([2]), 1)
    want = inpaint(DIFFUSION, eps_model, x_T, x_0, mask, steps=15, sampler=ddim, eta=eta, clip=1.0)
    same_walk(got, want)
    assert torch.equal(like_images(got[-1][1])[mask], x_0.double()[mask])


def test_every_function_carries_a_name_of_the_package(page):
    """What the script offers is found under the same name in ddpm_edu, but for what has no place there."""
    homes = [NoiseSchedule, GaussianDiffusion, unet, guidance, samplers]
    known = {name.lower() for home in homes for name in vars(home)}
    assert set(page.evaluate("Object.keys(diffusion)")) - known == {"unpack", "estimate", "normals"}


def test_fifty_moves_take_less_than_three_seconds(page):
    """Of the page's own computing time, whatever else the machine is doing."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = {m["name"]: m["value"] for m in client.send("Performance.getMetrics")["metrics"]}
        return metrics["ScriptDuration"]

    x_T, seconds = draws(normals(1)), []
    for _ in range(3):
        before = spent()
        walked(page, x_T, y=3)
        seconds.append(spent() - before)
    client.detach()
    assert 0.01 < min(seconds) < 3, seconds
