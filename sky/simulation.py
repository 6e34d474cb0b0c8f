"""What data_generation.py draws: a signal, a sky in one band or in many, and its cleaning."""

import dataclasses

import numpy as np

from runtime import console
from runtime.errors import InputError
from sky import cleaning, cosmology, foregrounds, instruments, realisations

CHUNK_VALUES = 2**18  # values of one array held at a time: 2 MiB, so that memory stays bounded
CHUNK_MODES = 2**20  # the same for coefficients of all bands: 8 MiB
LARGE_BIAS = 0.2  # share of the power from which the ILC bias is told


@dataclasses.dataclass(frozen=True)
class Simulation:
    """All that a row needs besides its primordial spectrum.

    Attributes:
        sky: A `cleaning.BandSky`.
        weights: Of the bands, known beforehand, shape (n_ell, n_bands).
        parts: What these weights leave, from `cleaning.residual_powers`.
        own_bins: Edges of the bins where each sky is cleaned with weights of its own; else None.
    """

    sky: cleaning.BandSky
    weights: np.ndarray
    parts: dict
    own_bins: list | None = None

    @property
    def law_known(self):
        """Whether the observation is the signal, Gaussian noise and a fixed foreground."""
        return self.own_bins is None and not self.sky.foregrounds.varied

    @property
    def chunk_rows(self):
        """Rows held at a time."""
        n_bands, n_ell = len(self.sky.dl_noise), len(self.sky.ell)
        if self.own_bins is None:
            return max(1, CHUNK_VALUES // n_ell)
        return max(1, CHUNK_MODES // (n_bands * int(self.sky.nu.sum())))

    def draw(self, dl_signal, n, generators):
        """Truth and observation of n skies, each (n, n_ell), uK^2; see `spectra.draw_pairs`."""
        if self.own_bins is not None:
            return cleaning.draw_cleaned(self.sky, dl_signal, self.own_bins, n, generators)
        gaussian = self.parts["dl_gaussian_foreground"]
        if self.sky.foregrounds.varied:
            components = self.sky.foregrounds.components(n, generators["parameters"])
            gaussian = cleaning.gaussian_residual(*components, self.weights)
        sky = realisations.Sky(
            ell=self.sky.ell,
            dl_signal=dl_signal,
            dl_contaminant=self.parts["dl_lensing"] + self.parts["dl_noise"] + gaussian,
            dl_fixed_foreground=self.parts["dl_fixed_foreground"],
        )
        return realisations.draw_pairs(sky, n, generators)


def make_band_sky(nside, bands, fwhm_arcmin, common, a_lens, names, foreground_scale):
    """`cleaning.BandSky` of some bands.

    Args:
        nside: NSIDE.
        bands: List of `instruments.Band`.
        fwhm_arcmin: Beam of the observation.
        common: Whether the bands must be brought to this beam; else they have it.
        a_lens: Share of the lensing power that is left.
        names: ["none"], ["gaussian"], ["gaussian-ensemble"], or PySM3 presets.
        foreground_scale: Share of the foreground amplitude that is left.
    """
    ell = cosmology.multipoles(nside)
    beam = instruments.beam_power(fwhm_arcmin, ell)
    freqs = [band.freq_ghz for band in bands]
    transfer = foreground_scale * np.sqrt(beam)
    return cleaning.BandSky(
        ell=ell,
        dl_noise=instruments.noise_bb(bands, fwhm_arcmin if common else None, ell),
        foregrounds=foregrounds.Foregrounds.make(names, freqs, nside, transfer),
        dl_lensing=a_lens * cosmology.lensing_bb(ell) * beam,
    )


def make_simulation(sky, bins=None, weights_from="model"):
    """`Simulation` of one band, bins None, or of bands that are cleaned in bins."""
    weights = np.ones((len(sky.ell), 1))
    if bins is not None:
        cleaning.check_bands(sky, bins, weights_from)
        known = cleaning.ilc_weights(cleaning.model_covariance(sky, bins))
        weights = cleaning.per_ell(known, bins)
    parts = cleaning.residual_powers(sky, weights)
    return Simulation(sky, weights, parts, bins if weights_from == "sky" else None)


def make_signal(r, ell, fwhm_arcmin):
    """Primordial power through the beam, of one r or of a range.

    Args:
        r: Tuple of one r, or of the two ends of a range.
        ell: Multipoles, shape (n_ell,).
        fwhm_arcmin: Width of the beam.

    Returns:
        D_ell, shape (n_ell,), uK^2, for one r; a `spectra.SignalTemplate` for a range.
    """
    beam = instruments.beam_power(fwhm_arcmin, ell)
    if len(r) == 1:
        return cosmology.tensor_bb(*r, ell) * beam
    template = cosmology.signal_template(*r, ell)
    return dataclasses.replace(template, dl_per_r=template.dl_per_r * beam)


def check_finite(signal, parts):
    """Raise InputError if a power overflowed."""
    powers = {"dl_signal": getattr(signal, "dl_per_r", signal), **parts}
    for name, power in powers.items():
        if not np.isfinite(power).all():
            raise InputError(
                f"--r or --r-range: {name} is not finite; an argument is beyond all physics"
            )


def draw_signal(r, signal, n, generators):
    """(r of the next n rows or None, their D_ell): see `make_signal`."""
    if len(r) == 1:
        return None, signal
    values = generators["r"].uniform(*r, n)
    return values, signal(values)


def draw_rows(r, signal, simulation, n, generators):
    """Draw n rows: {"x", "y"}, and "r" where a range was asked for; see `make_signal`."""
    values, dl_signal = draw_signal(r, signal, n, generators)
    x, y = simulation.draw(dl_signal, n, generators)
    return {"x": x, "y": y} | ({} if values is None else {"r": values})


def describe_ilc(r, signal, simulation, bins, seed):
    """Weights of the bands and the ILC bias of the rows of one r, ready for JSON.

    Known weights have no bias; those of each sky, and theirs, are measured on skies that enter
    neither the training nor the test rows.
    """
    ell = simulation.sky.ell
    if simulation.own_bins is None:
        ilc = {"ilc_weights": simulation.weights[np.subtract(bins[:-1], 2)]}
        ilc["dl_ilc_bias"] = ilc["dl_ilc_bias_expected"] = np.zeros(len(ell))
        return {name: value.tolist() for name, value in ilc.items()}
    n_bands = len(simulation.sky.dl_noise)
    share = -cleaning.expected_ilc_bias(np.ones(len(ell)), ell, bins, n_bands)
    if share.max() > LARGE_BIAS:
        console.info(
            f"ell = {ell[share.argmax()]}: the weights of {n_bands} bands take "
            f"{100 * share.max():.0f} % of the power with them, signal included; wider --ilc-bins, "
            "fewer --bands or --ilc-weights model take less"
        )
    generators = realisations.make_generators(seed, "pilot", *r)
    with console.progress(total=cleaning.NUM_PILOT, desc="weighing", unit="sky") as bar:
        ilc = cleaning.measure_sky_weights(
            simulation.sky,
            lambda m: draw_signal(r, signal, m, generators)[1],
            bins,
            generators,
            simulation.chunk_rows,
            bar.update,
        )
    middle = signal if len(r) == 1 else signal(np.array([sum(r) / 2]))[0]
    ilc["dl_ilc_bias_expected"] = cleaning.expected_ilc_bias(
        middle + sum(simulation.parts.values()), ell, bins, n_bands
    )
    return {name: value.tolist() for name, value in ilc.items()}


def describe(r, signal, simulation):
    """Powers of the rows of one r, ready for JSON.

    Where the exact law of the observation is known, and only there, dl_contaminant gives the part
    of it that is Gaussian and drawn anew.
    """
    powers = dict(simulation.parts)
    if simulation.law_known:
        powers["dl_contaminant"] = sum(
            powers[name] for name in ("dl_lensing", "dl_noise", "dl_gaussian_foreground")
        )
    if len(r) == 1:
        prior = {"r": r[0], "dl_signal": signal.tolist()}
    else:
        template = {name: value.tolist() for name, value in dataclasses.asdict(signal).items()}
        prior = {"r_range": list(r), "signal_template": template}
    arrays = {name: value.tolist() for name, value in powers.items()}
    return {**prior, **arrays, "cosmology": cosmology.COSMOLOGY}
