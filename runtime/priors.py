"""Priors of what is inferred: parameters over their ranges, and the signal that they predict."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


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

        return r[:, None] * BarycentricInterpolator(self.r_nodes, self.dl_per_r, rng=0)(r)


@dataclasses.dataclass(frozen=True, eq=False)
class Prior:
    """Prior of r and of the realised spectrum; a field that is unknown is None.

    Attributes:
        r: The one tensor-to-scalar ratio of all rows.
        r_range: (r_min, r_max) where r is uniform between them.
        dl_signal: Expected primordial D_ell at r, through the beam, shape (n_ell,), uK^2.
        signal_template: The same at any r of r_range.
        mean_dl: Mean D_ell of training rows, shape (n_ell,), uK^2.
    """

    r: float | None = None
    r_range: tuple[float, float] | None = None
    dl_signal: FloatArray | None = None
    signal_template: SignalTemplate | None = None
    mean_dl: FloatArray | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Prior from the keys of a sidecar or checkpoint.

        Raises:
            ValueError: If r_range or signal_template is damaged.
        """
        r_range = content.get("r_range")
        return cls(
            r=content.get("r"),
            r_range=None if r_range is None else tuple(r_range),
            dl_signal=read_array(content, "dl_signal"),
            signal_template=_read_signal_template(content),
            mean_dl=read_array(content, "mean_dl"),
        )

    @property
    def r_or_range(self) -> float | list[float] | None:
        """r, or the two ends of its range, as reports print it."""
        return self.r if self.r_range is None else list(self.r_range)


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
