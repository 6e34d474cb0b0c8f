"""Draws of parameters as chains that GetDist, and so Cobaya's users, can load.

https://getdist.readthedocs.io/en/latest/intro.html#samples-file-format
"""

import argparse
import glob
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np

from runtime import atomic
from runtime.priors import FloatArray, Parameter

# independent draws, none of which is to be left out as burn-in
PROPERTIES = "sampler = uncorrelated\nburn_removed = T\n"


def root(value: str) -> str:
    """argparse type: a path that suffixes are added to; .txt is understood."""
    found = value.removesuffix(".txt")
    if not os.path.basename(found) or os.path.isdir(found):
        raise argparse.ArgumentTypeError(f"{value!r} is a folder; name files in it, as in DIR/run")
    return found


def files(root: str) -> dict[str, str]:
    """{kind: path} of what `write` writes."""
    kinds = ("txt", "paramnames", "ranges", "properties.ini")
    return {kind: f"{root}.{kind}" for kind in kinds}


def beside(folder: str, root: str | None) -> list[str]:
    """Roots of the chains in a folder that `write` left there, one that is written anew aside."""
    suffix, found = ".properties.ini", []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*" + suffix))):
        with open(path, encoding="utf-8", errors="replace") as file:
            is_ours = file.read(len(PROPERTIES)) == PROPERTIES
        own = path.removesuffix(suffix)
        if is_ours and (root is None or os.path.abspath(own) != os.path.abspath(root)):
            found.append(own)
    return found


def latex(name: str) -> str:
    """Label of a parameter, without dollar signs."""
    escaped = name.replace("_", r"\_")
    return name if len(name) == 1 else rf"\mathrm{{{escaped}}}"


def write(
    root: str,
    draws: Mapping[str, FloatArray],
    parameters: Sequence[Parameter],
    warning: str = "",
) -> None:
    """Write chains of one observation: `getdist.loadMCSamples(root)` reads them.

    The column of -log(posterior) is 0, for draws come without it.

    Args:
        root: Path without a suffix.
        draws: {name: shape (m,)} of each parameter.
        parameters: Their names and ranges, in the order of the columns.
        warning: A comment for the properties.
    """
    values = np.stack([draws[parameter.name] for parameter in parameters], 1)
    columns = np.hstack([np.ones((len(values), 1)), np.zeros((len(values), 1)), values])
    table = io.StringIO()
    np.savetxt(table, columns, fmt=["%d", "%d", *["%.17g"] * len(parameters)])
    content: dict[str, str] = {
        "txt": table.getvalue(),
        "paramnames": "".join(f"{p.name}\t{latex(p.name)}\n" for p in parameters),
        "ranges": "".join(f"{p.name} {p.low!r} {p.high!r}\n" for p in parameters),
        "properties.ini": PROPERTIES + (f"# {warning}\n" if warning else ""),
    }
    for kind, path in files(root).items():
        atomic.write_bytes(path, content[kind])
