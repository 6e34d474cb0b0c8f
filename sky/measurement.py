"""From a map of Q and U to the numbers that the analysis of a masked sky takes.

The sky that an analysis simulates, see `sky.masked`, is d = B W b + E modes + white noise, where
the window W acts on the signal alone. A map of the survey's own NSIDE is taken as it is. A finer
one is degraded in harmonic space: its E and B modes go through the cosine window and are
synthesised in the survey's pixels. That windows its noise, too, which is then neither white nor of
the survey's depth at large ell; Gaussian noise is added that makes up for it.

Nothing is projected out of Q and U. They are spin-2 fields and have no ell < 2, and constants and
dipoles look like tensors: projecting them out doubles sigma(r) at r = 0 (1.86e-4 to 3.69e-4 at
NSIDE 16, |b| > 20 deg). `offset_templates` let `checks.goodness` name them instead.

Not corrected: the beam, which the analysis has in its own window, and the fine map's pixel window,
about 1 - 0.044 (ell / NSIDE)^2: at ell = 16, 0.3 % in amplitude for NSIDE 64, 4e-5 for NSIDE 512.
"""

import dataclasses

import numpy as np

from runtime.errors import InputError
from runtime.priors import FloatArray
from sky.harmonics import ComplexArray
from sky.healpix_files import SYSTEMS
from sky.maps import PolarisationMap
from sky.masked import MaskedSky, Survey, cosine_window

ITERATIONS = 3  # of an analysis without pixel weights
# NSIDE from which E modes beyond the analysis's ell alias into B at less than 1e-4 of the power of
# 1 uK-arcmin noise (2e-2 at 128): below it all modes of the map are analysed, 0.2 s at 128
NO_ALIASING = 512
# Pixels of the survey between it and missing pixels of a fine map, which count as 0. E modes of the
# CMB that are cut off there add at most 0.007 to the chi-square per mode of NSIDE 8 with lensing
# and 1 uK-arcmin noise, 0.001 at NSIDE 16, and at no multipole more than 0.12 of its standard
# deviation; at two pixels up to 0.013 and 0.3, at one 0.4 and 5. Filling the hole does not help.
CLEARANCE = 3.0
TRACE = 1e-6  # share of an offset that must be left in v, above the rounding of a reduction
PIXEL_DEG = np.degrees(np.sqrt(np.pi / 3))  # side of a pixel of NSIDE 1


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A map as the analysis of a masked sky takes it.

    Attributes:
        values: Q of the survey's pixels, then U, shape (2 n_pix,), uK.
        words: What was done, one line.
    """

    values: FloatArray
    words: str


def measure(
    path: str, sky_map: PolarisationMap, survey: Survey, rng: np.random.Generator
) -> Measured:
    """Q and U of a map in the pixels of a survey.

    The noise of a finer map must be white, and of the survey's depth; that it is topped up is then
    exact where the depth is the same everywhere, and good where it varies slowly from one pixel of
    the survey to the next.

    Args:
        path: Where the map comes from, for messages.
        sky_map: Of any NSIDE from that of the survey on; in equatorial or ecliptic coordinates only
            if it is finer, and without missing pixels.
        survey: Pixels and their noise, Galactic.
        rng: Of the noise that is added to a finer map.

    Raises:
        InputError: If the map is too coarse, is not seen where the survey is, or near to it, or
            cannot be rotated.
    """
    nside, missing = survey.nside, np.isnan(sky_map.q)
    system = SYSTEMS.get(sky_map.coordsys or "")
    if sky_map.nside < nside:
        raise InputError(
            f"{path}: has NSIDE {sky_map.nside}, and the analysis has {nside}; give a map of NSIDE "
            f"{nside} or finer"
        )
    if system:
        _check_rotation(path, sky_map, nside, system)
        place = f"rotated from {system} coordinates"
    else:
        place = "Galactic" if sky_map.coordsys else "coordinates not said, so Galactic"
    window = f"the cosine window, 1 up to ell = {nside} and 0 at {3 * nside}"
    if sky_map.nside == nside:
        _check_seen(path, missing, survey)
        values = np.concatenate([sky_map.q[survey.pixels], sky_map.u[survey.pixels]])
        return Measured(
            values,
            f"{path}: {place}, taken as it is at NSIDE {nside}, to which its signal must have been "
            f"brought in harmonic space with {window}, not by ud_grade",
        )
    _check_clearance(path, sky_map.nside, missing, survey)
    values = degraded(sky_map, nside)[:, survey.pixels].ravel()
    white = rng.standard_normal((2, 12 * nside**2))
    values += _with_noise_of(survey, lost_to_window(white)[:, survey.pixels])
    filled = f", {missing.sum()} missing pixels counted as 0" if missing.any() else ""
    return Measured(
        values,
        f"{path}: {place}{filled}, brought from NSIDE {sky_map.nside} to {nside} in harmonic space "
        f"with {window}, noise topped up to white, seeded",
    )


def offsets(survey: Survey) -> tuple[tuple[str, ...], FloatArray]:
    """Templates of what is no sky: constants and dipoles in Q and in U.

    Returns:
        Their names, and maps of amplitude 1 as `Measured.values`, shape (8, 2 n_pix); x is towards
        the Galactic centre, z towards the Galactic north pole.
    """
    import healpy

    vectors = np.array(healpy.pix2vec(survey.nside, survey.pixels))
    patterns = np.concatenate([np.ones((1, len(survey.pixels))), vectors])
    names = ("constant {}", "dipole x of {}", "dipole y of {}", "dipole z of {}")
    return (
        tuple(name.format(stokes) for stokes in "QU" for name in names),
        np.kron(np.eye(2), patterns),
    )


def offset_templates(sky: MaskedSky) -> tuple[tuple[str, ...], FloatArray]:
    """Reduced maps of the `offsets` that leave a trace in v, as `checks.goodness.MapTest` takes.

    A constant Q and its dipole z are E modes (they have m = 0). Where E modes are free nothing is
    left of them but rounding, along which a test would be one of nothing; they do no harm, either.

    Returns:
        Names, and reduced maps, shape (n_templates, n_data).
    """
    names, maps = offsets(sky.survey)
    reduced = sky.reduce(maps)
    before = np.linalg.norm(sky.survey.whiten(maps.T), axis=0)
    left = np.linalg.norm(reduced, axis=1) > TRACE * before
    return tuple(name for name, is_left in zip(names, left, strict=True) if is_left), reduced[left]


def degraded(sky_map: PolarisationMap, nside: int) -> FloatArray:
    """Galactic Q and U of a finer map's modes through `cosine_window`, shape (2, 12 nside^2), uK.

    Missing pixels count as 0.
    """
    import healpy

    ell_max, fine = 3 * nside - 1, 3 * sky_map.nside - 1
    analysed = fine if sky_map.nside < NO_ALIASING else ell_max
    alms = _analyse(np.nan_to_num(np.stack([sky_map.q, sky_map.u])), sky_map.nside, analysed)
    alms = [healpy.resize_alm(alm, analysed, analysed, ell_max, ell_max) for alm in alms]
    if sky_map.coordsys in SYSTEMS:  # E and B rotate as scalars do
        rotator = healpy.Rotator(coord=[sky_map.coordsys, "G"])
        alms = [rotator.rotate_alm(alm, lmax=ell_max) for alm in alms]
    return _synthesise(alms, cosine_window(nside), nside)


def lost_to_window(white: FloatArray) -> FloatArray:
    """Noise that makes windowed white noise white again, from other white noise.

    With Y of E and B modes in pixels and c Y^T their analysis, c the area of a pixel, windowed
    noise has the covariance c Y W^2 Y^T. This is (1 - c Y D Y^T) white, D = 1 - sqrt(1 - W^2). The
    sum of both is 1 + c Y D (c Y^T Y - 1) D Y^T: white but for how far the modes that D holds are
    from orthogonal in HEALPix's pixels, which is 0.3 % (rms), 0.1 % in variances, and 0.4 % in the
    chi-square of NSIDE 16 at |b| > 20 deg.

    Args:
        white: Q and U, unit variance, shape (2, 12 nside^2).
    """
    import healpy

    nside = healpy.npix2nside(white.shape[1])
    share = 1 - np.sqrt(1 - cosine_window(nside) ** 2)
    alms = healpy.map2alm_spin(white, 2, 3 * nside - 1)  # without iterations c Y^T
    return white - _synthesise(alms, share, nside)


def _analyse(maps: FloatArray, nside: int, ell_max: int) -> list[ComplexArray]:
    """a_lm of E and B, of Q and U of shape (2, 12 nside^2)."""
    import healpy

    alms = np.zeros((2, healpy.Alm.getsize(ell_max)), complex)
    for _ in range(1 + ITERATIONS):
        left = maps - np.array(healpy.alm2map_spin(list(alms), nside, 2, ell_max))
        alms += np.array(healpy.map2alm_spin(left, 2, ell_max))
    return list(alms)


def _synthesise(alms: list[ComplexArray], amplitude: FloatArray, nside: int) -> FloatArray:
    """Q and U, shape (2, 12 nside^2), of E and B times an amplitude at ell = 2 ... 3 nside - 1."""
    import healpy

    per_ell = np.concatenate([[0, 0], amplitude])
    weighted = [healpy.almxfl(alm, per_ell) for alm in alms]
    return np.array(healpy.alm2map_spin(weighted, nside, 2, 3 * nside - 1))


def _with_noise_of(survey: Survey, white: FloatArray) -> FloatArray:
    """Noise of a survey, shape (2 n_pix,), of unit noise, (2, n_pix): undoes `Survey.whiten`."""
    qq, qu, uu = survey.noise.T
    root = np.sqrt(qq)
    return np.concatenate(
        [root * white[0], qu / root * white[0] + np.sqrt(uu - qu**2 / qq) * white[1]]
    )


def _check_rotation(path: str, sky_map: PolarisationMap, nside: int, system: str) -> None:
    """InputError where a map in other coordinates is not a finer and complete one."""
    said = f"{path}: is in {system} coordinates (COORDSYS {sky_map.coordsys})"
    if sky_map.nside == nside:  # modes beyond 2 NSIDE are not kept apart, and white noise is more
        raise InputError(
            f"{said} at the analysis's own NSIDE {nside}, where a rotation spoils its noise; give "
            f"the map in Galactic coordinates, or of NSIDE {2 * nside} or finer"
        )
    missing = np.isnan(sky_map.q).sum()
    if missing:
        raise InputError(
            f"{said}, and {missing} of its {len(sky_map.q)} pixels are missing, without which its "
            "modes cannot be rotated; give a complete map, or one in Galactic coordinates"
        )


def _check_seen(path: str, missing: np.ndarray, survey: Survey) -> None:
    """InputError where pixels of the survey are missing in a map of its NSIDE."""
    unseen = missing[survey.pixels].sum()
    if unseen:
        raise InputError(
            f"{path}: {unseen} of the {len(survey.pixels)} pixels of the analysis are missing; "
            "mask them with --mask and train again, or fill them"
        )


def _check_clearance(path: str, nside: int, missing: np.ndarray, survey: Survey) -> None:
    """InputError where pixels of the survey lie too near to missing ones of a finer map."""
    import healpy

    if not missing.any():
        return
    clearance = CLEARANCE * PIXEL_DEG / survey.nside
    centres = np.transpose(healpy.pix2vec(survey.nside, survey.pixels))
    radius = np.radians(clearance)
    near = sum(missing[healpy.query_disc(nside, centre, radius)].any() for centre in centres)
    if near:
        raise InputError(
            f"{path}: {near} of the {len(centres)} pixels of the analysis lie within "
            f"{clearance:.1f} degrees of pixels that are missing in the map, where degrading it "
            f"goes wrong; train with a --mask that keeps {clearance:.1f} degrees from them, or "
            "fill them"
        )
