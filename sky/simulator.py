"""What draws rows: truth and observation of the full sky, in one band or in bands that are cleaned.

`sky.masked_simulator` draws those of a part of the sky.
"""

import dataclasses

from runtime.decoupled import DecoupledSpectrum
from runtime.map_powers import MapPowers
from runtime.priors import FloatArray, Prior
from runtime.records import Contaminants, Sky
from sky import cleaning, realisations
from sky.cosmology import IntArray
from sky.observation import Observation, SkyModel, describe_sky
from sky.realisations import Generators

CHUNK_VALUES = 2**18  # values of one array held at a time: 2 MiB, so that memory stays bounded
CHUNK_MODES = 2**20  # the same for coefficients of all bands: 8 MiB
BLOCK_ROWS = 2**14  # rows that share streams of random numbers, and that one process draws


def given(power: FloatArray | None) -> FloatArray:
    """A power that a simulation knows, as it does all of its own."""
    assert power is not None
    return power


def signal_of(prior: Prior, r: FloatArray | None) -> FloatArray:
    """D_ell of given r, shape (n, n_ell), uK^2; of the one r of the prior, (n_ell,)."""
    if prior.signal_template is None or r is None:
        return given(prior.dl_signal)
    return prior.signal_template(r)


def draw_r(prior: Prior, n: int, generators: Generators) -> FloatArray | None:
    """r of the next n rows; None where all have the same."""
    return None if prior.r_range is None else generators["r"].uniform(*prior.r_range, n)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a simulation.

    Attributes:
        x: Realised truth, shape (n, n_ell), uK^2.
        y: Realised observation, the same; of a masked sky at ell = 2 ... 3 nside - 1.
        r: Of each row, shape (n,); None where all have the same.
    """

    x: FloatArray
    y: FloatArray
    r: FloatArray | None = None

    @property
    def u(self) -> FloatArray | None:
        """Sufficient statistic of the map of a masked sky, shape (n, n_modes), 1/uK; else None."""
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Simulator:
    """All that a row needs besides its primordial spectrum.

    Attributes:
        model: Of the sky.
        observation: Of it.
        sky: Expected powers in the bands of the observation.
        weights: Of the bands, known beforehand, shape (n_ell, n_bands).
        contaminants: What these weights leave; `contaminants.law_known` says whether the exact law
            of the observation is known.
    """

    model: SkyModel
    observation: Observation
    sky: cleaning.MultifrequencySky
    weights: FloatArray
    contaminants: Contaminants

    @property
    def edges(self) -> list[int]:
        """Edges of the multipole bins that have weights of their own; one bin without cleaning."""
        hilc = self.observation.cleaning
        return [2, 2 * self.model.nside] if hilc is None else hilc.edges(self.model.nside)

    @property
    def weighs_each_sky(self) -> bool:
        """Whether each sky is cleaned with weights from its own modes, not with `weights`."""
        hilc = self.observation.cleaning
        return hilc is not None and hilc.weights_from == "sky"

    @property
    def ell(self) -> IntArray:
        """Multipoles, shape (n_ell,)."""
        return self.sky.ell

    @property
    def block_rows(self) -> int:
        """Rows that share streams of random numbers."""
        return BLOCK_ROWS

    @property
    def described_sky(self) -> Sky:
        """What a record says of the sky."""
        return describe_sky(self.model, self.observation)

    def map_powers(self, prior: Prior) -> MapPowers | None:
        """What a record says of maps of part of the sky; None of the full sky."""
        return None

    @property
    def decoupled(self) -> DecoupledSpectrum | None:
        """What makes bandpowers of observations of part of the sky; None of the full sky."""
        return None

    @property
    def chunk_rows(self) -> int:
        """Rows held at a time."""
        n_bands, n_ell = len(self.sky.dl_noise), len(self.ell)
        if not self.weighs_each_sky:
            return max(1, CHUNK_VALUES // n_ell)
        return max(1, CHUNK_MODES // (n_bands * int(self.sky.nu.sum())))

    def draw(
        self, dl_signal: FloatArray, n: int, generators: Generators
    ) -> tuple[FloatArray, FloatArray]:
        """Truth and observation of n skies, each (n, n_ell), uK^2.

        Args:
            dl_signal: Primordial D_ell through the beam, shape (n_ell,) or (n, n_ell), uK^2.
            n: Number of skies.
            generators: See `realisations.draw_pairs`.
        """
        if self.weighs_each_sky:
            return cleaning.draw_cleaned(self.sky, dl_signal, self.edges, n, generators)
        parts = self.contaminants
        contaminant = parts.mean_gaussian
        if self.sky.foregrounds.varied:
            foreground = self.sky.foregrounds.components(n, generators["parameters"])
            contaminant = given(parts.dl_lensing) + given(parts.dl_noise)
            contaminant = contaminant + foreground.residual(self.weights)
        fixed = given(parts.dl_fixed_foreground)
        powers = realisations.ExpectedPowers(self.ell, dl_signal, given(contaminant), fixed)
        return realisations.draw_pairs(powers, n, generators)

    def draw_rows(self, prior: Prior, n: int, generators: Generators) -> Rows:
        """The next n rows.

        Args:
            prior: From `make_prior`.
            n: Number of rows.
            generators: Of one r, or of a range; they advance.
        """
        r = draw_r(prior, n, generators)
        x, y = self.draw(signal_of(prior, r), n, generators)
        return Rows(x, y, r)
