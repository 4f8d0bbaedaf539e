"""`python -m ddpm_edu`."""

import ctypes
import platform
import sys

from .cli import main


def _keep_memory() -> None:
    """Let malloc keep the large blocks that are given back to it: the next move of a sampler asks for the same again.

    glibc hands them to the system, which fills the new ones with zeros, page by page: a third of the time of sampling.
    Without glibc nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes at the end that are kept


if __name__ == "__main__":
    _keep_memory()
    sys.exit(main())
