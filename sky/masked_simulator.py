"""What draws rows of a masked sky: truth of the full sky, spectrum of the part that is seen."""

import dataclasses
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from runtime.decoupled import DecoupledSpectrum
from runtime.errors import InputError
from runtime.map_powers import MapPowers
from runtime.priors import FloatArray, Prior
from runtime.records import Sky
from runtime.shared_arrays import compute_once
from sky import cosmology, masked, realisations
from sky.analysis import Analysis, Masking
from sky.decoupled import decoupled_spectrum
from sky.instruments import MIN_POWER
from sky.masked import MaskedSky, QuadraticEstimator
from sky.realisations import Generators
from sky.simulator import Rows, Simulator, draw_r, given, signal_of

MATRICES = ("response", "weights", "mixing", "noise")  # of the set-up
BLOCK_ROWS = 2**9  # of which a set has many, so that processes get equal shares
NUM_SHAPED, SHAPES = 1000, (0.02, 0.35, 0.65, 0.98)  # quantiles of the tilt of so many skies
CHUNK_ROWS = 2**7  # of which products are fast, and small at NSIDE 32


@dataclasses.dataclass(frozen=True, eq=False)
class MapRows(Rows):
    """Rows of a masked sky.

    Attributes:
        v: Reduced maps, shape (n, n_data).
        response: Of v to the sky, shape (n_data, n_modes), 1/uK.
    """

    v: FloatArray = dataclasses.field(default_factory=lambda: np.empty((0, 0)))
    response: FloatArray = dataclasses.field(default_factory=lambda: np.empty((0, 0)))

    @property
    def u(self) -> FloatArray:
        return self.v @ self.response


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedSimulator(Simulator):
    """Simulator of a map of part of the sky, in one band.

    Rows have the same bytes whatever the cores of a machine where products are of one thread:
    draw them inside of `threadpool_limits(1, "blas")`.

    Attributes:
        analysis: Of its maps.
        part: What a map says of its B modes.
        estimator: Of the spectrum.
    """

    analysis: Analysis
    part: MaskedSky
    estimator: QuadraticEstimator

    @classmethod
    def of(cls, full: Simulator, folder: str = "") -> Self:
        """The simulator of a part of the sky, from that of all of it in the same band.

        Args:
            full: Of all of the sky.
            folder: Through which the first of several processes gives its matrices to the others.

        Raises:
            InputError: If no B modes are left, or the fiducial sky has none.
        """
        analysis = _analysis(full)

        def set_up() -> dict[str, FloatArray]:
            part = analysis.masked_sky()
            estimator = analysis.estimator(part)
            matrices = {name: getattr(estimator, name) for name in MATRICES[1:]}
            return {"response": part.response, **matrices}

        with threadpool_limits(1, "blas"):
            shared = compute_once(set_up, MATRICES, folder)
        response, weights, mixing, noise = (shared[name] for name in MATRICES)
        part = MaskedSky(analysis.masking.survey, response, None)
        cl_fiducial = cosmology.dl_to_cl(analysis.dl_fiducial, full.ell)
        estimator = QuadraticEstimator(full.ell, weights, mixing, noise, cl_fiducial)
        parts = dataclasses.replace(
            full.contaminants, dl_noise=estimator.dl_noise, dl_contaminant=None
        )
        known = {each.name: getattr(full, each.name) for each in dataclasses.fields(Simulator)}
        return cls(**known | {"contaminants": parts}, analysis=analysis, part=part,
                   estimator=estimator)  # fmt: skip

    @property
    def block_rows(self) -> int:
        return BLOCK_ROWS

    @property
    def chunk_rows(self) -> int:
        return CHUNK_ROWS

    @property
    def described_sky(self) -> Sky:
        return dataclasses.replace(super().described_sky, analysis=self.analysis.to_json())

    @property
    def decoupled(self) -> DecoupledSpectrum:
        return decoupled_spectrum(self.estimator)

    def map_powers(self, prior: Prior) -> MapPowers:
        """Powers up to 3 nside - 1, without noise, which the analysis knows."""
        foregrounds, parts = self.sky.foregrounds, self.contaminants
        gaussian = 0.0 if foregrounds.varied else given(parts.dl_gaussian_foreground)
        return MapPowers(
            prior=prior,
            dl_contaminant=given(parts.dl_lensing) + gaussian,
            dl_foregrounds=self._foreground_shapes() if foregrounds.varied else None,
            fixed_modes=foregrounds.fixed[0] if foregrounds.fixed.any() else None,
        )

    def _foreground_shapes(self) -> FloatArray:
        """Foregrounds of an ensemble from the flattest to the steepest, shape (k, n_ell), uK^2."""
        skies = self.sky.foregrounds.components(NUM_SHAPED, np.random.default_rng(0))
        dl = skies.residual(self.weights)
        order = np.argsort(dl[:, 0] / dl[:, -1])
        return dl[order[(np.array(SHAPES) * NUM_SHAPED).astype(int)]]

    def draw_rows(self, prior: Prior, n: int, generators: Generators) -> Rows:
        r = draw_r(prior, n, generators)
        parts, foregrounds = self.contaminants, self.sky.foregrounds
        contaminant = given(parts.dl_lensing) + given(parts.dl_gaussian_foreground)
        if foregrounds.varied:
            residual = foregrounds.components(n, generators["parameters"]).residual(self.weights)
            contaminant = given(parts.dl_lensing) + residual
        powers = realisations.ExpectedPowers(
            self.ell, signal_of(prior, r), contaminant, np.zeros(len(self.ell))
        )
        fixed = foregrounds.fixed[0]
        rows = masked.draw_rows(self.part, self.estimator, powers, n, generators, fixed)
        return MapRows(rows.x, rows.y, r, rows.v, self.part.response)


def _analysis(full: Simulator) -> Analysis:
    """The analysis of maps of a sky, with its powers."""
    masking, model = full.observation.masking, full.model
    assert isinstance(masking, Masking)
    passed = full.observation.transfer(model.nside)
    try:
        tensors = model.primordial_bb(masking.r_fiducial, full.ell) * passed
    except InputError as error:
        raise InputError(f"--r-fid {masking.r_fiducial:g}: has no spectrum ({error})") from None
    dl_fiducial = given(full.contaminants.dl_lensing) + tensors
    if not (dl_fiducial > MIN_POWER).all():
        raise InputError("--r-fid: without lensing it must be above 0")
    dl_ee = None
    if masking.e_modes == "known":
        if model.foregrounds != ("none",):
            raise InputError(
                "--e-modes known: those of foregrounds are not known; take free, or "
                "--foregrounds none"
            )
        dl_ee = cosmology.lensed_ee(full.ell, model.cosmology) * passed
    return Analysis(masking, dl_fiducial, dl_ee)
