"""Draws, and the arrays on disk that they become: name, quantity, unit and shape of each, once."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from diffusion.blocks import Blocks
from runtime.priors import FloatArray
from runtime.run_folder import EFFECTIVE
from runtime.tables import OF_WEIGHTS

QUANTILES = (0.16, 0.5, 0.84)
TRAJECTORY = "trajectory.npy"  # states of one row, which only sample.py --plot-trajectories writes


@dataclasses.dataclass(frozen=True, eq=False)
class PosteriorDraws:
    """Draws of the posterior of each observation.

    Attributes:
        dl: D_ell, float64, shape (n, num_draws, n_ell), uK^2; None where the model has no spectrum.
        parameters: {name: shape (n, num_draws)}; empty where the model has none.
        effective_draws: Independent draws that they are worth, shape (n,); None without weights.
        pareto_k: k-hat of their weights, likewise, see `importance`.
    """

    dl: FloatArray | None
    parameters: Mapping[str, FloatArray] = dataclasses.field(default_factory=dict)
    effective_draws: FloatArray | None = None
    pareto_k: FloatArray | None = None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Draws of all observations of several."""

        def join(arrays: Iterable[FloatArray | None]) -> FloatArray | None:
            known = [array for array in arrays if array is not None]
            return np.concatenate(known) if known else None

        names = parts[0].parameters
        return cls(
            join(part.dl for part in parts),
            {name: np.concatenate([part.parameters[name] for part in parts]) for name in names},
            join(part.effective_draws for part in parts),
            join(part.pareto_k for part in parts),
        )

    @property
    def r(self) -> FloatArray | None:
        """Tensor-to-scalar ratio, shape (n, num_draws); None where the model has no r."""
        return self.parameters.get("r")


def _known(values: FloatArray | None) -> FloatArray:
    assert values is not None
    return values


def known_dl(draws: PosteriorDraws) -> FloatArray:
    """Draws of D_ell of a model that has a spectrum, shape (n, num_draws, n_ell), uK^2."""
    return _known(draws.dl)


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that sample.py writes: a row for each observation or generated spectrum.

    Attributes:
        name: File.
        quantity: For its sidecar.
        axes: Of a row: "draw", "quantile", "ell".
        rows: Callable draws -> rows of it.
        unit: For its sidecar.
        min_draws: Of each observation; with fewer it means nothing and is not written.
    """

    name: str
    quantity: str
    axes: tuple[str, ...]
    rows: Callable[[PosteriorDraws], FloatArray]
    unit: str = "uK^2"
    min_draws: int = 1

    def shape(self, blocks: Blocks, n_ell: int) -> tuple[int, ...]:
        """Of the whole array."""
        sizes = {"draw": blocks.num_draws, "quantile": len(QUANTILES), "ell": n_ell}
        return (blocks.num_samples, *(sizes[axis] for axis in self.axes))


def _first_draw(draws: PosteriorDraws) -> FloatArray:
    return known_dl(draws)[:, 0]


POSTERIOR = (
    Output("denoised.npy", "posterior mean BB", ("ell",), lambda draws: known_dl(draws).mean(1)),
    Output("posterior_draws.npy", "posterior BB", ("draw", "ell"), known_dl),
    Output(
        "posterior_std.npy",
        "posterior standard deviation of BB",
        ("ell",),
        lambda draws: known_dl(draws).std(1),
        min_draws=2,
    ),
    Output(
        "posterior_quantiles.npy",
        "posterior quantiles of BB",
        ("quantile", "ell"),
        lambda draws: np.quantile(known_dl(draws), QUANTILES, axis=1).swapaxes(0, 1),
        min_draws=7,  # one beyond the 84 % quantile
    ),
)
WEIGHTS = (
    Output(EFFECTIVE, OF_WEIGHTS[0], (), lambda draws: _known(draws.effective_draws), unit="1"),
    Output("pareto_k.npy", OF_WEIGHTS[1], (), lambda draws: _known(draws.pareto_k), unit="1"),
)
RECIPE = (Output("denoised.npy", "denoised BB", ("ell",), _first_draw),)
GENERATED = (Output("generated.npy", "generated BB", ("ell",), _first_draw),)


def draws_file(parameter: str) -> str:
    """File of the draws of a parameter."""
    return f"{parameter}_draws.npy"


def of_parameter(name: str) -> Output:
    """The draws of a parameter."""
    quantity = f"posterior {name}"
    rows = operator.itemgetter(name)
    return Output(draws_file(name), quantity, ("draw",), lambda d: rows(d.parameters), unit="1")


def generated_parameter(name: str) -> Output:
    """A parameter of generated spectra, one of each."""
    rows = operator.itemgetter(name)
    return Output(
        f"generated_{name}.npy", f"generated {name}", ("draw",), lambda d: rows(d.parameters), "1"
    )


def load_arrays(paths: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays among the files of a run, on disk."""
    return {k: np.load(v, mmap_mode="r") for k, v in paths.items() if k.endswith(".npy")}
