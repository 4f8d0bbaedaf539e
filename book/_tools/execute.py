"""Run chapters and store their outputs, in one normal form: the same notebook run twice gives the same bytes.

Usage:

    python book/_tools/execute.py                      run every notebook of notebooks/
    python book/_tools/execute.py notebooks/05_*.ipynb run these
    python book/_tools/execute.py --check              run nothing; fail where a file is not in the normal form
    python book/_tools/execute.py --again              run, write nothing; fail where a byte of text differs from the file
    python book/_tools/execute.py --alarms             run, write nothing; fail where a cell fails or warns (other versions)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def normalise(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without anything that says who ran it, when, or in which editor."""
    cells, count, seen = [], 0, set()
    for cell in nb.cells:
        source = "\n".join(line.rstrip() for line in cell.source.split("\n")).strip("\n")
        if not source:
            continue
        kept = {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb") and value}
        new = {"cell_type": cell.cell_type, "id": _cell_id(cell.cell_type, source, seen), "metadata": kept, "source": source}
        if cell.get("attachments"):
            new["attachments"] = cell.attachments
        if cell.cell_type == "code":
            count += 1
            new["execution_count"] = count
            new["outputs"] = _outputs(cell.outputs, count)
        cells.append(nbformat.from_dict(new))
    metadata = {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def text(nb: nbformat.NotebookNode) -> str:
    """The file's text: indented by one space, keys sorted, a newline at the end."""
    nbformat.validate(nb)
    return nbformat.writes(nb, indent=1, sort_keys=True, ensure_ascii=False).rstrip("\n") + "\n"


def run(path: Path, timeout: int = 300) -> None:
    """Run one notebook in its own folder and write the outputs back. Raises CellExecutionError, writing nothing."""
    write(path, text(executed(path, timeout)))


def executed(path: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in its own folder, in the normal form; the file stays as it is."""
    nb = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.resolve().parent)}}
    client = NotebookClient(nb, timeout=timeout, kernel_name="python3", resources=resources)
    client.record_timing = client.store_widget_state = False
    client.coalesce_streams = True
    client.extra_arguments = ["--log-level=ERROR"]  # the kernel's own remarks
    client.execute()
    return normalise(nb)


def differences(stored: nbformat.NotebookNode, fresh: nbformat.NotebookNode) -> tuple[list[str], list[int]]:
    """Where a second run says something else, a sentence for each cell; and the cells that only draw another picture.

    Text and HTML must agree byte for byte on every machine; the pixels of a picture depend on fonts and processors.
    """
    faults, drawn = [], []
    if [cell.source for cell in stored.cells] != [cell.source for cell in fresh.cells]:
        return ["the two notebooks have other cells"], []
    for k, (old, new) in enumerate(zip(stored.cells, fresh.cells)):
        old_said, new_said = _said(old), _said(new)
        if old_said != new_said:
            lines = [[line for _, said in of for line in said.splitlines()] for of in (old_said, new_said)]
            was, now = next((pair for pair in zip_longest(*lines) if pair[0] != pair[1]), ("the same lines", "of other kinds"))
            faults.append(f"cell {k}: stored {was!r:.200}, now {now!r:.200}")
        elif old.get("outputs") != new.get("outputs"):
            drawn.append(k)
    return faults, drawn


def alarms(nb: nbformat.NotebookNode) -> list[str]:
    """What cells say on stderr, where warnings go: a sentence for each."""
    return [
        f"cell {k}: {output.text.strip()!r:.300}"
        for k, cell in enumerate(nb.cells)
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stderr"
    ]


def _said(cell: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """What a cell's outputs say, as (kind, text); of a picture only that it is there."""
    said = []
    for output in cell.get("outputs", []):
        parts = {output.name: output.text} if output.output_type == "stream" else output.get("data", {})
        said += [(kind, "" if kind.startswith("image/") else str(part)) for kind, part in sorted(parts.items())]
    return said


def write(path: Path, content: str) -> None:
    """Replace the file in one move: an interrupted run leaves the old one."""
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8", newline="\n")
    part.replace(path)


def _cell_id(kind: str, source: str, seen: set[str]) -> str:
    """An id that depends on the cell's text alone, whatever tool wrote the file."""
    for copy in range(1000):
        name = hashlib.sha256(f"{kind}\n{copy}\n{source}".encode()).hexdigest()[:8]
        if name not in seen:
            seen.add(name)
            return name
    raise ValueError("more than a thousand cells with the same text")


def _outputs(outputs: list, count: int) -> list:
    kept: list = []
    for output in outputs:
        output = nbformat.from_dict(dict(output))
        data = output.get("data", {})
        if "text/html" in data:
            data.pop(WIDGET, None)  # without its kernel the widget only says "model not found"
        if "metadata" in output:
            output.metadata = {k: v for k, v in output.metadata.items() if k in data}
        if output.output_type == "execute_result":
            output.execution_count = count
        last = kept[-1] if kept else None
        if last is not None and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            kept.append(output)
    return kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--check", action="store_true", help="run nothing; fail where a file is not in the normal form")
    parser.add_argument("--again", action="store_true", help="write nothing; fail where a byte of text differs from the file")
    parser.add_argument("--alarms", action="store_true", help="write nothing; fail where a cell fails or warns")
    parser.add_argument("--timeout", type=int, default=300, help="seconds a cell may take (default 300)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONHASHSEED", "0")  # the order of a printed set is the same in every run
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    failed = 0
    for path in paths:
        if not path.is_file():
            print(f"✗ {path}: there is no such file")
            failed += 1
            continue
        started = time.perf_counter()
        if options.check:
            if path.read_text(encoding="utf-8") != text(normalise(nbformat.read(path, as_version=4))):
                print(f"✗ {path}: not in the normal form; run python book/_tools/execute.py {path}")
                failed += 1
            continue
        drawn: list[int] = []
        try:
            if options.again or options.alarms:
                faults = alarms(fresh := executed(path, options.timeout))
                if options.again:
                    faults, drawn = differences(nbformat.read(path, as_version=4), fresh)
                if faults:
                    said = "a second run says something else" if options.again else "a cell warns"
                    print(f"✗ {path}: {said}", *faults, sep="\n    ", flush=True)
                    failed += 1
                    continue
            else:
                run(path, options.timeout)
        except CellExecutionError as error:
            print(f"✗ {path}: a cell failed, nothing was written\n{error}")
            failed += 1
        else:
            pictures = f" · pictures with other pixels: cells {', '.join(map(str, drawn))}" if drawn else ""
            print(f"✓ {path} · {time.perf_counter() - started:.0f} s{pictures}", flush=True)
    if options.check and not failed:
        print(f"{len(paths)} notebook(s) in the normal form")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
