"""Pairs of truth and observation, from a sky model and the bands that observe it.

For a notebook:

    from sky.observation import Observation, SkyModel
    from sky.simulation import simulate

    observation = Observation.in_one_band(noise_uk_arcmin=1.0)
    pairs = simulate((0, 0.01), 1000, SkyModel(foregrounds=("none",)), observation, seed=0)
    pairs.x, pairs.y, pairs.r, pairs.record

data_generation.py streams the same rows to disk.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from runtime import console
from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter, Prior
from runtime.records import Contaminants, Ilc, Record
from sky import cleaning, foregrounds, instruments, realisations
from sky.cosmology import IntArray
from sky.instruments import MAX_POWER, MIN_POWER
from sky.observation import (
    DEFAULT_OBSERVATION,
    DEFAULT_SKY,
    Observation,
    SkyModel,
    describe_sky,
    make_band_sky,
)
from sky.realisations import Generators

CHUNK_VALUES = 2**18  # values of one array held at a time: 2 MiB, so that memory stays bounded
CHUNK_MODES = 2**20  # the same for coefficients of all bands: 8 MiB
NUM_PILOT = 1000  # skies on which the weights of "sky", and their bias, are measured
LARGE_BIAS = 0.2  # share of the power from which the ILC bias is worth a note


def _given(power: FloatArray | None) -> FloatArray:
    assert power is not None, "a simulation knows all of its powers"
    return power


# --- r ---------------------------------------------------------------------------------------


def make_generators(prior: Prior, seed: int, split: str) -> Generators:
    """Random streams of the rows of a prior; see `realisations.make_generators`."""
    r = prior.r_range or (prior.r,)
    return realisations.make_generators(seed, split, *r)


def _signal(prior: Prior, r: FloatArray | None) -> FloatArray:
    """D_ell of given r, shape (n, n_ell), uK^2; of the one r of the prior, (n_ell,)."""
    if prior.signal_template is None or r is None:
        return _given(prior.dl_signal)
    return prior.signal_template(r)


def _draw_r(prior: Prior, n: int, generators: Generators) -> FloatArray | None:
    """r of the next n rows; None where all have the same."""
    return None if prior.r_range is None else generators["r"].uniform(*prior.r_range, n)


# --- powers ----------------------------------------------------------------------------------


def check_powers(powers: Mapping[str, FloatArray | None], lowest: float = 0.0) -> None:
    """Raise InputError where a power is beyond `MAX_POWER`, or not finite, or below lowest.

    Args:
        powers: D_ell in uK^2 by the flags that move it; None where there is none.
        lowest: `MIN_POWER` where a logarithm is going to be taken, of the signal.
    """
    for flags, power in powers.items():
        if power is None:
            continue
        if not (power <= MAX_POWER).all():  # NaN is not, either
            raise InputError(f"{flags}: D_ell is {power.max():.1e} uK^2, beyond all physics")
        if not (power >= lowest).all():
            raise InputError(
                f"{flags}: D_ell is {power.min():.1e} uK^2 somewhere, too small for its logarithm"
            )


# --- rows ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a simulation.

    Attributes:
        x: Realised truth, shape (n, n_ell), uK^2.
        y: Realised observation, shape (n, n_ell), uK^2.
        r: Of each row, shape (n,); None where all have the same.
    """

    x: FloatArray
    y: FloatArray
    r: FloatArray | None = None


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
            contaminant = _given(parts.dl_lensing) + _given(parts.dl_noise)
            contaminant = contaminant + foreground.residual(self.weights)
        fixed = _given(parts.dl_fixed_foreground)
        powers = realisations.ExpectedPowers(self.ell, dl_signal, _given(contaminant), fixed)
        return realisations.draw_pairs(powers, n, generators)

    def draw_rows(self, prior: Prior, n: int, generators: Generators) -> Rows:
        """The next n rows.

        Args:
            prior: From `make_prior`.
            n: Number of rows.
            generators: Of one r, or of a range; they advance.
        """
        r = _draw_r(prior, n, generators)
        x, y = self.draw(_signal(prior, r), n, generators)
        return Rows(x, y, r)


@np.errstate(over="ignore", invalid="ignore")  # `check_powers` says it
def make_simulator(model: SkyModel, observation: Observation) -> Simulator:
    """Simulator of one band, or of bands that are cleaned.

    Raises:
        InputError: If PySM3 cannot do what the foregrounds say, or there are too few bands or
            modes for weights.
    """
    sky, hilc = make_band_sky(model, observation), observation.cleaning
    weights, weights_from = np.ones((len(sky.ell), 1)), "model"
    if hilc is not None:
        edges, weights_from = hilc.edges(model.nside), hilc.weights_from
        cleaning.check_bands(sky, edges, weights_from)
        known = cleaning.ilc_weights(cleaning.model_covariance(sky, edges))
        weights = cleaning.per_ell(known, edges)
    parts = cleaning.residual_powers(sky, weights, same_weights=weights_from == "model")
    check_powers(
        {
            "--a-lens, --cosmology": parts.dl_lensing,
            "--noise-uk-arcmin, --noise-file or --instrument": parts.dl_noise,
            "--foreground-scale": parts.dl_gaussian_foreground,
            "--foreground-scale, --foregrounds": parts.dl_fixed_foreground,
        }
    )
    return Simulator(model, observation, sky, weights, parts)


def make_prior(r: Sequence[float], simulator: Simulator) -> Prior:
    """Prior of r and of the primordial power through the beam.

    Args:
        r: One tensor-to-scalar ratio, or the two ends of its range.
        simulator: Of the sky and its observation.

    Raises:
        InputError: If the signal cannot be had at this r, or no logarithm of it can.
    """
    model = simulator.model
    beam = instruments.beam_power(simulator.observation.fwhm_arcmin, simulator.ell)
    flags = "--r, --fwhm-arcmin, --cosmology or --fiducial"
    if len(r) == 1:
        dl_signal = model.primordial_bb(r[0]) * beam
        check_powers({flags: dl_signal}, MIN_POWER if r[0] else 0.0)
        return Prior(r=r[0], dl_signal=dl_signal)
    low, high = r
    template = model.signal_template(low, high)
    template = dataclasses.replace(template, dl_per_r=template.dl_per_r * beam)
    check_powers({flags.replace("--r,", "--r-range,"): template(np.array([high]))}, MIN_POWER)
    return Prior(parameters=(Parameter("r", low, high),), signal_template=template)


def draw_chunks(
    simulator: Simulator,
    prior: Prior,
    num_rows: int,
    generators: Generators,
    chunk_rows: int | None = None,
) -> Iterator[Rows]:
    """Draw rows, many at a time.

    Args:
        simulator: From `make_simulator`.
        prior: From `make_prior`, with the beam of the observation.
        num_rows: Number of rows.
        generators: From `make_generators`.
        chunk_rows: Rows at a time, those of the simulator when None; the rows do not depend on it.
    """
    chunk_rows = chunk_rows or simulator.chunk_rows
    for start in range(0, num_rows, chunk_rows):
        yield simulator.draw_rows(prior, min(chunk_rows, num_rows - start), generators)


# --- the record ------------------------------------------------------------------------------


def _note_large_bias(simulator: Simulator) -> None:
    ell, n_bands = simulator.ell, len(simulator.sky.dl_noise)
    share = -cleaning.expected_ilc_bias(np.ones(len(ell)), ell, simulator.edges, n_bands)
    if share.max() > LARGE_BIAS:
        console.info(
            f"ell = {ell[share.argmax()]}: the weights of {n_bands} bands take "
            f"{100 * share.max():.0f} % of the power with them, signal included; wider --ilc-bins, "
            "fewer --bands or --ilc-weights model take less"
        )


def _draw_pilot(simulator: Simulator, prior: Prior, seed: int) -> Iterator[FloatArray]:
    """NUM_PILOT skies in all bands, many at a time, with a progress bar."""
    generators = make_generators(prior, seed, "pilot")
    with console.progress(total=NUM_PILOT, desc="weighing", unit="sky") as bar:
        for start in range(0, NUM_PILOT, simulator.chunk_rows):
            m = min(simulator.chunk_rows, NUM_PILOT - start)
            dl_signal = _signal(prior, _draw_r(prior, m, generators))
            yield cleaning.draw_modes(simulator.sky, dl_signal, m, generators)[1]
            bar.update(m)


def measure_ilc(simulator: Simulator, prior: Prior, seed: int) -> Ilc | None:
    """Weights of the bands and the ILC bias of the rows of one prior; None without a cleaning.

    Known weights have no bias; those of each sky, and theirs, are measured on skies that enter
    neither the training nor the test rows.
    """
    if simulator.observation.cleaning is None:
        return None
    edges, parts = simulator.edges, simulator.contaminants
    if not simulator.weighs_each_sky:
        no_bias = np.zeros(len(simulator.ell))
        return Ilc(simulator.weights[np.subtract(edges[:-1], 2)], no_bias, no_bias)
    _note_large_bias(simulator)
    if prior.r_range is None:
        middle = _signal(prior, None)
    else:
        middle = _signal(prior, np.array([sum(prior.r_range) / 2]))[0]
    total = middle + (_given(parts.mean_gaussian) + _given(parts.dl_fixed_foreground))
    pilot = _draw_pilot(simulator, prior, seed)
    return cleaning.measure_sky_weights(simulator.sky, edges, total, pilot)


def describe(simulator: Simulator, prior: Prior, seed: int) -> Record:
    """Record of the rows of one prior, whatever their split; measures what a cleaning does."""
    return Record(
        nside=simulator.model.nside,
        seed=seed,
        prior=prior,
        sky=describe_sky(simulator.model, simulator.observation),
        contaminants=simulator.contaminants,
        ilc=measure_ilc(simulator, prior, seed),
        extra=simulator.sky.foregrounds.to_json(),
    )


# --- for a notebook --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Simulated pairs, one full sky a row.

    Attributes:
        ell: Multipoles, shape (n_ell,).
        x: Realised truth, D_ell, shape (n, n_ell), uK^2.
        y: Its observation, D_ell, shape (n, n_ell), uK^2.
        r: Tensor-to-scalar ratio of each row, shape (n,).
        record: Prior, sky, expected powers and cleaning.
    """

    ell: IntArray
    x: FloatArray
    y: FloatArray
    r: FloatArray
    record: Record


def simulate(
    r: float | Sequence[float] = 0.001,
    num_samples: int = 10_000,
    model: SkyModel = DEFAULT_SKY,
    observation: Observation = DEFAULT_OBSERVATION,
    seed: int = 0,
    split: str = "train",
) -> Pairs:
    """Draw pairs of truth and observation: the rows of data_generation.py.

    Args:
        r: Tensor-to-scalar ratio at 0.05/Mpc; or the two ends of a range, from which each row
            draws its own.
        num_samples: Number of pairs.
        model: Of the sky.
        observation: Bands and their cleaning.
        seed: Of every random draw.
        split: "train" or "test", which share no random number.

    Raises:
        InputError: If r is negative or no range, or the sky cannot be simulated.
    """
    ends = tuple(float(value) + 0.0 for value in np.atleast_1d(r))  # adding 0.0 makes 0 of -0
    in_order = len(ends) == 1 or len(ends) == 2 and ends[0] < ends[1]
    if not in_order or not all(0 <= value < np.inf for value in ends):
        raise InputError(f"r: must be a number, 0 or above, or a range of them, not {r}")
    if num_samples < 1 or seed < 0:
        raise InputError(
            f"num_samples, seed: must be above 0 and from 0 up, not {num_samples}, {seed}"
        )
    if split not in realisations.SPLITS:
        raise InputError(f"split: must be one of {', '.join(realisations.SPLITS)}, not {split}")
    foregrounds.check_names(model.foregrounds)
    simulator = make_simulator(model, observation)
    prior = make_prior(ends, simulator)
    record = describe(simulator, prior, seed).replace(split=split)
    generators = make_generators(prior, seed, split)
    chunks = list(draw_chunks(simulator, prior, num_samples, generators))
    x, y = np.concatenate([c.x for c in chunks]), np.concatenate([c.y for c in chunks])
    own = [np.full(len(c.x), ends[0]) if c.r is None else c.r for c in chunks]
    return Pairs(simulator.ell, x, y, np.concatenate(own), record)
