"""The playground's weights, as a script: a page opened from a file may load a script, but may not fetch a file.

weights/playground.safetensors is their one home. When the book is built, its numbers are written out again as
_static/playground/weights.js, and the numbers in the page's text are taken from the card beside it.
"""

import base64
import json
import re
from pathlib import Path

from safetensors import safe_open

PAGE = "book/playground"
SCRIPT = "_static/playground/weights.js"
# What diffusion.js computes; a network that differs in any of these needs a script that knows of it.
COMPUTED = {
    "kind": "UNet", "channels": 1, "heads": 1, "learned_variance": False, "head_channels": None, "groups": None,
    "scale_shift": False, "pad_all": False, "first_t": 1, "t_scale": 1.0,
}  # fmt: skip


def pack(path: Path) -> str:
    """The script that hands the weights to the page: it assigns an object, the numbers in it as base64 of float16."""
    import torch

    with safe_open(path, "pt") as stored:
        card = json.loads(stored.metadata()["card"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    network, config = card["network"], card["config"]
    for name, value in [*COMPUTED.items(), ("schedule", "cosine")]:
        found = config[name] if name == "schedule" else network[name]
        if found != value:
            raise ValueError(f"{path}: {name} = {found!r}, but the playground's script computes {value!r} only")
    if any(tensor.dtype != torch.float16 for tensor in tensors.values()):
        raise ValueError(f"{path} is not stored in float16, which the playground's script reads")
    data = b"".join(tensor.numpy().astype("<f2").tobytes() for tensor in tensors.values())
    shapes = [[name, list(tensor.shape)] for name, tensor in tensors.items()]
    stored = {"network": network, "T": config["T"], "tensors": shapes, "data": base64.b64encode(data).decode()}
    return f"window.playgroundWeights = {json.dumps(stored, separators=(',', ':'))};\n"


def numbers(path: Path) -> dict[str, str]:
    """What the page says about the network, from its card: name -> text, for {{ name }} on the page."""
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return {
        "parameters": f"{card['parameters']:,}",
        "images": f"{card['data']['images']:,}",
        "steps": f"{card['config']['steps']:,}",
        "T": f"{card['config']['T']:,}",
        "schedule": card["config"]["schedule"],
        "minutes": f"{card['wall_seconds'] / 60:.0f}",
        "label_drop": f"{100 * card['config']['label_drop']:.0f}",
        "kilobytes": f"{path.stat().st_size / 1000:.0f}",
    }


def weights(app) -> Path:
    return Path(app.srcdir) / "weights" / "playground.safetensors"


def fill_in(app, docname, source) -> None:
    """{{ name }} on the page becomes the card's number, {{ chapter 12 }} a link, or plain words while there is none."""
    if docname != PAGE:
        return
    known = numbers(weights(app))
    chapters = {name.split("/")[1].split("_")[0]: name for name in app.env.found_docs if name.startswith("notebooks/")}

    def text(found: re.Match) -> str:
        word, _, chapter = found[1].partition(" ")
        if word != "chapter":
            return known[word]
        name = chapters.get(chapter)
        return f"[Chapter {chapter}](../{name}.ipynb)" if name else f"Chapter {chapter}"

    source[0] = re.sub(r"{{ ([\w ]+) }}", text, source[0])


def write_script(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        script = Path(app.outdir) / SCRIPT
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(pack(weights(app)), encoding="ascii")


def setup(app):
    app.connect("source-read", fill_in)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
