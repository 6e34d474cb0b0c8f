"""Draws, and the arrays on disk that they become: name, quantity, unit and shape of each, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from diffusion.blocks import Blocks
from runtime.priors import FloatArray

QUANTILES = (0.16, 0.5, 0.84)
TRAJECTORY = "trajectory.npy"  # states of one row, which only sample.py --plot-trajectories writes


@dataclasses.dataclass(frozen=True, eq=False)
class PosteriorDraws:
    """Draws of the posterior of each observation.

    Attributes:
        dl: D_ell, float64, shape (n, num_draws, n_ell), uK^2.
        r: Tensor-to-scalar ratio, shape (n, num_draws); None where the model has no r.
    """

    dl: FloatArray
    r: FloatArray | None = None


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that sample.py writes: a row for each observation or generated spectrum.

    Attributes:
        name: File.
        quantity: For its sidecar.
        axes: Of a row: "draw", "quantile", "ell".
        rows: Callable (dl, r) -> rows of it, from draws of shapes (n, num_draws, n_ell), in uK^2,
            and (n, num_draws).
        unit: For its sidecar.
    """

    name: str
    quantity: str
    axes: tuple[str, ...]
    rows: Callable[[FloatArray, FloatArray | None], FloatArray | None]
    unit: str = "uK^2"

    def shape(self, blocks: Blocks, n_ell: int) -> tuple[int, ...]:
        """Of the whole array."""
        sizes = {"draw": blocks.num_draws, "quantile": len(QUANTILES), "ell": n_ell}
        return (blocks.num_samples, *(sizes[axis] for axis in self.axes))


POSTERIOR = (
    Output("denoised.npy", "posterior mean BB", ("ell",), lambda dl, r: dl.mean(1)),
    Output("posterior_draws.npy", "posterior BB", ("draw", "ell"), lambda dl, r: dl),
    Output(
        "posterior_std.npy",
        "posterior standard deviation of BB",
        ("ell",),
        lambda dl, r: dl.std(1),
    ),
    Output(
        "posterior_quantiles.npy",
        "posterior quantiles of BB",
        ("quantile", "ell"),
        lambda dl, r: np.quantile(dl, QUANTILES, axis=1).swapaxes(0, 1),
    ),
)
JOINT_POSTERIOR = (
    *POSTERIOR,
    Output("r_draws.npy", "posterior r", ("draw",), lambda dl, r: r, unit="1"),
)
RECIPE = (Output("denoised.npy", "denoised BB", ("ell",), lambda dl, r: dl[:, 0]),)
GENERATED = (Output("generated.npy", "generated BB", ("ell",), lambda dl, r: dl[:, 0]),)
