"""What studies.likelihood shows at its end: one table of all reports, and a figure of two runs."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch

from checks import report
from checks.estimates import Estimate
from checks.posteriors import ExactPosteriors
from diffusion.outputs import TRAJECTORY
from diffusion.trained import Trained
from figures import trajectories
from runtime import atomic, console, drawing, jsonfiles, tables
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray
from studies.runs import SMALL, Files

TABLE, FIGURE = "likelihood.md", "trajectories.png"
SHOWN_ELL = (2, 3, 5, 10)  # of the trajectories
BAND_DRAWS, BAND = 4000, (0.16, 0.84)  # of the exact posterior
INTRODUCTION = (
    "Full sky, ell = 2–31. Excess: squared error of the posterior mean above the exact optimum.",
    "The exact posterior is that under the network's prior. Width: of p(r | y) over the exact one,",
    "median. Limit: 95 %, median over skies, in brackets that of the exact posterior, 10⁻³.",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        observed: What was observed, in words.
        network: What answers.
        evaluation: Folder of its report.json.
        run: Its folder.
    """

    observed: str
    network: str
    evaluation: str
    run: str

    def measured(self) -> Json:
        """What evaluate.py reports of the run.

        Raises:
            InputError: If the report is missing, or has no such run.
        """
        path = os.path.join(self.evaluation, "report.json")
        found: Json = jsonfiles.read_json(path).get("runs", {})
        if self.run not in found:
            raise InputError(f"{path}: has no run {self.run}; run evaluate.py again")
        return found[self.run]


# --- cells -----------------------------------------------------------------------------------


def _estimate(entry: Json | None) -> Estimate | None:
    return None if entry is None else Estimate(entry["value"], entry["error"])


def _plain(entry: Json | None) -> str:
    return "–" if entry is None else f"{entry['value']:.4f}"


def _worst(ratios: list[float] | None) -> str:
    return "–" if ratios is None else f"{max(ratios, key=lambda ratio: abs(ratio - 1)):.3f}"


def _of_r(run: Json, name: str) -> Json | None:
    return run.get("r", {}).get(name)


def _limit(run: Json) -> str:
    limit = _of_r(run, "upper_limit_95")
    if limit is None:
        return "–"
    exact = limit.get("exact_median")
    beside = "" if exact is None else f" ({1e3 * exact:.3f})"
    return f"{1e3 * limit['median']:.3f}{beside}"


def _failed(run: Json) -> str:
    failed = [check["check"] for check in run["checks"] if not check["passed"]]
    return f"{len(failed)} of {len(run['checks'])}"


# a number of the report is a line here
COLUMNS: dict[str, Callable[[Json], str]] = {
    "excess, %": lambda run: report.number(_estimate(run.get("excess_percent"))),
    "attainable correlation, %": lambda run: (
        report.number(_estimate(run["attained_share"]), 100) if "attained_share" in run else "–"
    ),
    "PIT KS of D_ell": lambda run: _plain(run.get("pit_ks")),
    "width of D_ell, worst ell": lambda run: _worst(run.get("width_of_spectrum")),
    "PIT KS of r": lambda run: _plain(_of_r(run, "pit_ks")),
    "width of r": lambda run: report.number(_estimate(_of_r(run, "width_ratio"))),
    "bias of r, σ": lambda run: report.number(_estimate(_of_r(run, "bias")), digits=2),
    "limit": _limit,
    "checks failed": _failed,
}


def markdown(rows: Sequence[Row]) -> str:
    """The table as a Markdown document."""
    cells = []
    for row in rows:
        run = row.measured()
        cells.append((row.observed, row.network, *(cell(run) for cell in COLUMNS.values())))
    table = report.table(("observations", "network", *COLUMNS), cells)
    return "\n".join([*INTRODUCTION, "", *table]) + "\n"


def write_table(out_dir: str, rows: Sequence[Row]) -> None:
    """Write the table, and print it."""
    text, path = markdown(rows), os.path.join(out_dir, TABLE)
    atomic.write_bytes(path, text.encode())
    console.print_result(text)
    console.print_result(f"wrote {path}")


# --- the figure ------------------------------------------------------------------------------


def trajectory_folders(out_dir: str) -> tuple[str, str]:
    """Folders of the runs without and with the likelihood."""
    return f"{out_dir}/runs/trajectory_recipe", f"{out_dir}/runs/trajectory_likelihood"


def exact_band(files: Files, row: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Observation, truth, and 16 and 84 % of the exact posterior, shape (2, n_ell), uK^2."""
    observed = tables.load_spectra(files.path("dl_noisy"))
    truth = tables.load_spectra(files.path("dl_gt"))
    y = np.asarray(observed.values[row : row + 1])
    record = observed.record
    exact = ExactPosteriors.of_spectra(y, record.contaminants, record.prior)
    assert exact.x is not None
    draws = exact.x.rvs(BAND_DRAWS, np.random.default_rng(0))[0]
    return y[0], np.asarray(truth.values[row]), np.quantile(draws, BAND, axis=0)


def write_trajectories(out_dir: str, row: int = 0) -> None:
    """Draw one row's way from noise to data, without the likelihood and with it."""
    spectrum = Trained.load(f"{out_dir}/VE_10k.pth").normalizer.spectrum

    def normalised(dl: FloatArray) -> FloatArray:
        return spectrum.normalize(torch.tensor(dl)).double().numpy()[..., place]

    place = np.array(SHOWN_ELL) - 2
    y, truth, band = map(normalised, exact_band(Files(f"{out_dir}/data", SMALL), row))
    states = [np.load(f"{folder}/{TRAJECTORY}") for folder in trajectory_folders(out_dir)]
    without, given = (trajectories.Trajectory(each[:, 0], each[:, 1 + place]) for each in states)
    marks = trajectories.Marks(np.array(SHOWN_ELL), y, truth, band)
    path = os.path.join(out_dir, FIGURE)
    drawing.write_figure(path, lambda: trajectories.side_by_side(without, given, marks))
    console.print_result(f"wrote {path}")
