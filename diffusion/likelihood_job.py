"""Log-likelihoods as a job: rows of files, block by block, into log_likelihood.npy."""

import contextlib
import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch

import sde_utils
from diffusion import likelihood, parameters
from diffusion.dynamics import Dynamics, Frame
from diffusion.jobs import network_bytes
from diffusion.observations import Given
from diffusion.trained import Trained
from runtime import atomic, console, devices, resources, tables
from runtime.errors import DivergedError, InputError
from runtime.priors import FloatArray
from runtime.records import Record
from runtime.workers import Workers

BLOCK_ROWS = 256  # small, so that a test set keeps all threads busy

# (D_ell of rows, which rows these are) -> log p of their exact law, shape (n,)
ExactLaw = Callable[[FloatArray, slice], FloatArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Spectra whose likelihood is asked for, row for row with what they are conditioned on.

    Attributes:
        dl: D_ell, shape (n, n_ell), uK^2, perhaps on disk.
        theta: Parameters, shape (n, n_param).
        y: Observed D_ell, shape (n, n_cond), uK^2; None for an unconditional model.

    A model without spectra or parameters has none of their columns.
    """

    dl: np.ndarray
    theta: np.ndarray
    y: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.dl)

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.dl[rows], self.theta[rows], None if self.y is None else self.y[rows])


@dataclasses.dataclass(frozen=True, eq=False)
class LogLikelihoods:
    """Logarithms of densities per uK^2 of each multipole (and per unit of r), shape (n,).

    Attributes:
        model: Of a score model.
        exact: Of the exact law; None where it is unknown.
    """

    model: FloatArray
    exact: FloatArray | None = None


def _dynamics(trained: Trained, y: torch.Tensor | None) -> Dynamics:
    velocity_fn = sde_utils.make_velocity_fn(trained.network, y)
    return Dynamics(trained.sde, velocity_fn, frame=Frame.of(trained.network.start, y))


def of_spectra(trained: Trained, rows: Rows) -> FloatArray:
    """log p of spectra, and of r where that is diffused too, given observations or not.

    Args:
        trained: The model; rows are computed on its device.
        rows: As many as fit into memory.

    Returns:
        Logarithm of the density per uK^2 of each multipole (and per unit of r), shape (n,).

    Raises:
        DivergedError: If one is not finite.
    """
    parts = [torch.tensor(values, dtype=torch.float64) for values in (rows.dl, rows.theta)]
    x, y = trained.normalizer.normalize(*parts).to(trained.device), None
    if rows.y is not None and trained.cond_normalizer is not None:
        y = trained.cond_normalizer.normalize(torch.tensor(rows.y, dtype=torch.float64))
        y = y.to(trained.device)
    with torch.no_grad():
        result = likelihood.log_likelihood(_dynamics(trained, y), x)
    result = result.cpu() + trained.normalizer.log_jacobian(*parts)
    if not result.isfinite().all():
        raise DivergedError("--log-likelihood: not finite; the network may be untrained")
    return result.numpy()


def gather(given: Given, trained: Trained) -> Rows:
    """What the likelihood is asked of: spectra, parameters, or both, as the model has them.

    Args:
        given: Tables that fit the model.
        trained: The model.

    Raises:
        InputError: If one is missing, or has no logarithm.
    """
    for flag, table, wanted in (
        ("--data-file-gt", given.truth, trained.architecture.n_ell > 0),
        ("--param-file-gt", given.parameters, trained.joint),
    ):
        if wanted and table is None:
            raise InputError(f"--log-likelihood: needs {flag}, for the checkpoint models it")
    if given.truth is not None:
        advice = "log p is known of spectra above 0 alone; leave such rows out"
        tables.check_positive(given.truth, advice)
    known = [table for table in (given.truth, given.parameters) if table is not None]
    empty = np.empty((len(known[0].values), 0))
    dl = empty if given.truth is None else given.truth.values
    theta = empty if given.parameters is None else parameters.as_rows(given.parameters.values)
    return Rows(dl, theta, None if given.observed is None else given.observed.values)


def announce(trained: Trained, n: int, folder: str, threads: int) -> None:
    """One line on stderr: how long and how large the work is, by the time of one derivative.

    Args:
        trained: The model, on its device.
        n: Number of rows.
        folder: Of the outputs.
        threads: Blocks of rows that are computed at a time.
    """
    sizes, rows, device = trained.architecture, min(n, BLOCK_ROWS), trained.device
    y = torch.zeros(rows, sizes.n_cond, device=device) if sizes.conditional else None
    velocity_fn = _dynamics(trained, y).velocity_fn
    t, v = torch.tensor(0.5, device=device), torch.zeros(rows, sizes.n_dim, device=device)
    pull_back = torch.func.vjp(lambda v: velocity_fn(v, t), v)[1]
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        float(pull_back(v)[0][0, 0])  # waits for a GPU
    derivatives = (2 * likelihood.NUM_STEPS + 1) * sizes.n_dim
    num_blocks = -(-n // BLOCK_ROWS)
    threads = min(threads, num_blocks)
    seconds = num_blocks / threads * derivatives * (time.monotonic() - began)
    work = (
        f"{n:,} spectra, {derivatives:,} derivatives each: about {console.format_duration(seconds)}"
    )
    work += f" on {device} with {devices.count_threads(threads)}"
    # states, and what is exact
    memory = resources.peak_memory() + 1e8 + threads * 64 * 8 * rows * sizes.n_dim
    memory += 2 * (threads - 1) * network_bytes(sizes, rows)  # forward and back
    resources.announce(work, memory, atomic.npy_bytes((n,)), folder)


def compute(
    trained: Trained, rows: Rows, exact_law: ExactLaw | None, threads: int = 1
) -> LogLikelihoods:
    """Log-likelihoods under a model, and under the exact law where that is known.

    Args:
        trained: The model, on its device.
        rows: Of any number.
        exact_law: Of the same rows; None where it is unknown.
        threads: Blocks of rows that are computed at a time.

    Raises:
        DivergedError: If one is not finite.
    """
    model, exact = np.empty(len(rows)), None if exact_law is None else np.empty(len(rows))
    starts = range(0, len(rows), BLOCK_ROWS)
    chosen = (slice(first, min(first + BLOCK_ROWS, len(rows))) for first in starts)
    finished = Workers(threads).finished(lambda part: of_spectra(trained, rows[part]), chosen)
    with console.progress(total=len(rows), unit="spectrum") as bar, contextlib.closing(finished):
        for part, log_p in finished:
            model[part] = log_p
            if exact_law is not None and exact is not None:
                exact[part] = exact_law(rows.dl[part], part)
            bar.update(len(log_p))
            tables.release(rows.dl)
    return LogLikelihoods(model, exact)


def write(path: str, log_p: FloatArray, record: Record) -> None:
    """Write log-likelihoods of a model with their sidecar.

    Args:
        path: Target.
        log_p: Shape (n,).
        record: What is known beside quantity, unit and steps.
    """
    record = record.replace(
        quantity="log-likelihood",
        unit="nat, of a density per uK^2",
        extra={**record.extra, "steps": likelihood.NUM_STEPS},
    )
    tables.write_array(path, log_p, record)
