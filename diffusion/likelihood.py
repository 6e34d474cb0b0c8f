"""Log-likelihoods of spectra under a score model, from its probability-flow ODE.

Along the flow d log p/dt is minus the divergence of the velocity (Song et al. 2021,
arXiv:2011.13456, section 4.3 and appendix D.2). In theta = atan(sigma/alpha) and
v = x / sqrt(alpha^2 + sigma^2), see `sde_utils`, the flow takes v_0 = x cos(theta_0) at
sigma/alpha = U_MIN to v_1 at t = 1, and
    log p(x) = log N(v_1; m cos(theta_1), s^2) + n_dim log cos(theta_0)
               + int_theta_0^theta_1 tr(d slope/dv) dtheta,
with m = 0, s = 1 for data of unit variance, and m = E[x_0 | y], s = sin(theta_1) for posteriors.
It is the density of data with noise U_MIN on top: what that changes has mean 0 to order U_MIN^2.
"""

import math
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

import sde_utils
from checks.exact import GaussianPosterior, degrees
from diffusion.dynamics import Dynamics
from runtime import atomic, console, resources, tables
from runtime.errors import DivergedError, InputError

NUM_STEPS = 8  # of Runge-Kutta, whose error is of fourth order: tests/diffusion/test_likelihood.py
BLOCK_ROWS = 1024


def divergence(
    slope: Callable[[torch.Tensor], torch.Tensor], v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(slope(v), trace of its Jacobian), shapes (n, n_dim) and (n,): one derivative a column.

    Args:
        slope: Callable, rows (n, n_dim) to rows of that shape, each from its own alone.
        v: Shape (n, n_dim).
    """
    value, pull_back = torch.func.vjp(slope, v)[:2]
    total = v.new_zeros(len(v))
    for column in torch.eye(v.shape[1], dtype=v.dtype, device=v.device):
        total = total + pull_back(column.expand_as(v))[0] @ column
    return value, total.double()


def _start_mean(dynamics: Dynamics, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[x_0 | y] where noise drowns all but the mean: two fixed-point iterations from 0.

    At x itself the denoiser would follow x, and make the quadratic form of its prior too small.
    """
    mean = 0 * x
    for _ in range(2):
        mean = dynamics.denoise(dynamics.sde.alpha(t) * mean, t)
    return mean


def log_likelihood(
    dynamics: Dynamics, x: torch.Tensor, conditional: bool, num_steps: int = NUM_STEPS
) -> torch.Tensor:
    """log p(x), or log p(x | y), in nats.

    Runge-Kutta steps of fourth order up in theta, with the divergence by Simpson's rule at their
    ends and their middles, where v is that of the Hermite polynomial.

    Args:
        dynamics: SDE and velocity; with y, a row for each of x, closed over.
        x: Normalised rows, shape (n, n_dim).
        conditional: Whether the prior at t = 1 is that of a posterior, see `_start_mean`.
        num_steps: Runge-Kutta steps.

    Returns:
        float64 tensor of shape (n,).
    """
    sde = dynamics.sde
    times = sde_utils.reverse_times(sde, 1, num_steps).flip(0)
    angles = sde_utils.angle(sde, times)

    def slope_at(theta: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        t = sde.time(theta.tan())
        return lambda v: dynamics.slope(v, t)

    v = angles[0].cos() * x
    slope, trace = divergence(slope_at(angles[0]), v)
    total = x.shape[1] * angles[0].cos().log()
    for here, there in zip(angles[:-1], angles[1:], strict=True):
        h, at_middle = there - here, slope_at((here + there) / 2)
        second = at_middle(v + h / 2 * slope)
        third = at_middle(v + h / 2 * second)
        fourth = slope_at(there)(v + h * third)
        v_next = v + h / 6 * (slope + 2 * second + 2 * third + fourth)
        slope_next, trace_next = divergence(slope_at(there), v_next)
        middle = (v + v_next) / 2 + h / 8 * (slope - slope_next)
        _, trace_middle = divergence(at_middle, middle)
        total = total + h / 6 * (trace + 4 * trace_middle + trace_next)
        v, slope, trace = v_next, slope_next, trace_next
    mean, std = torch.zeros(()), 1.0
    if conditional:
        mean = angles[-1].cos() * _start_mean(dynamics, x, times[-1])
        std = math.sin(angles[-1])
    z = ((v - mean) / std).double()
    return total - z.square().sum(1) / 2 - x.shape[1] * math.log(std * math.sqrt(2 * math.pi))


def of_spectra(checkpoint, dl, r, y, device):
    """log p of spectra, and of r where that is diffused too, given observations or not.

    Args:
        checkpoint: From checkpoints.load, its network on the device.
        dl: D_ell, float64 array (n, n_ell), uK^2.
        r: Their r, shape (n,), or None.
        y: Observed D_ell, shape (n, n_ell), or None.
        device: torch.device.

    Returns:
        Logarithm of the density per uK^2 of each multipole (and per unit of r), shape (n,).

    Raises:
        DivergedError: If one is not finite.
    """
    parts = [torch.tensor(a, dtype=torch.float64) for a in (dl, r) if a is not None]
    x, sde = checkpoint["normalizer"].normalize(*parts).to(device), checkpoint["sde"]
    if y is not None:
        y = checkpoint["cond_normalizer"].normalize(torch.tensor(y, dtype=torch.float64)).to(device)
    dynamics = Dynamics(sde, sde_utils.make_velocity_fn(checkpoint["network"], y))
    with torch.no_grad():
        result = log_likelihood(dynamics, x, y is not None).cpu()
    result = result + checkpoint["normalizer"].log_jacobian(*parts)
    if not result.isfinite().all():
        raise DivergedError("--log-likelihood: not finite; the network may be untrained")
    return result.numpy()


def exact_law(observed, prior):
    """Function (D_ell, rows) -> log p, shape (n,), of the exact law or posterior; None if unknown.

    Args:
        observed: storage.Table of the observations, of which `rows` is a slice; or None for the
            law S chi^2_nu / nu.
        prior: Metadata of the training data.
    """
    if not prior.get("r") or "dl_signal" not in prior or prior.get("quantity") != "primordial BB":
        return None
    signal = np.array(prior["dl_signal"])
    if observed is None:
        nu = degrees(len(signal))
        return lambda dl, rows: stats.chi2.logpdf(dl, nu, scale=signal / nu).sum(1)
    N, F = observed.theory("dl_contaminant"), observed.theory("dl_fixed_foreground")
    same_r = observed.metadata.get("r") in (None, prior["r"])
    if N is None or not same_r or (F is not None and F.any()):
        return None

    def posterior(dl, rows):
        return GaussianPosterior(observed.values[rows], signal, N).logpdf(dl).sum(1)

    return posterior


def report(log_p, log_exact):
    """Mean log-likelihood, in nats with its standard error, and what it lacks to the exact one.

    The mean difference is the Kullback-Leibler divergence of the model from the exact law, of
    which the rows are draws.
    """

    def estimate(values):
        error = float(values.std() / math.sqrt(max(1, len(values) - 1)))
        return {"value": float(values.mean()), "error": error}

    entry = {"log_likelihood": estimate(log_p)}
    if log_exact is not None:
        entry["exact_log_likelihood"] = estimate(log_exact)
        entry["kullback_leibler"] = estimate(log_exact - log_p)
    return entry


def load_truth(path, param_path, n_ell, joint):
    """(D_ell, r) whose likelihood is asked for, r None without a parameter; InputError if unfit."""
    truth = tables.load_spectra(path)
    if truth.values.shape[1] != n_ell:
        raise InputError(f"{path}: has {truth.values.shape[1]} multipoles, the model {n_ell}")
    if tables.minimum(truth.values) <= 0:
        raise InputError(f"{path}: holds zeros, which have no logarithm")
    if not joint:
        if param_path:
            raise InputError(f"{param_path}: the checkpoint has no r; leave --param-file-gt out")
        return truth.values, None
    if not param_path:
        raise InputError("--log-likelihood: the checkpoint holds r too; add --param-file-gt")
    r = tables.load_r(param_path).values
    if len(r) != len(truth.values):
        raise InputError(f"{param_path}: has {len(r)} rows, {path} {len(truth.values)}")
    return truth.values, r


def announce(checkpoint, n, device, folder):
    """Say beforehand how long and how large the work is, by the time of one derivative."""
    kwargs = checkpoint["network_kwargs"]
    n_dim, rows = kwargs["n_ell"] + kwargs["n_param"], min(n, BLOCK_ROWS)
    y = torch.zeros(rows, kwargs["n_cond"], device=device) if kwargs["n_cond"] else None
    velocity_fn = sde_utils.make_velocity_fn(checkpoint["network"], y)
    t, v = torch.tensor(0.5, device=device), torch.zeros(rows, n_dim, device=device)
    _, pull_back = torch.func.vjp(lambda v: velocity_fn(v, t), v)
    for _ in range(2):  # the first one warms up
        began = time.monotonic()
        float(pull_back(v)[0][0, 0])  # waits for a GPU
    derivatives = (2 * NUM_STEPS + 1) * n_dim
    seconds = -(-n // BLOCK_ROWS) * derivatives * (time.monotonic() - began)
    work = (
        f"{n:,} spectra, {derivatives:,} derivatives each: about {console.format_duration(seconds)}"
    )
    memory = resources.peak_memory() + 1e8 + 64 * 8 * rows * n_dim  # states, and what is exact
    resources.announce(f"{work} on {device}", memory, atomic.npy_bytes((n,)), folder)


def write(out_dir, checkpoint, truth, observed, device, metadata):
    """Compute log-likelihoods, and write log_likelihood.npy and log_likelihood_metrics.json.

    Args:
        out_dir: Folder of the outputs.
        checkpoint: From checkpoints.load.
        truth: From `load_truth`.
        observed: storage.Table of the observations, or None.
        device: torch.device.
        metadata: For the sidecar.
    """
    names = "log_likelihood.npy", "log_likelihood_metrics.json"
    paths = [os.path.join(out_dir, name) for name in names]
    (dl, r), n = truth, len(truth[0])
    atomic.claim_outputs(paths, atomic.npy_bytes((n,)))
    checkpoint["network"].to(device)
    announce(checkpoint, n, device, out_dir)
    law = None if r is not None else exact_law(observed, checkpoint["data"])
    log_p, log_exact = [], []
    with console.progress(total=n, unit="spectrum") as bar:
        for first in range(0, n, BLOCK_ROWS):
            rows = slice(first, min(first + BLOCK_ROWS, n))
            given = [None if a is None else a[rows] for a in (r, observed and observed.values)]
            log_p.append(of_spectra(checkpoint, dl[rows], *given, device))
            if law is not None:
                log_exact.append(law(dl[rows], rows))
            bar.update(rows.stop - rows.start)
            tables.release(dl)
    log_p = np.concatenate(log_p)
    own = {"quantity": "log-likelihood", "unit": "nat, of a density per uK^2", "steps": NUM_STEPS}
    tables.write_array(paths[0], log_p, metadata | own)
    entry = report(log_p, np.concatenate(log_exact) if log_exact else None)
    atomic.write_json(paths[1], {"num_samples": len(log_p), **entry})
    for name, number in entry.items():
        console.print_result(f"{name} {number['value']:.4f} +- {number['error']:.4f} nats")
    console.print_result(f"wrote {resources.format_files(paths)}")
