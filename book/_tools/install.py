"""Set up .venv for `make book` and `make test`: once, and again only when the requirements changed.

Needs nothing but Python's own library. Reads VENV, VENV_ARGS and TORCH_INDEX from the environment (see `make help`).
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = re.compile(
    "Temporary failure in name resolution|Name or service not known|nodename nor servname|getaddrinfo failed"
    "|NewConnectionError|Failed to establish a new connection|Connection refused|Network is unreachable"
    "|No route to host|ConnectTimeoutError|timed out|ProxyError|Connection reset"
)
FETCHED = re.compile(r"\s+Downloading (?:\S*/)?([^\s/-]+-[^\s/-]+)\S* (\([\d.]+ [MG]B\))")  # name-version (size)


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 (whoever runs make may have an older one)
        version = ".".join(map(str, sys.version_info[:3]))
        return stop(f"Python 3.10 or newer is needed; this is {version}. Name another one: make PYTHON=python3.12 …")
    venv = Path(os.environ.get("VENV") or ".venv")
    venv = venv if venv.is_absolute() else ROOT / venv
    stamp, python, wanted = venv / "installed", venv / "bin" / "python", fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted and python.exists():
        return 0
    started = time.monotonic()
    stamp.unlink(missing_ok=True)  # an interrupted installation must not look complete
    fault = 0 if works(python) else create(venv)
    if fault:
        return fault
    print(f"Installing into {shown(venv)} (once; torch and its companions are large) …", flush=True)
    fault = install(python, venv / "install.log")
    if fault:
        return fault
    stamp.write_text(wanted)
    print(f"Installed in {shown(venv)} · {duration(time.monotonic() - started)}", flush=True)
    return 0


def fingerprint() -> str:
    """What the installation depends on: the two files that name the requirements, and the Python that is used."""
    files = [ROOT / "pyproject.toml", ROOT / "requirements.txt"]
    digest = hashlib.sha256(b"\n".join(file.read_bytes() for file in files)).hexdigest()
    return f"{digest} {ROOT}\n"


def works(python: Path) -> bool:
    """Whether a complete environment is there: its Python runs, is new enough and has pip."""
    if not python.exists():
        return False
    test = "import sys, pip; sys.exit(sys.version_info < (3, 10))"
    return subprocess.run([str(python), "-c", test], capture_output=True, check=False).returncode == 0


def create(venv: Path) -> int:
    if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
        return stop(f"{shown(venv)} exists and is no virtual environment; move it away or name another: make VENV=… book")
    try:
        import ensurepip  # noqa: F401
        import venv as _  # noqa: F401
    except ImportError:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        return stop(
            f"This Python ({sys.executable}) cannot make virtual environments: its venv or ensurepip module is missing.\n"
            f"On Debian and Ubuntu: sudo apt install {name} (or python3-venv). Then run make again."
        )
    arguments = (os.environ.get("VENV_ARGS") or "").split()
    result = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", *arguments, str(venv)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        return stop(f"The virtual environment {shown(venv)} could not be made:\n{tail(result.stdout + result.stderr)}")
    return 0


def install(python: Path, log: Path) -> int:
    """One call of pip, so that torch and torchvision are resolved together; a line for each package it fetches."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--retries", "2", "--progress-bar", "off"]
    if os.environ.get("TORCH_INDEX"):
        command += ["--extra-index-url", os.environ["TORCH_INDEX"]]
    command += ["-r", str(ROOT / "requirements.txt")]
    lines = []
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in process.stdout:
                file.write(line)
                lines.append(line)
                fetched = FETCHED.match(line)
                if fetched:
                    print(f"  {fetched.group(1)} {fetched.group(2)}", flush=True)
                elif line.startswith("Installing collected"):
                    print("  unpacking …", flush=True)
        except KeyboardInterrupt:
            process.kill()
            return stop("Interrupted; run make again, it goes on where it stopped.")
    if process.wait() == 0:
        return 0
    text = "".join(lines)
    if NO_NETWORK.search(text):
        return stop(
            "No network: pip could not reach its package index, so the requirements could not be installed.\n"
            "Connect this machine to the internet (or set pip's proxy or index options) and run make again.\n"
            f"pip's own words are in {shown(log)}."
        )
    if "No space left on device" in text:
        return stop(f"The disk is full. A CPU-only torch needs far less: see TORCH_INDEX in `make help`. Log: {shown(log)}.")
    return stop(f"pip could not install the requirements. The end of {shown(log)}:\n{tail(text)}")


def tail(text: str, n: int = 12) -> str:
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-n:])


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def stop(message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(stop("Interrupted; run make again."))
