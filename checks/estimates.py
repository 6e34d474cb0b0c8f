"""Estimates with their standard errors, and how what is reported becomes JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from runtime.jsonfiles import Json
from runtime.priors import FloatArray

SIGMAS = 3  # a difference counts where it is this many standard errors
LOW_ELL = 8  # multipoles are judged one by one up to here: above, almost nothing can be denoised


T = TypeVar("T")


def known(value: T | None) -> T:
    """A value that cannot be None here: its caller has asked before."""
    assert value is not None
    return value


class Reported:
    """Base of the frozen dataclasses that stand in a report.

    Class attributes:
        NULLABLE: Fields that are null in the JSON where they are None; any other is left out.
        FLAT: Fields, reports themselves, whose entries stand beside those of this one.
    """

    NULLABLE: ClassVar[tuple[str, ...]] = ()
    FLAT: ClassVar[tuple[str, ...]] = ()

    def to_json(self) -> Json:
        """Content of the report, fields in order."""
        content: Json = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is None and field.name not in self.NULLABLE:
                continue
            entry = _entry(value)
            content |= entry if field.name in self.FLAT else {field.name: entry}
        return content


def _entry(value: Any) -> Any:
    if isinstance(value, Reported):
        return value.to_json()
    if isinstance(value, Mapping):
        return {str(key): _entry(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_entry(v) for v in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@dataclasses.dataclass(frozen=True)
class Estimate(Reported):
    """A number and its standard error, in the same unit."""

    value: float
    error: float

    @classmethod
    def mean(cls, values: npt.ArrayLike) -> Self:
        """Mean of independent values, shape (n,), n >= minimums.ROWS["a standard error"]."""
        values = np.asarray(values, float)
        return cls(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))

    @classmethod
    def root_mean(cls, squares: FloatArray) -> Self:
        """Root of the mean of independent squares, shape (n,), n as for `mean`."""
        mean = cls.mean(squares)
        root = float(np.sqrt(mean.value))
        return cls(root, mean.error / (2 * root))

    @classmethod
    def ratio(cls, values: FloatArray, others: FloatArray) -> Self:
        """Mean of values over that of others, of the same independent rows, shape (n,) each."""
        ratio, scale = float(values.mean() / others.mean()), float(others.mean())
        return cls(ratio, cls.mean(values - ratio * others).error / abs(scale))

    def root(self) -> "Estimate":
        """Its root; 0 where noise made it negative."""
        root, most = np.sqrt(max(self.value, 0)), np.sqrt(self.error)
        error = most if self.error > 2 * root * most else self.error / (2 * root)
        return Estimate(float(root), float(error))
