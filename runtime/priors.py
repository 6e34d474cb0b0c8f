"""Priors of what is inferred: parameters over their ranges, and the signal that they predict."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from runtime.jsonfiles import Json, to_json

FloatArray = npt.NDArray[np.float64]

RESERVED_NAMES = ("posterior", "effective")  # of files that are not draws of a parameter


def field_names(cls: type) -> list[str]:
    """Names of the fields of a dataclass."""
    return [field.name for field in dataclasses.fields(cls)]


def read_array(content: Mapping[str, Any], name: str) -> FloatArray | None:
    """An array of a JSON object; None where it is not there."""
    values = content.get(name)
    return None if values is None else np.asarray(values, float)


@dataclasses.dataclass(frozen=True, eq=False)
class SignalTemplate:
    """Primordial BB at any r of a range, from its values at a few.

    D_ell / r varies with r through the tilt alone, so slowly that the polynomial through six
    Chebyshev nodes is as good as CAMB (1e-4, up to r_max = 1).

    Attributes:
        r_nodes: Tensor-to-scalar ratios, shape (k,).
        dl_per_r: D_ell / r there, shape (k, n_ell), uK^2.
    """

    r_nodes: FloatArray
    dl_per_r: FloatArray

    def __call__(self, r: FloatArray) -> FloatArray:
        """D_ell at each r, shape (n, n_ell), uK^2; r of shape (n,)."""
        from scipy.interpolate import BarycentricInterpolator

        polynomial = BarycentricInterpolator(self.r_nodes, self.dl_per_r, rng=0)
        with np.errstate(divide="ignore", invalid="ignore"):  # at a node, whose value it puts in
            return r[:, None] * polynomial(r)


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a simulator, uniform over a range.

    Attributes:
        name: Such as r: a letter, then letters, digits and underscores.
        low: Lower end of the range.
        high: Upper end.

    Raises:
        ValueError: If the name or the range is none.
    """

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", self.name) or self.name in RESERVED_NAMES:
            raise ValueError(
                f"{self.name!r} is no name of a parameter: take a letter, then letters, digits and "
                f"underscores, and none of {', '.join(RESERVED_NAMES)}"
            )
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"{self.name}: {self.low:g} to {self.high:g} is no range")

    def __str__(self) -> str:
        return f"{self.name} {self.low:g} {self.high:g}"

    @property
    def span(self) -> float:
        """Length of the range."""
        return self.high - self.low

    def contains(self, values: FloatArray) -> bool:
        """Whether all values lie within the range and none on its edges."""
        return bool((values > self.low).all() and (values < self.high).all())


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """Prior of parameters and of the realised spectrum; a field that is unknown is None.

    Attributes:
        r: The one tensor-to-scalar ratio of all rows.
        parameters: What varies from row to row, each uniform over its range.
        dl_signal: Expected primordial D_ell at r, through the beam, shape (n_ell,), uK^2.
        signal_template: The same at any r of r_range.
        mean_dl: Mean D_ell of training rows, shape (n_ell,), uK^2.
    """

    r: float | None = None
    parameters: tuple[Parameter, ...] = ()
    dl_signal: FloatArray | None = None
    signal_template: SignalTemplate | None = None
    mean_dl: FloatArray | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Prior from the keys of a sidecar or checkpoint.

        Raises:
            ValueError: If a range or signal_template is damaged.
        """
        return cls(
            r=content.get("r"),
            parameters=_read_parameters(content),
            dl_signal=read_array(content, "dl_signal"),
            signal_template=_read_signal_template(content),
            mean_dl=read_array(content, "mean_dl"),
        )

    def to_json(self) -> Json:
        """The keys of a sidecar or checkpoint; a prior of r alone has r_range alone."""
        ranges = {each.name: [each.low, each.high] for each in self.parameters}
        content: Json = {"r": self.r, "r_range": ranges.get("r")}
        content["parameters"] = ranges if ranges.keys() - {"r"} else None
        for name in ("dl_signal", "signal_template", "mean_dl"):
            content[name] = to_json(getattr(self, name))
        return {name: value for name, value in content.items() if value is not None}

    def first_multipoles(self, n_ell: int) -> Self:
        """The same at ell = 2, 3, ..., n_ell multipoles of those that there are."""
        template = self.signal_template
        if template is not None:
            template = dataclasses.replace(template, dl_per_r=template.dl_per_r[:, :n_ell])
        signal, mean = (None if dl is None else dl[:n_ell] for dl in (self.dl_signal, self.mean_dl))
        return dataclasses.replace(self, dl_signal=signal, signal_template=template, mean_dl=mean)

    @property
    def r_range(self) -> tuple[float, float] | None:
        """(r_min, r_max) where r varies from row to row."""
        return next(((each.low, each.high) for each in self.parameters if each.name == "r"), None)

    @property
    def r_or_range(self) -> float | list[float] | None:
        """r, or the two ends of its range, as reports print it."""
        return self.r if self.r_range is None else list(self.r_range)


def _read_parameters(content: Mapping[str, Any]) -> tuple[Parameter, ...]:
    r_range = content.get("r_range")
    ranges = content.get("parameters") or ({} if r_range is None else {"r": r_range})
    try:
        return tuple(Parameter(name, *ends) for name, ends in ranges.items())
    except (AttributeError, TypeError, ValueError):
        raise ValueError("r_range or parameters is damaged") from None


def _read_signal_template(content: Mapping[str, Any]) -> SignalTemplate | None:
    if "signal_template" not in content:
        return None
    names = field_names(SignalTemplate)
    try:
        arrays = {name: np.array(content["signal_template"][name], float) for name in names}
        low, high = content["r_range"]
        finite = all(np.isfinite(value).all() for value in arrays.values())
        in_order = 0 <= low < high < math.inf
    except (KeyError, TypeError, ValueError):
        finite = in_order = False
    if not finite or not in_order:
        raise ValueError("r_range or signal_template is damaged")
    if arrays["dl_per_r"].shape[:1] != arrays["r_nodes"].shape or arrays["dl_per_r"].ndim != 2:
        raise ValueError("signal_template has not one spectrum per r")
    return SignalTemplate(**arrays)
