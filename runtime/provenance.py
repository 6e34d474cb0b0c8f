"""Provenance: which command, package versions and commit a file was made with."""

import contextlib
import os
import subprocess
import sys
from importlib import metadata as importlib_metadata

from runtime.jsonfiles import Json

PACKAGES = ("numpy", "scipy", "camb", "healpy", "pysm3", "torch")


def collect(argv: list[str] | None = None) -> Json:
    """Command, package versions and git commit, for a sidecar or a checkpoint.

    Args:
        argv: The script's arguments; those of this process when None.
    """
    words = [os.path.basename(sys.argv[0]), *(sys.argv[1:] if argv is None else argv)]
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib_metadata.PackageNotFoundError):
            versions[name] = importlib_metadata.version(name)
    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    return {"command": " ".join(map(str, words)), "versions": versions, "git_commit": commit}
