"""What maps of part of the sky hold: the powers behind spectra whose law is unknown."""

import dataclasses
from typing import Any, Self

import numpy as np

from runtime.jsonfiles import Json
from runtime.packed import pack, unpack
from runtime.priors import FloatArray, Prior, read_array


@dataclasses.dataclass(frozen=True, eq=False)
class MapPowers:
    """What maps of part of the sky hold, whose spectra have no law that is known.

    Powers are D_ell at ell = 2 ... 3 nside - 1, through beam and window, shape (n_ell,), uK^2.

    Attributes:
        prior: Of the primordial power.
        dl_contaminant: All else on the sky that is Gaussian and has the same power in all skies.
        dl_foregrounds: Of an ensemble in which skies differ: some shapes of what is added to that,
            each of any amplitude, shape (k, n_ell); None where the law of maps is known.
        fixed_modes: Coefficients of a foreground that is the same in all skies, as
            sky.harmonics orders them, shape (n_modes,), uK; None without one.
    """

    prior: Prior
    dl_contaminant: FloatArray
    dl_foregrounds: FloatArray | None = None
    fixed_modes: FloatArray | None = None

    @property
    def law_known(self) -> bool:
        """Whether the law of maps is known, given r."""
        return self.dl_foregrounds is None

    @classmethod
    def from_json(cls, content: Any) -> Self | None:
        """From the entry of a sidecar; None where there is none.

        Raises:
            ValueError: If the entry is damaged.
        """
        if content is None:
            return None
        try:
            prior, foregrounds = Prior.from_json(content), read_array(content, "dl_foregrounds")
            contaminant = np.array(content["dl_contaminant"], float)
            fixed = None if "fixed_modes" not in content else unpack(content["fixed_modes"])
        except (AttributeError, KeyError, TypeError):
            raise ValueError("map_powers is damaged") from None
        n_ell = contaminant.size
        powers = [contaminant, *([] if foregrounds is None else foregrounds)]
        powers += [] if prior.dl_signal is None else [prior.dl_signal]
        powers += [] if prior.signal_template is None else [*prior.signal_template.dl_per_r]
        for power in powers:
            if power.shape != (n_ell,) or not (np.isfinite(power) & (power >= 0)).all():
                raise ValueError("map_powers is damaged")
        if fixed is not None and fixed.shape != ((n_ell + 2) ** 2 - 4,):
            raise ValueError("map_powers is damaged")
        return cls(prior, contaminant, foregrounds, fixed)

    def to_json(self) -> Json:
        """Entry of a sidecar."""
        content = self.prior.to_json() | {"dl_contaminant": self.dl_contaminant.tolist()}
        if self.dl_foregrounds is not None:
            content["dl_foregrounds"] = self.dl_foregrounds.tolist()
        if self.fixed_modes is not None:
            content["fixed_modes"] = pack(self.fixed_modes)
        return content
