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

from runtime import console, processes
from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter, Prior
from runtime.records import Ilc, Record
from sky import cleaning, foregrounds, realisations
from sky.cosmology import IntArray
from sky.instruments import MAX_POWER, MIN_POWER
from sky.masked_simulator import MaskedSimulator
from sky.observation import (
    DEFAULT_OBSERVATION,
    DEFAULT_SKY,
    Observation,
    SkyModel,
    make_band_sky,
)
from sky.realisations import Generators
from sky.simulator import Rows, Simulator, draw_r, given, signal_of

NUM_PILOT = 1000  # skies on which the weights of "sky", and their bias, are measured
LARGE_BIAS = 0.2  # share of the power from which the ILC bias is worth a note


# --- r ---------------------------------------------------------------------------------------


def make_generators(prior: Prior, seed: int, split: str, block: int = 0) -> Generators:
    """Random streams of a block of rows of a prior; see `realisations.make_generators`."""
    r = prior.r_range or (prior.r,)
    return realisations.make_generators(seed, split, *r, block=block)


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


@np.errstate(over="ignore", invalid="ignore")  # `check_powers` says it
def make_simulator(model: SkyModel, observation: Observation, folder: str = "") -> Simulator:
    """Simulator of one band, or of bands that are cleaned.

    Args:
        model: Of the sky.
        observation: Its bands, and the part of the sky that is seen.
        folder: Through which several processes share the matrices of a masked sky.

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
    simulator = Simulator(model, observation, sky, weights, parts)
    return simulator if observation.masking is None else MaskedSimulator.of(simulator, folder)


def make_prior(r: Sequence[float], simulator: Simulator) -> Prior:
    """Prior of r and of the primordial power through the beam.

    Args:
        r: One tensor-to-scalar ratio, or the two ends of its range.
        simulator: Of the sky and its observation.

    Raises:
        InputError: If the signal cannot be had at this r, or no logarithm of it can.
    """
    model = simulator.model
    ell, passed = simulator.ell, simulator.observation.transfer(model.nside)
    flags = "--r, --fwhm-arcmin, --cosmology or --fiducial"
    if len(r) == 1:
        dl_signal = model.primordial_bb(r[0], ell) * passed
        check_powers({flags: dl_signal}, MIN_POWER if r[0] else 0.0)
        return Prior(r=r[0], dl_signal=dl_signal)
    low, high = r
    template = model.signal_template(low, high, ell)
    template = dataclasses.replace(template, dl_per_r=template.dl_per_r * passed)
    check_powers({flags.replace("--r,", "--r-range,"): template(np.array([high]))}, MIN_POWER)
    return Prior(parameters=(Parameter("r", low, high),), signal_template=template)


def share(num_rows: int, block_rows: int) -> int:
    """Rows that this process draws, which takes every block whose turn is its own."""
    first = range(processes.rank() * block_rows, num_rows, processes.world_size() * block_rows)
    return sum(min(block_rows, num_rows - k) for k in first)


@dataclasses.dataclass(frozen=True, eq=False)
class RowSet:
    """All rows of one prior and split, in blocks that any process or thread may draw.

    Attributes:
        simulator: From `make_simulator`.
        prior: From `make_prior`, with the beam of the observation.
        seed: Of every random draw.
        split: One of `realisations.SPLITS`.
        num_rows: How many.
    """

    simulator: Simulator
    prior: Prior
    seed: int
    split: str
    num_rows: int

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.num_rows // self.simulator.block_rows)

    def chunks(self, block: int, chunk_rows: int | None = None) -> Iterator[tuple[int, Rows]]:
        """Rows of a block, many at a time, each with the number of the first of them.

        Args:
            block: Number of the block, from 0.
            chunk_rows: Rows at a time, those of the simulator when None; rows do not depend on it.
        """
        generators = make_generators(self.prior, self.seed, self.split, block)
        chunk_rows = chunk_rows or self.simulator.chunk_rows
        first = block * self.simulator.block_rows
        end = min(first + self.simulator.block_rows, self.num_rows)
        for start in range(first, end, chunk_rows):
            rows = min(chunk_rows, end - start)
            yield start, self.simulator.draw_rows(self.prior, rows, generators)


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
            dl_signal = signal_of(prior, draw_r(prior, m, generators))
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
        middle = signal_of(prior, None)
    else:
        middle = signal_of(prior, np.array([sum(prior.r_range) / 2]))[0]
    total = middle + (given(parts.mean_gaussian) + given(parts.dl_fixed_foreground))
    pilot = _draw_pilot(simulator, prior, seed)
    return cleaning.measure_sky_weights(simulator.sky, edges, total, pilot)


def describe(simulator: Simulator, prior: Prior, seed: int) -> Record:
    """Record of the rows of one prior, whatever their split; measures what a cleaning does."""
    return Record(
        nside=simulator.model.nside,
        seed=seed,
        prior=prior,
        sky=simulator.described_sky,
        contaminants=simulator.contaminants,
        ilc=measure_ilc(simulator, prior, seed),
        map_powers=simulator.map_powers(prior),
        decoupled=simulator.decoupled,
        extra=simulator.sky.foregrounds.to_json(),
    )


# --- for a notebook --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Simulated pairs, one sky a row.

    Attributes:
        ell: Multipoles of the truth, shape (n_ell,).
        x: Realised truth, D_ell, shape (n, n_ell), uK^2.
        y: Its observation, D_ell, shape (n, n_ell), uK^2; of a masked sky (n, 3 nside - 2).
        r: Tensor-to-scalar ratio of each row, shape (n,).
        record: Prior, sky, expected powers and cleaning.
        u: Sufficient statistic of the map of a masked sky, shape (n, n_modes), 1/uK; else None.
    """

    ell: IntArray
    x: FloatArray
    y: FloatArray
    r: FloatArray
    record: Record
    u: FloatArray | None = None


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
    rows = RowSet(simulator, prior, seed, split, num_samples)
    chunks = [c for block in range(rows.num_blocks) for _, c in rows.chunks(block)]
    x, y = np.concatenate([c.x for c in chunks]), np.concatenate([c.y for c in chunks])
    own = [np.full(len(c.x), ends[0]) if c.r is None else c.r for c in chunks]
    u = None if chunks[0].u is None else np.concatenate([given(c.u) for c in chunks])
    return Pairs(simulator.ell[: x.shape[1]], x, y, np.concatenate(own), record, u)
