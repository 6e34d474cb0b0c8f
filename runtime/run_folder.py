"""A folder of outputs is one run: what a script may leave in it, what goes, what belongs together.

A run puts its results in place when all of them are there. Only then it removes what an earlier run
of the same script left beside them; the file that names the run, its mark, goes first and comes
last. A reader refuses a folder whose files name different runs, or lack the mark.
"""

import contextlib
import glob
import os
from collections.abc import Collection, Iterable, Mapping

from runtime import atomic, jsonfiles, tables
from runtime.errors import InputError

STATE = ".sample.partial.json"  # what a stopped sample.py left, beside its outputs
MARKS = {"sample.py": "metrics.json", "evaluate.py": "report.json"}
LIKELIHOOD = ("log_likelihood.npy", "log_likelihood_metrics.json")
# All outputs of each script, sidecars left out; {} stands for the label of r. What a wildcard finds
# is an output only where its sidecar says so: see `_is_output`.
OUTPUTS = {
    "data_generation.py": (
        *("dl_train_r{}.npy", "dl_train_noisy_r{}.npy", "r_train_r{}.npy"),
        *("dl_gt_r{}.npy", "dl_noisy_r{}.npy", "r_gt_r{}.npy", "modes_noisy_r{}.npy"),
        *("budget_r{}.png", "masked_r{}.png"),
    ),
    "sample.py": (
        *("metrics.json", "denoised.npy", "generated.npy", "posterior_*.npy", "*_draws.npy"),
        *("pareto_k.npy", "trajectory.npy", "trajectory.png", "examples.png", *LIKELIHOOD),
        *("observation.npy", "map.png"),
    ),
    "evaluate.py": (
        *("report.json", "report.md", "report.html"),
        *("sharpness.png", "calibration.png", "controls.png"),
        *("r.png", "posterior.png", "getdist.png", "parameters.png"),
    ),
}
EFFECTIVE = "effective_draws.npy"  # which are numbers of draws, and no draws
IDENTITY = "belongs_to"  # key of metrics.json: all that the draws follow from, {flag: value}
ACCEPTED = "accepted_mismatch"  # key of all outputs of a map that is not what the model knows
POSTERIOR = "posterior "  # with which the quantity of draws begins, and of what follows from them


def _is_output(path: str) -> bool:
    """Whether an array that a wildcard found was written by sample.py."""
    try:
        quantity = jsonfiles.read_json(tables.sidecar_path(path)).get("quantity")
    except InputError:
        return False
    return isinstance(quantity, str) and quantity.startswith(POSTERIOR)


def outdated(script: str, folder: str, names: Iterable[str], label: str = "") -> list[str]:
    """Outputs of earlier runs of a script that a new one does not replace, the mark first.

    Args:
        script: A key of `OUTPUTS`.
        folder: In which it writes.
        names: What it writes, sidecars left out.
        label: Of r, for data_generation.py.

    Returns:
        Paths, each sidecar before its array.
    """
    names, found = set(names), []
    for pattern in OUTPUTS[script]:
        pattern = pattern.format(glob.escape(label))
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), pattern))):
            if os.path.basename(path) in names or ("*" in pattern and not _is_output(path)):
                continue
            sidecar = tables.sidecar_path(path)
            if path.endswith(".npy") and os.path.lexists(sidecar):
                found.append(sidecar)
            found.append(path)
    return list(dict.fromkeys(found))


def check_input(table: tables.Table | None, outdated: Iterable[str]) -> None:
    """InputError where what is read is among the files of an earlier run that go."""
    if table is not None and os.path.realpath(table.path) in map(os.path.realpath, outdated):
        raise InputError(
            f"{table.path}: is an output of the run in its folder, which this one would replace; "
            "name another --out-dir"
        )


def remove(paths: Iterable[str], again: Collection[str] = ()) -> None:
    """Remove what is outdated; what is gone already is no error.

    Args:
        paths: Files.
        again: Those that are going to be written again: links among them stay links.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.realpath(path) if path in again else path)


def publish(contents: Mapping[str, bytes], outdated: Iterable[str]) -> None:
    """Put files in place of those of an earlier run; where there is no room, nothing changes.

    Args:
        contents: {path: content}, the mark first: it is put in place last.
        outdated: Paths of the earlier run, to be removed.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            file = stack.enter_context(atomic.atomic_write(path, len(content)))
            file.write(content)
            file.flush()
        remove(outdated, contents)


def check_beside(folder: str, checkpoint_sha256: str) -> None:
    """InputError where a folder holds draws of another checkpoint than log-likelihoods are of."""
    if not outdated("sample.py", folder, LIKELIHOOD):
        return
    mark = os.path.join(folder, MARKS["sample.py"])
    content = jsonfiles.read_json(mark) if os.path.exists(mark) else {}
    identity = content.get(IDENTITY)
    if not isinstance(identity, dict) or identity.get("--model-checkpoint") != checkpoint_sha256:
        raise InputError(
            f"{folder}: holds draws of another checkpoint; log-likelihoods would lie beside what "
            "they are not of: name another --out-dir"
        )


def check_one_run(folder: str) -> None:
    """Refuse an output folder of sample.py in which runs are mixed, or one of which is not whole.

    Files of older versions name no run.

    Raises:
        InputError: If not all outputs there, metrics.json among them, name the same run.
    """
    sidecars = [
        path for path in outdated("sample.py", folder, LIKELIHOOD) if path.endswith(".json")
    ]
    state, mark = (os.path.join(folder, name) for name in (STATE, MARKS["sample.py"]))
    runs = {jsonfiles.read_json(path).get("run") for path in sidecars}
    if mark not in sidecars:
        runs.add(None)
    stopped = os.path.exists(state) and jsonfiles.read_json(state).get("published")
    if stopped or len(runs) > 1:
        raise InputError(
            f"{folder}: holds outputs of different runs, or of one that was stopped while it wrote "
            "them; run sample.py again"
        )
