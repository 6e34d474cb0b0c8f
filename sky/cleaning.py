"""From bands to one spectrum: skies in many bands, and the linear combination that cleans them.

Harmonic internal linear combination (HILC; Tegmark, de Oliveira-Costa & Hamilton 2003,
arXiv:astro-ph/0302496): in each bin of multipoles the bands are summed with the weights
w = C^-1 1 / (1' C^-1 1) that keep the CMB and leave the least power, C being the covariance of the
bands. C is that of the ensemble ("model"), or of the modes of the very sky ("sky"), as for real
data. A single band is the same with the weight 1.
"""

import dataclasses

import numpy as np

from runtime.errors import InputError
from sky import cosmology, foregrounds

BINS_NSIDE_16 = (2, 5, 9, 15, 22, 32)
NUM_PARAMETERS = 4096  # skies of an ensemble whose mean covariance gives its model weights
NUM_PILOT = 1000  # skies on which the weights of "sky", and their bias, are measured


@dataclasses.dataclass(frozen=True)
class BandSky:
    """Expected powers in n_bands bands at their common beam; D_ell in uK^2.

    Attributes:
        ell: Multipoles, shape (n_ell,).
        dl_lensing: The same in all bands, shape (n_ell,).
        dl_noise: Independent from band to band, shape (n_bands, n_ell).
        foregrounds: A `foregrounds.Foregrounds`.
    """

    ell: np.ndarray
    dl_lensing: np.ndarray
    dl_noise: np.ndarray
    foregrounds: foregrounds.Foregrounds

    @property
    def nu(self):
        """Modes of each multipole, 2 ell + 1, shape (n_ell,)."""
        return 2 * self.ell + 1


def default_bins(nside):
    """Edges of the bins, [2, 5, 9, 15, 22, 32) at NSIDE 16 and in proportion elsewhere."""
    inner = (max(3, -(-edge * nside // 16)) for edge in BINS_NSIDE_16[1:-1])
    return sorted({2, *inner, 2 * nside})


def bin_slices(ell, edges):
    """(slices of ell, slices of its modes) of bins with edges [edges[k], edges[k + 1])."""
    first = np.concatenate([[0], np.cumsum(2 * ell + 1)])
    index = np.asarray(edges) - ell[0]
    pairs = list(zip(index[:-1], index[1:], strict=True))
    return [slice(a, b) for a, b in pairs], [slice(first[a], first[b]) for a, b in pairs]


# --- weights ---------------------------------------------------------------------------------


def ilc_weights(covariance):
    """Weights of least variance that sum to 1.

    Args:
        covariance: Of the bands, shape (..., n_bands, n_bands).

    Returns:
        Shape (..., n_bands).
    """
    scale = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    correlation = covariance / (scale[..., :, None] * scale[..., None, :])
    solved = np.linalg.solve(correlation, 1 / scale[..., None])[..., 0] / scale
    return solved / solved.sum(-1, keepdims=True)


def model_covariance(sky, edges):
    """Expected covariance of the bands in each bin, without the CMB, which moves no weight.

    Returns:
        C_ell averaged over the modes of the bin, shape (n_bins, n_bands, n_bands), uK^2. Presets
        count with the power they have; of an ensemble it is the mean over its prior.
    """
    dl, emission = sky.foregrounds.components(NUM_PARAMETERS, np.random.default_rng(0))
    # one product for each sky, component and ell: the components of a sky have a spectrum each
    cl = cosmology.dl_to_cl(dl, sky.ell)
    noise = cosmology.dl_to_cl(sky.dl_noise, sky.ell)
    covariances = []
    for ells, modes in zip(*bin_slices(sky.ell, edges), strict=True):
        nu = sky.nu[ells]
        power = (cl[..., ells] * nu).sum(-1)
        gaussian = np.einsum("nc,nci,ncj->ij", power, emission, emission, optimize=True) / len(dl)
        fixed = sky.foregrounds.fixed[:, modes] @ sky.foregrounds.fixed[:, modes].T
        white = np.diag((noise[:, ells] * nu).sum(1))
        covariances.append((gaussian + fixed + white) / nu.sum())
    return np.array(covariances)


def check_bands(sky, edges, weights_from):
    """Raise InputError where there are too few bands, or too few modes, for weights."""
    n_bands, needed = len(sky.dl_noise), sky.foregrounds.num_components + 1
    if n_bands < needed:
        raise InputError(
            f"--clean hilc: {n_bands} bands cannot tell {needed - 1} foregrounds from the CMB; "
            f"give at least {needed} in --bands or --instrument"
        )
    for ells in bin_slices(sky.ell, edges)[0]:
        num_modes = sky.nu[ells].sum()
        if weights_from == "sky" and num_modes < n_bands:
            raise InputError(
                f"--ilc-bins: the bin from ell = {sky.ell[ells][0]} has {num_modes} modes, too few "
                f"for the covariance of {n_bands} bands; make it wider, pick fewer --bands, or use "
                "--ilc-weights model"
            )


def per_ell(weights, edges):
    """Weights of bins, shape (..., n_bins, n_bands), as weights of each ell, (..., n_ell, ...)."""
    return np.repeat(weights, np.diff(edges), axis=-2)


# --- what is left ----------------------------------------------------------------------------


def gaussian_residual(dl, emission, weights):
    """Power of Gaussian foregrounds after a sum over bands.

    Args:
        dl: Shape (n, n_components, n_ell), uK^2.
        emission: Shape (n, n_components, n_bands).
        weights: Shape (n_ell, n_bands).

    Returns:
        D_ell, shape (n, n_ell), uK^2.
    """
    return (dl * (emission @ weights.T) ** 2).sum(1)


def residual_powers(sky, weights):
    """Expected powers of everything but the signal after a sum over bands.

    Args:
        sky: A `BandSky`.
        weights: The same for all skies, shape (n_ell, n_bands).

    Returns:
        Dict of D_ell, each of shape (n_ell,), uK^2: dl_lensing, dl_noise and
        dl_gaussian_foreground (of an ensemble, its mean), drawn anew for each sample, and
        dl_fixed_foreground.
    """
    dl, emission = sky.foregrounds.components(NUM_PARAMETERS, np.random.default_rng(0))
    return {
        "dl_lensing": sky.dl_lensing * weights.sum(1) ** 2,
        "dl_noise": (sky.dl_noise * weights.T**2).sum(0),
        "dl_gaussian_foreground": gaussian_residual(dl, emission, weights).mean(0),
        "dl_fixed_foreground": sky.foregrounds.fixed_bb(weights),
    }


# --- weights of each sky ---------------------------------------------------------------------


def draw_modes(sky, dl_signal, n, generators):
    """Draw n skies in all bands.

    Args:
        sky: A `BandSky`.
        dl_signal: Primordial D_ell through the common beam, shape (n_ell,) or (n, n_ell), uK^2.
        n: Number of skies.
        generators: From `spectra.make_generators`; they advance, so that the next call goes on.

    Returns:
        (primordial, data): real harmonic coefficients in uK, shapes (n, n_modes) and
        (n, n_bands, n_modes); n_modes counts the 2 ell + 1 of each ell in turn.
    """
    nu, num_modes = sky.nu, int(sky.nu.sum())

    def amplitude(dl):
        return np.repeat(np.sqrt(cosmology.dl_to_cl(dl, sky.ell)), nu, axis=-1)

    def normal(name, *rows):
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


def own_weights(data, ell, edges):
    """Weights from the covariance of each sky's own modes, shape (n, n_bins, n_bands)."""
    bands = [data[:, :, modes] for modes in bin_slices(ell, edges)[1]]
    return np.stack([ilc_weights(d @ np.swapaxes(d, 1, 2) / d.shape[2]) for d in bands], 1)


def clean(data, weights, ell, edges):
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
        (weights[:, k, None] @ data[:, :, modes])[:, 0]
        for k, modes in enumerate(bin_slices(ell, edges)[1])
    ]
    return np.concatenate(sums, -1)


def realised_bb(modes, ell):
    """D_ell of coefficients of shape (..., n_modes), shape (..., n_ell)."""
    nu = 2 * ell + 1
    return cosmology.cl_to_dl(np.add.reduceat(modes**2, np.cumsum(nu) - nu, axis=-1) / nu, ell)


def draw_cleaned(sky, dl_signal, edges, n, generators):
    """Truth and observation of n skies, each cleaned with its own weights.

    Args and generators as in `draw_modes`.

    Returns:
        x and y, realised D_ell of truth and observation, each of shape (n, n_ell), uK^2.
    """
    primordial, data = draw_modes(sky, dl_signal, n, generators)
    cleaned = clean(data, own_weights(data, sky.ell, edges), sky.ell, edges)
    return realised_bb(primordial, sky.ell), realised_bb(cleaned, sky.ell)


def expected_ilc_bias(total, ell, edges, n_bands):
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
    for ells in bin_slices(ell, edges)[0]:
        bias[ells] = -(n_bands - 1) / (2 * ell[ells] + 1).sum() * total[ells]
    return bias


def measure_sky_weights(sky, draw_signal, edges, generators, chunk, on_rows=lambda m: None):
    """Mean weights of skies that are cleaned with their own, and their ILC bias.

    The bias is a mean difference on the same skies, between own weights and known ones: most of
    the scatter of a sky drops out.

    Args:
        sky: A `BandSky`.
        draw_signal: Callable m -> D_ell of the next m skies, (n_ell,) or (m, n_ell).
        edges: Of the bins.
        generators: From `spectra.make_generators`.
        chunk: Skies held at a time.
        on_rows: Called with the number of skies after each chunk.

    Returns:
        Dict: ilc_weights and ilc_weights_std, shape (n_bins, n_bands); dl_ilc_bias and
        dl_ilc_bias_error (of the mean), shape (n_ell,), uK^2.
    """
    known = ilc_weights(model_covariance(sky, edges))[None]
    weights, biases = [], []
    for start in range(0, NUM_PILOT, chunk):
        m = min(chunk, NUM_PILOT - start)
        _, data = draw_modes(sky, draw_signal(m), m, generators)
        own = own_weights(data, sky.ell, edges)
        powers = (realised_bb(clean(data, w, sky.ell, edges), sky.ell) for w in (own, known))
        biases.append(next(powers) - next(powers))
        weights.append(own)
        on_rows(m)
    weights, biases = np.concatenate(weights), np.concatenate(biases)
    return {
        "ilc_weights": weights.mean(0),
        "ilc_weights_std": weights.std(0, ddof=1),
        "dl_ilc_bias": biases.mean(0),
        "dl_ilc_bias_error": biases.std(0, ddof=1) / np.sqrt(len(biases)),
    }
