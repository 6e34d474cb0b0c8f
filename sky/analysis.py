"""How maps of part of the sky are analysed: what is asked for, and all that follows, by content.

An `Analysis` stands in the record of a simulation, and so in the checkpoint of a model that was
trained on it: `sample.py --maps` measures a map with the very one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.packed import pack, unpack
from runtime.priors import FloatArray
from sky import masked
from sky.masked import MaskedSky, QuadraticEstimator, Survey

E_MODES = ("free", "known")
R_FIDUCIAL = 0.001
MAX_NSIDE = 32  # dense matrices of 9212 modes: a gigabyte each
WINDOW = "cosine: 1 up to ell = nside, 0 at 3 nside"


@dataclasses.dataclass(frozen=True, eq=False)
class Masking:
    """Part of the sky that is seen, and how its maps are to be analysed.

    Attributes:
        survey: Its pixels and their noise.
        mask: In words: the flag, or a file.
        e_modes: "free", of any amplitude, all that they can make is left out; or "known", they have
            the power of the cosmology.
        r_fiducial: r of the sky for which the spectrum is the best one.
    """

    survey: Survey
    mask: str = "own"
    e_modes: str = "free"
    r_fiducial: float = R_FIDUCIAL

    def __post_init__(self) -> None:
        if self.survey.nside > MAX_NSIDE:
            raise InputError(
                f"--nside {self.survey.nside}: with --mask it takes matrices of "
                f"{9 * self.survey.nside**2 - 4} modes; use --nside {MAX_NSIDE} or less"
            )
        if self.e_modes not in E_MODES:
            raise InputError(f"--e-modes {self.e_modes}: must be one of {', '.join(E_MODES)}")
        if not 0 <= self.r_fiducial < np.inf:
            raise InputError("--r-fid: must be a number, 0 or above")


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """A masking, and the powers that its statistics take.

    Attributes:
        masking: What is seen and asked for.
        dl_fiducial: Of the sky for which the spectrum is the best one, through beam and window,
            shape (3 nside - 2,), uK^2.
        dl_ee: Of E modes where they are known, likewise; else None.
    """

    masking: Masking
    dl_fiducial: FloatArray
    dl_ee: FloatArray | None = None

    def masked_sky(self) -> MaskedSky:
        """What a map says of its B modes; takes seconds at NSIDE 16, minutes at 32."""
        if self.dl_ee is None:
            return MaskedSky.with_free_e_modes(self.masking.survey)
        return MaskedSky.with_known_e_modes(self.masking.survey, self.dl_ee)

    def estimator(self, sky: MaskedSky) -> QuadraticEstimator:
        """Of the spectrum of `masked_sky`."""
        return QuadraticEstimator.of(sky, self.dl_fiducial)

    def to_json(self) -> Json:
        """Entry of a record."""
        survey = self.masking.survey
        known = {} if self.dl_ee is None else {"dl_ee": self.dl_ee.tolist()}
        return {
            "name": f"{self.masking.mask}, {100 * survey.f_sky:.1f} % of the sky at "
            f"{survey.depth_uk_arcmin:.3g} uK-arcmin",
            "mask": self.masking.mask,
            "nside": survey.nside,
            "f_sky": survey.f_sky,
            "depth_uk_arcmin": survey.depth_uk_arcmin,
            "e_modes": self.masking.e_modes,
            "r_fiducial": self.masking.r_fiducial,
            "window": WINDOW,
            "pixels": pack(survey.pixels),
            "noise": pack(survey.noise),
            "dl_fiducial": self.dl_fiducial.tolist(),
        } | known

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Analysis from the entry of a record.

        Raises:
            ValueError: If the entry is damaged.
        """
        try:
            nside = content["nside"]
            if type(nside) is not int:
                raise ValueError("its nside is no whole number")
            if content["window"] != WINDOW:
                raise ValueError("its window is unknown")
            survey = Survey(nside, unpack(content["pixels"]), unpack(content["noise"]))
            masking = Masking(
                survey, content["mask"], content["e_modes"], float(content["r_fiducial"])
            )
            powers = [
                None if name not in content else np.array(content[name], float)
                for name in ("dl_fiducial", "dl_ee")
            ]
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the analysis of the maps is damaged ({error})") from None
        shape = masked.multipoles(nside).shape
        inside = (survey.pixels >= 0) & (survey.pixels < 12 * nside**2)
        if (
            powers[0] is None
            or any(dl is not None and dl.shape != shape for dl in powers)
            or survey.noise.shape != (len(survey.pixels), 3)
            or not (inside.all() and np.isfinite(survey.noise).all())
            or (masking.e_modes == "known") != (powers[1] is not None)
        ):
            raise ValueError("the analysis of the maps is damaged")
        return cls(masking, powers[0], powers[1])
