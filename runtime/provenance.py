"""Provenance: which run, command, package versions and commit a file was made with."""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess
import sys
from importlib import metadata as importlib_metadata

from runtime.jsonfiles import Json

PACKAGES = ("numpy", "scipy", "camb", "healpy", "pysm3", "torch")
ROOT = pathlib.Path(__file__).resolve().parents[1]
OWN_FILE = "runtime/provenance.py"  # a repository that holds it is one of this project
GIT_SECONDS = 5  # that git may take


def run_id(identity: Json) -> str:
    """Id of a run: 16 hexadecimal digits that follow from all that its results depend on.

    Args:
        identity: JSON; the order of keys does not matter.
    """
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """{package: version} of those packages that results can depend on."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib_metadata.PackageNotFoundError):
            found[name] = importlib_metadata.version(name)
    return found


def _git(*words: str) -> list[str]:
    """Lines that git prints in the folder of this project."""
    # a hook of another repository names that one in its environment
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
        check=True,
    )
    return done.stdout.splitlines()


def git_commit() -> str | None:
    """Commit of this project, "+dirty" added where files differ from it; None where unknown.

    Unpacked inside another repository, or at its top without being added to it, the project has
    no commit: that one's says nothing of it.
    """
    try:
        top, commit = _git("rev-parse", "--show-toplevel", "HEAD")
        if not os.path.samefile(top, ROOT):
            return None
        _git("ls-files", "--error-unmatch", OWN_FILE)
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return commit + ("+dirty" if changed else "")


def collect(argv: list[str] | None = None) -> Json:
    """Command, package versions and git commit, for a sidecar or a checkpoint.

    Args:
        argv: The script's arguments; those of this process when None.
    """
    words = [os.path.basename(sys.argv[0]), *(sys.argv[1:] if argv is None else argv)]
    command = " ".join(map(str, words))
    return {"command": command, "versions": versions(), "git_commit": git_commit()}
