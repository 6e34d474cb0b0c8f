"""How far training rows reach in normalised units, and observations that lie beyond.

A network answers any input, also one that no training row resembles: a spectrum in another unit,
C_ell in place of D_ell, multipoles that are off by two. In normalised units such rows stand out.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch

from runtime import console
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray

UNUSUAL, IMPOSSIBLE = 1.25, 2.0  # distances, in units of the reach, of a note and of a refusal
EXPLAINED = 0.8  # distance below which a slip explains a row: of training rows few reach as far
NEAR = 3.0  # nearer than asinh takes values that are 1e6 too large
SMALLEST_REACH, SMALLEST_RMS = 4.0, 1.5  # of few rows, which know no tails
MAX_ROWS = 4096  # of an array of observations, on which causes are tried
UNITS = {  # {factor: the unit that values have, and that which was read}
    1e-12: ("K^2", "uK^2"),
    1e12: ("uK^2", "K^2"),
    1e-6: ("mK^2", "uK^2"),
    1e6: ("uK^2", "mK^2"),
}
QUANTITIES = {1: ("C_ell", "D_ell"), -1: ("D_ell", "C_ell")}  # {power of ell(ell+1)/2pi: likewise}

Normalize = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Reach:
    """The largest values among training rows in normalised units.

    Attributes:
        low: Of -z, over all columns.
        high: Of z.
        rms: Of the root mean square of a row.
    """

    low: float
    high: float
    rms: float

    @classmethod
    def of(cls, blocks: Iterable[torch.Tensor]) -> Self:
        """Of normalised rows (n, n_columns), which come in blocks."""
        low, high, rms = SMALLEST_REACH, SMALLEST_REACH, SMALLEST_RMS
        for z in blocks:
            low, high = max(low, float(-z.min())), max(high, float(z.max()))
            rms = max(rms, float(z.square().mean(1).max().sqrt()))
        return cls(low, high, rms)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From `reach` of a checkpoint; KeyError, TypeError or ValueError where it is damaged."""
        return cls(*(float(content[field.name]) for field in dataclasses.fields(cls)))

    def to_json(self) -> Json:
        """Content of `reach` of a checkpoint."""
        return dataclasses.asdict(self)

    def distance(self, z: torch.Tensor) -> FloatArray:
        """Distances of normalised rows (n, n_columns) in units of the reach, shape (n,).

        A row that has no logarithm is infinitely far.
        """
        sides = (-z.amin(1) / self.low, z.amax(1) / self.high, z.square().mean(1).sqrt() / self.rms)
        return torch.stack(sides).amax(0).nan_to_num(nan=np.inf, posinf=np.inf).double().numpy()

    def depth(self, z: torch.Tensor) -> FloatArray:
        """As `distance`, of low values alone: noise may lift an observation above the signal."""
        return (-z.amin(1) / self.low).nan_to_num(nan=np.inf, posinf=np.inf).double().numpy()


@dataclasses.dataclass(frozen=True)
class Slip:
    """What may have gone wrong with a spectrum.

    Attributes:
        words: What was taken for what.
        undo: Function of D_ell as they were read, shape (n, n_columns).
        of_multipoles: Whether it can only happen where columns are multipoles.
        of_units: Whether it is one of units, which takes rows far away.
    """

    words: str
    undo: Callable[[FloatArray], FloatArray]
    of_multipoles: bool
    of_units: bool = False


def _slips(ell: FloatArray) -> Iterator[Slip]:
    """All slips that are told apart, of spectra at these multipoles."""
    weight = ell * (ell + 1) / (2 * np.pi)
    for (factor, units), (power, names) in itertools.product(
        {1.0: None, **UNITS}.items(), {0: None, **QUANTITIES}.items()
    ):
        if not units and not names:
            continue
        own, read = (
            " in ".join(pair[k] for pair in (names, units) if pair is not None) for k in (0, 1)
        )
        undo = functools.partial(np.multiply, weight**power / factor)
        yield Slip(f"{own} was taken for {read}", undo, bool(power), factor != 1)
    for shift in (-2, -1, 1, 2):
        undo = functools.partial(np.roll, shift=shift, axis=1)
        yield Slip(f"multipoles begin at ell = {2 + shift}, not 2", undo, True)


def likely_cause(
    values: FloatArray, distance: Callable[[FloatArray], FloatArray], is_spectrum: bool
) -> str | None:
    """The one slip that brings rows back to where training rows are; None if none does.

    Args:
        values: Observations, shape (n, n_columns).
        distance: Of rows like these, see `Reach`.
        is_spectrum: Whether columns are multipoles from 2 on.
    """
    ell = np.arange(2.0, 2 + values.shape[1])
    best, cause = EXPLAINED, None
    near = np.median(distance(values)) < NEAR
    for slip in _slips(ell):
        if slip.of_multipoles and not is_spectrum:
            continue
        with np.errstate(over="ignore"):
            undone = slip.undo(values)
            found, twice = (
                float(np.median(distance(rows))) for rows in (undone, slip.undo(undone))
            )
        # asinh of what is far too small is 0, which any unit seems to explain
        explains_all = slip.of_units and near and twice < UNUSUAL
        if found < best and not explains_all:
            best, cause = found, slip.words
    return cause


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """Observations as a model sees them.

    Attributes:
        name: Of their file, for messages.
        values: Shape (n, n_columns), perhaps on disk.
        normalize: To normalised units.
        is_spectrum: Whether columns are multipoles from 2 on.
        raised: Whether they hold more than what the model was trained on, as the recipe's do: then
            only values that are too low are strange.
        noise: What says how much more they hold, where a likelihood expects them.
    """

    name: str
    values: np.ndarray
    normalize: Normalize
    is_spectrum: bool
    raised: bool
    noise: str | None = None

    def distance(self, reach: Reach, values: FloatArray) -> FloatArray:
        """Distances of rows in units of the reach, shape (n,)."""
        with np.errstate(all="ignore"):
            z = self.normalize(torch.tensor(np.asarray(values), dtype=torch.float64))
        return reach.depth(z) if self.raised else reach.distance(z)


def check(reach: Reach, observed: Observed, insist: bool) -> bool:
    """Say where observations lie outside of what the model has seen; whether some do.

    Args:
        reach: Of the training rows.
        observed: The observations.
        insist: Whether rows that lie far outside are taken.

    Raises:
        InputError: If rows lie far outside and nobody insists.
    """
    values, distances = observed.values, []
    for first in range(0, len(values), MAX_ROWS):
        distances.append(observed.distance(reach, np.asarray(values[first : first + MAX_ROWS])))
    distance = np.concatenate(distances)
    outside = distance > UNUSUAL
    if not outside.any():
        return False
    row = int(distance.argmax())
    chosen = np.asarray(values[outside.nonzero()[0][:MAX_ROWS]], float)
    cause = likely_cause(chosen, lambda rows: observed.distance(reach, rows), observed.is_spectrum)
    far = distance > IMPOSSIBLE
    which, where = "the observation lies", ""
    if len(values) > 1:
        which, where = f"{outside.sum():,} of {len(values):,} observations lie", f"row {row} "
    known, row_of = "was trained on", "training"
    if observed.noise is not None:
        known, row_of = f"expects with the noise of {observed.noise}", "simulated"
    message = (
        f"{observed.name}: {which} outside of what the model {known}, {where}"
        f"{distance[row]:.3g} times as far as any {row_of} row"
    )
    message += f"; it looks as if {cause}" if cause else ""
    if far.any() and not insist:
        advice = "say so with --units, --quantity or --ell-min" if cause else "check unit and ell"
        if observed.noise is not None:
            advice += f", or correct {observed.noise}"
        raise InputError(f"{message}; {advice}, or insist with --allow-outliers")
    console.info(f"warning: {message}; what is drawn for them cannot be trusted")
    return True
