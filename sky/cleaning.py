"""From bands to one spectrum: skies in many bands, and the linear combination that cleans them.

Harmonic internal linear combination (HILC; Tegmark, de Oliveira-Costa & Hamilton 2003,
arXiv:astro-ph/0302496): in each bin of multipoles the bands are summed with the weights
w = C^-1 1 / (1' C^-1 1) that keep the CMB and leave the least power, C being the covariance of the
bands. C is that of the ensemble ("model"), or of the modes of the very sky ("sky"), as for real
data. A single band is the same with the weight 1.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from runtime.errors import InputError
from runtime.priors import FloatArray
from runtime.records import Contaminants, Ilc
from sky import cosmology
from sky.cosmology import IntArray
from sky.foregrounds import Components, ForegroundModel
from sky.realisations import Generators, realised_bb

BINS_NSIDE_16 = (2, 5, 9, 15, 22, 32)
NUM_PARAMETERS = 4096  # skies of an ensemble whose mean covariance gives its model weights


@dataclasses.dataclass(frozen=True, eq=False)
class MultifrequencySky:
    """Expected powers in n_bands bands at their common beam; D_ell in uK^2.

    Attributes:
        ell: Multipoles, shape (n_ell,).
        dl_lensing: The same in all bands, shape (n_ell,).
        dl_noise: Independent from band to band, shape (n_bands, n_ell).
        foregrounds: In these bands, through the same beam.
    """

    ell: IntArray
    dl_lensing: FloatArray
    dl_noise: FloatArray
    foregrounds: ForegroundModel

    @property
    def nu(self) -> IntArray:
        """Modes of each multipole, 2 ell + 1, shape (n_ell,)."""
        return 2 * self.ell + 1

    def mean_components(self) -> Components:
        """Gaussian foregrounds whose mean is that of the ensemble: 1 sky, or many of a prior."""
        return self.foregrounds.components(NUM_PARAMETERS, np.random.default_rng(0))


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bin of multipoles.

    Attributes:
        ells: Its part of the multipoles.
        modes: Its part of the harmonic coefficients, 2 ell + 1 of each ell in turn.
    """

    ells: slice
    modes: slice


def default_bins(nside: int) -> list[int]:
    """Edges of the bins, [2, 5, 9, 15, 22, 32) at NSIDE 16 and in proportion elsewhere."""
    inner = (max(3, -(-edge * nside // 16)) for edge in BINS_NSIDE_16[1:-1])
    return sorted({2, *inner, 2 * nside})


def make_bins(ell: IntArray, edges: Sequence[int]) -> list[Bin]:
    """Bins of multipoles edges[k] <= ell < edges[k + 1]."""
    first = np.concatenate([[0], np.cumsum(2 * ell + 1)])
    index = np.asarray(edges) - ell[0]
    pairs = zip(index[:-1], index[1:], strict=True)
    return [Bin(slice(a, b), slice(first[a], first[b])) for a, b in pairs]


# --- weights ---------------------------------------------------------------------------------


def ilc_weights(covariance: FloatArray) -> FloatArray:
    """Weights of least variance that sum to 1.

    Args:
        covariance: Of the bands, shape (..., n_bands, n_bands).

    Returns:
        Shape (..., n_bands).

    Raises:
        InputError: If it is singular to rounding.
    """
    scale = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    correlation = covariance / (scale[..., :, None] * scale[..., None, :])
    try:
        solved = np.linalg.solve(correlation, 1 / scale[..., None])[..., 0] / scale
    except np.linalg.LinAlgError:
        raise InputError(
            "--clean hilc: the noise is so far below the sky that the covariance of the bands is "
            "singular; raise noise_uk_arcmin, or give fewer --bands"
        ) from None
    return solved / solved.sum(-1, keepdims=True)


def model_covariance(sky: MultifrequencySky, edges: Sequence[int]) -> FloatArray:
    """Expected covariance of the bands in each bin, without the CMB, which moves no weight.

    Returns:
        C_ell averaged over the modes of the bin, shape (n_bins, n_bands, n_bands), uK^2. Presets
        count with the power they have; of an ensemble it is the mean over its prior.
    """
    dl, emission = sky.mean_components()
    # one product for each sky, component and ell: the components of a sky have a spectrum each
    cl = cosmology.dl_to_cl(dl, sky.ell)
    noise = cosmology.dl_to_cl(sky.dl_noise, sky.ell)
    covariances = []
    for multipoles in make_bins(sky.ell, edges):
        nu = sky.nu[multipoles.ells]
        power = (cl[..., multipoles.ells] * nu).sum(-1)
        gaussian = np.einsum("nc,nci,ncj->ij", power, emission, emission, optimize=True) / len(dl)
        modes = sky.foregrounds.fixed[:, multipoles.modes]
        fixed = modes @ modes.T
        white = np.diag((noise[:, multipoles.ells] * nu).sum(1))
        covariances.append((gaussian + fixed + white) / nu.sum())
    return np.array(covariances)


def check_bands(sky: MultifrequencySky, edges: Sequence[int], weights_from: str) -> None:
    """Raise InputError where there are too few bands, or too few modes, for weights."""
    n_bands, needed = len(sky.dl_noise), sky.foregrounds.num_components + 1
    if n_bands < needed:
        raise InputError(
            f"--clean hilc: {n_bands} bands cannot tell {needed - 1} foregrounds from the CMB; "
            f"give at least {needed} in --bands or --instrument"
        )
    for ells in (multipoles.ells for multipoles in make_bins(sky.ell, edges)):
        num_modes = sky.nu[ells].sum()
        if weights_from == "sky" and num_modes < n_bands:
            raise InputError(
                f"--ilc-bins: the bin from ell = {sky.ell[ells][0]} has {num_modes} modes, too few "
                f"for the covariance of {n_bands} bands; make it wider, pick fewer --bands, or use "
                "--ilc-weights model"
            )


def per_ell(weights: FloatArray, edges: Sequence[int]) -> FloatArray:
    """Weights of bins, shape (..., n_bins, n_bands), as weights of each ell, (..., n_ell, ...)."""
    return np.repeat(weights, np.diff(edges), axis=-2)


# --- what is left ----------------------------------------------------------------------------


def residual_powers(
    sky: MultifrequencySky, weights: FloatArray, same_weights: bool = True
) -> Contaminants:
    """Expected powers of everything but the signal after a sum over bands.

    Args:
        sky: In the bands.
        weights: The same for all skies, shape (n_ell, n_bands).
        same_weights: Whether all skies are summed with these. Then, and where all foregrounds
            have the same parameters, the exact law of the observation is known: dl_contaminant is
            given.
    """
    noise = (sky.dl_noise * weights.T**2).sum(0)
    parts = Contaminants(
        dl_lensing=sky.dl_lensing * weights.sum(1) ** 2,
        dl_noise=noise,
        dl_gaussian_foreground=sky.mean_components().residual(weights).mean(0),
        dl_fixed_foreground=sky.foregrounds.fixed_bb(weights),
    )
    if sky.foregrounds.varied or not same_weights:
        return parts
    return dataclasses.replace(parts, dl_contaminant=parts.mean_gaussian)


# --- weights of each sky ---------------------------------------------------------------------


def draw_modes(
    sky: MultifrequencySky, dl_signal: FloatArray, n: int, generators: Generators
) -> tuple[FloatArray, FloatArray]:
    """Draw n skies in all bands.

    Args:
        sky: In the bands.
        dl_signal: Primordial D_ell through the common beam, shape (n_ell,) or (n, n_ell), uK^2.
        n: Number of skies.
        generators: From `realisations.make_generators`; they advance, so that the next call goes
            on.

    Returns:
        (primordial, data): real harmonic coefficients in uK, shapes (n, n_modes) and
        (n, n_bands, n_modes); n_modes counts the 2 ell + 1 of each ell in turn.
    """
    nu, num_modes = sky.nu, int(sky.nu.sum())

    def amplitude(dl: FloatArray) -> FloatArray:
        return np.repeat(np.sqrt(cosmology.dl_to_cl(dl, sky.ell)), nu, axis=-1)

    def normal(name: str, *rows: int) -> FloatArray:
        return generators[name].standard_normal((n, *rows, num_modes))

    dl, emission = sky.foregrounds.components(n, generators["parameters"])
    primordial = normal("primordial") * amplitude(dl_signal)
    cmb = primordial + normal("lensing") * amplitude(sky.dl_lensing)
    data = normal("noise", len(sky.dl_noise))
    data *= amplitude(sky.dl_noise)
    data += sky.foregrounds.fixed
    # the CMB is one more component, with the emission 1
    components = normal("foreground", dl.shape[1]) * amplitude(dl)
    sources = np.concatenate([cmb[:, None], components], 1)
    ones = np.ones((len(emission), 1, emission.shape[2]))
    data += np.swapaxes(np.concatenate([ones, emission], 1), 1, 2) @ sources
    return primordial, data


def weights_of_each_sky(data: FloatArray, ell: IntArray, edges: Sequence[int]) -> FloatArray:
    """Weights from the covariance of each sky's own modes, shape (n, n_bins, n_bands)."""
    bands = [data[:, :, multipoles.modes] for multipoles in make_bins(ell, edges)]
    return np.stack([ilc_weights(d @ np.swapaxes(d, 1, 2) / d.shape[2]) for d in bands], 1)


def clean(data: FloatArray, weights: FloatArray, ell: IntArray, edges: Sequence[int]) -> FloatArray:
    """The weighted sum over bands.

    Args:
        data: Coefficients, shape (n, n_bands, n_modes), uK.
        weights: Shape (n or 1, n_bins, n_bands).
        ell: Multipoles, shape (n_ell,).
        edges: Of the bins.

    Returns:
        Coefficients, shape (n, n_modes), uK.
    """
    sums = [
        (weights[:, k, None] @ data[:, :, multipoles.modes])[:, 0]
        for k, multipoles in enumerate(make_bins(ell, edges))
    ]
    return np.concatenate(sums, -1)


def draw_cleaned(
    sky: MultifrequencySky,
    dl_signal: FloatArray,
    edges: Sequence[int],
    n: int,
    generators: Generators,
) -> tuple[FloatArray, FloatArray]:
    """Truth and observation of n skies, each cleaned with weights of its own.

    Args and generators as in `draw_modes`.

    Returns:
        x and y, realised D_ell of truth and observation, each of shape (n, n_ell), uK^2.
    """
    primordial, data = draw_modes(sky, dl_signal, n, generators)
    cleaned = clean(data, weights_of_each_sky(data, sky.ell, edges), sky.ell, edges)
    return realised_bb(primordial, sky.ell), realised_bb(cleaned, sky.ell)


def expected_ilc_bias(
    total: FloatArray, ell: IntArray, edges: Sequence[int], n_bands: int
) -> FloatArray:
    """What weights from the sky's own modes take away on average.

    n_bands - 1 of the n_modes degrees of freedom of a bin go into the weights, which fit the
    contaminants and the CMB with them: for modes of one variance the cleaned power is 1 / (1' C^-1
    1) times a chi-squared with n_modes - n_bands + 1 of its n_modes degrees (Delabrouille et al.
    2009, arXiv:0807.0773; docs/theory.md, section 10).

    Args:
        total: D_ell that known weights would leave, shape (n_ell,), uK^2, signal included.
        ell: Multipoles, shape (n_ell,).
        edges: Of the bins.
        n_bands: Number of bands.

    Returns:
        D_ell, shape (n_ell,), uK^2, negative: -(n_bands - 1) / n_modes of the total.
    """
    bias = np.empty(len(ell))
    for ells in (multipoles.ells for multipoles in make_bins(ell, edges)):
        bias[ells] = -(n_bands - 1) / (2 * ell[ells] + 1).sum() * total[ells]
    return bias


def measure_sky_weights(
    sky: MultifrequencySky,
    edges: Sequence[int],
    total: FloatArray,
    pilot: Iterable[FloatArray],
) -> Ilc:
    """Mean weights of skies that are cleaned with their own, and their ILC bias.

    The bias is a mean difference on the same skies, between own weights and known ones: most of
    the scatter of a sky drops out.

    Args:
        sky: In the bands.
        edges: Of the bins.
        total: D_ell that known weights would leave, shape (n_ell,), uK^2, signal included.
        pilot: Skies in all bands, many at a time, each (m, n_bands, n_modes) as from `draw_modes`.
    """
    ell, known = sky.ell, ilc_weights(model_covariance(sky, edges))[None]
    weights, biases = [], []
    for data in pilot:
        estimated = weights_of_each_sky(data, ell, edges)
        cleaned, reference = (
            realised_bb(clean(data, w, ell, edges), ell) for w in (estimated, known)
        )
        biases.append(cleaned - reference)
        weights.append(estimated)
    all_weights, all_biases = np.concatenate(weights), np.concatenate(biases)
    return Ilc(
        ilc_weights=all_weights.mean(0),
        ilc_weights_std=all_weights.std(0, ddof=1),
        dl_ilc_bias=all_biases.mean(0),
        dl_ilc_bias_expected=expected_ilc_bias(total, ell, edges, len(sky.dl_noise)),
        dl_ilc_bias_error=all_biases.std(0, ddof=1) / np.sqrt(len(all_biases)),
    )
