"""Files of a simulation: their names, what they hold, and how rows are streamed into them."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from runtime import atomic, tables
from runtime.records import Record
from sky import cosmology
from sky.simulation import Rows


@dataclasses.dataclass(frozen=True)
class Output:
    """An array of the output.

    Attributes:
        quantity: What it holds.
        unit: Of its values.
        files: Name of the file of each split, with a place for r.
    """

    quantity: str
    unit: str
    files: Mapping[str, str]


OUTPUTS = {  # by their fields of `simulation.Rows`
    "x": Output("primordial BB", "uK^2", {"train": "dl_train_r{}.npy", "test": "dl_gt_r{}.npy"}),
    "y": Output(
        "observed BB", "uK^2", {"train": "dl_train_noisy_r{}.npy", "test": "dl_noisy_r{}.npy"}
    ),
    "r": Output("r", "1", {"train": "r_train_r{}.npy", "test": "r_gt_r{}.npy"}),
}
Paths = dict[str, dict[str, str]]  # {split: {name of an output: file}}


def file_label(r: Sequence[float]) -> str:
    """r, one value or the two ends of a range; 0.00001, and 1e-300 where that would be long.

    No two r have the same label: both forms are the shortest that name the number.
    """

    def one(value: float) -> str:
        if value == 0 or 1e-6 <= value < 1e6:
            return np.format_float_positional(value, trim="-")
        return np.format_float_scientific(value, trim="-")

    return "-".join(map(one, r))


def output_paths(out_dir: str, r: Sequence[float]) -> Paths:
    """Paths of one r, or of a range of r: {split: {"x", "y" and, for a range, "r"}}."""
    names = OUTPUTS if len(r) == 2 else ("x", "y")
    return {
        split: {
            name: os.path.join(out_dir, OUTPUTS[name].files[split].format(file_label(r)))
            for name in names
        }
        for split in ("train", "test")
    }


def size_on_disk(paths: Paths, num_rows: Mapping[str, int], nside: int) -> int:
    """Bytes of the arrays of `output_paths`; what stands beside them is small."""
    n_ell = len(cosmology.multipoles(nside))
    return sum(
        atomic.npy_bytes((rows,) if name == "r" else (rows, n_ell))
        for split, rows in num_rows.items()
        for name in paths[split]
    )


def write_rows(
    stack: contextlib.ExitStack,
    paths: Mapping[str, str],
    chunks: Iterable[Rows],
    shape: tuple[int, int],
    record: Record,
    on_rows: Callable[[int], Any] = lambda m: None,
) -> None:
    """Stream rows to disk.

    Args:
        stack: Puts the files in place when it is closed.
        paths: {"x": file of the truth, "y": of its observation, "r": of r, where each has its own}.
        chunks: Rows, many at a time.
        shape: (n, n_ell).
        record: For all sidecars.
        on_rows: Called with the number of rows after each chunk.
    """
    writers = {}
    for name, path in paths.items():
        output = OUTPUTS[name]
        described = record.replace(quantity=output.quantity, unit=output.unit)
        writer = tables.ArrayWriter(path, shape[:1] if name == "r" else shape, described)
        writers[name] = stack.enter_context(writer)
    for rows in chunks:
        for name, array_writer in writers.items():
            array_writer.append(getattr(rows, name))
        on_rows(len(rows.x))
