"""Part of the sky, at the depth of each pixel, without a map per sky: v = R b + g.

A map d of Q and U is linear in the coefficients b of the B modes, and all else in it is Gaussian
noise of a known covariance C0: d = B b + noise. Whitened by C0, and freed of what is not to be
estimated, it is a vector v whose noise g is N(0, 1), and R = C0^(-1/2) B holds mask, E-to-B leakage
and depth. Coefficients and powers are those of the map, through beam and window, as on the full
sky. u = R^T v = B^T C0^-1 d is a sufficient statistic for b: u | b ~ N(K b, K), K = R^T R. E modes
of any amplitude ("pure B") are columns of infinite variance in C0, that is, projected out.

The spectrum is the quadratic estimator of Tegmark & de Oliveira-Costa 2001 (astro-ph/0012120):
h = (1 + K S)^-1 u = R^T (1 + R S R^T)^-1 v with a fiducial power S, and the sum of h^2 at each ell.
"""

import dataclasses
import functools
from typing import Self

import numpy as np
import numpy.typing as npt

from runtime.errors import InputError
from runtime.priors import FloatArray
from sky import cosmology, harmonics, realisations
from sky.cosmology import IntArray
from sky.realisations import ExpectedPowers, Generators, RealArray

# Below this share of the clearest an E mode leaves no trace: 2e-5 of the noise in v (|b| > 40 deg)
INVISIBLE = 1e-7  # 1e-9 costs 4 to 8 % of sigma(r) there
CLEAR = 1e-3  # likewise, above which one needs no pivot


def multipoles(nside: int) -> IntArray:
    """ell = 2 ... 3 nside - 1, shape (3 nside - 2,): all that the window lets into a map."""
    return np.arange(2, 3 * nside)


def cosine_window(nside: int) -> FloatArray:
    """Amplitude at `multipoles`: 1 up to ell = nside, then half a cosine to 0 at 3 nside."""
    beyond = np.clip((multipoles(nside) - nside) / (2 * nside), 0, 1)
    return (1 + np.cos(np.pi * beyond)) / 2


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """Which pixels are seen, and how deeply.

    Attributes:
        nside: HEALPix NSIDE.
        pixels: RING numbers of the pixels that are seen, shape (n_pix,).
        noise: Variance of Q, covariance of Q and U, variance of U of each, shape (n_pix, 3), uK^2.

    Raises:
        InputError: If no pixel is seen.
    """

    nside: int
    pixels: IntArray
    noise: FloatArray

    def __post_init__(self) -> None:
        if not len(self.pixels):
            raise InputError("--mask: no pixel of the sky is seen; mask less of it")

    @classmethod
    def uniform(cls, weights: FloatArray, noise_uk_arcmin: float) -> Self:
        """White noise, of the given depth where a pixel has the weight 1.

        Args:
            weights: Of each pixel, RING, shape (12 nside^2,), 0 to 1: a mask, or hits over the
                largest. The variance goes with 1 / weight; pixels of weight 0 are not seen.
            noise_uk_arcmin: uK-arcmin in polarisation, > 0.
        """
        nside = round((len(weights) / 12) ** 0.5)
        pixels = np.flatnonzero(weights > 0)
        sigma = np.radians(noise_uk_arcmin / 60) * nside * np.sqrt(3 / np.pi)
        variance = sigma**2 / weights[pixels]
        return cls(nside, pixels, np.stack([variance, 0 * variance, variance], 1))

    @classmethod
    def of_variances(cls, noise: FloatArray, weights: FloatArray) -> Self:
        """Noise of each pixel as it was measured, where a mask leaves the pixel.

        Args:
            noise: As `noise` of a survey but for all pixels, RING, shape (12 nside^2, 3); NaN where
                a pixel is not seen.
            weights: A mask, shape (12 nside^2,), 0 to 1: the noise goes with 1 / weight.
        """
        nside = round((len(weights) / 12) ** 0.5)
        pixels = np.flatnonzero((weights > 0) & np.isfinite(noise).all(1))
        return cls(nside, pixels, noise[pixels] / weights[pixels, None])

    @property
    def f_sky(self) -> float:
        """Share of the sky that is seen."""
        return len(self.pixels) / (12 * self.nside**2)

    @property
    def depths(self) -> FloatArray:
        """Of each pixel, uK-arcmin in polarisation, shape (n_pix,)."""
        deviation = np.sqrt(self.noise[:, [0, 2]].mean(1))
        return 60 * np.degrees(deviation * np.sqrt(np.pi / 3) / self.nside)

    @property
    def depth_uk_arcmin(self) -> float:
        """Of the deepest pixel, uK-arcmin in polarisation."""
        return float(self.depths.min())

    @property
    def dl_noise(self) -> FloatArray:
        """Power of noise of the mean depth, on the full sky, D_ell at `multipoles`, uK^2."""
        mean = 1 / (1 / self.noise[:, [0, 2]]).mean()
        ell = multipoles(self.nside)
        return cosmology.cl_to_dl(np.full(len(ell), mean * np.pi / (3 * self.nside**2)), ell)

    def whiten(self, maps: FloatArray) -> FloatArray:
        """Maps over the root of their noise, shape (2 n_pix, k): Q of all pixels seen, then U."""
        qq, qu, uu = self.noise.T[..., None]
        white = maps.copy(order="K")
        q, u = np.split(white, 2)
        q /= np.sqrt(qq)  # the Cholesky factor, pixel by pixel
        if qu.any():
            u -= qu / np.sqrt(qq) * q
        u /= np.sqrt(uu - qu**2 / qq)
        return white


@dataclasses.dataclass(frozen=True, eq=False)
class Reflections:
    """Householder reflections that turn a span of columns into the first rows, which are left out.

    Attributes:
        factors: As LAPACK has them, shape (n, rank).
        tau: Their scales, shape (rank,).
    """

    factors: FloatArray
    tau: FloatArray

    def __call__(self, columns: FloatArray) -> FloatArray:
        """What of columns, shape (n, k), lies outside of the span, shape (n - rank, k)."""
        if not len(self.tau):  # which LAPACK refuses
            return columns
        from scipy import linalg

        columns = np.asfortranarray(columns)
        size = int(linalg.lapack.dormqr("L", "T", self.factors, self.tau, columns, -1)[1][0])
        turned = linalg.lapack.dormqr("L", "T", self.factors, self.tau, columns, size)[0]
        return turned[len(self.tau) :]


@dataclasses.dataclass(frozen=True, eq=False)
class SpanRemoved:
    """What takes the span of columns, but for what is `INVISIBLE`, out of others.

    Pivots find the span, and make a factorisation slow. So columns are mixed at random, after which
    nearly all of them are clear of one another and need none; what is left of the others is little.

    Attributes:
        clear: Of the mixed columns that are clear of one another.
        faint: Of what they leave of the others.
    """

    clear: Reflections
    faint: Reflections
    noise = None  # covariance of what is left of white noise, as in `KnownPower`: 1

    @classmethod
    def of(cls, columns: FloatArray) -> Self:
        """The span of columns, shape (n, k), which are overwritten."""
        from scipy import fft, linalg

        columns *= np.random.default_rng(0).choice([-1.0, 1.0], columns.shape[1])
        mixed = fft.dct(columns, axis=1, norm="ortho", overwrite_x=True)
        (factors, tau), upper = linalg.qr(mixed, mode="raw", check_finite=False)
        diagonal = np.abs(np.diagonal(upper))
        largest = diagonal.max()
        num_clear = int(np.cumprod(diagonal > CLEAR * largest).sum())
        clear = Reflections(np.asfortranarray(factors[:, :num_clear]), tau[:num_clear])
        if num_clear == len(tau):
            return cls(clear, Reflections(factors[:, :0], tau[:0]))
        (factors, tau), upper, _ = linalg.qr(clear(mixed[:, num_clear:]), mode="raw", pivoting=True)
        rank = int((np.abs(np.diagonal(upper)) > INVISIBLE * largest).sum())
        return cls(clear, Reflections(np.asfortranarray(factors[:, :rank]), tau[:rank]))

    @property
    def rank(self) -> int:
        """Dimension of the span."""
        return len(self.clear.tau) + len(self.faint.tau)

    def __call__(self, columns: FloatArray) -> FloatArray:
        """What of columns, shape (n, k), lies outside of the span, shape (n - rank, k)."""
        return self.faint(self.clear(columns))


@dataclasses.dataclass(frozen=True, eq=False)
class KnownPower:
    """Contaminants of known power, whose covariance whitened maps are whitened by once more.

    Attributes:
        to_data: Shape (n_data, n), with n the size of a whitened map.
    """

    to_data: FloatArray

    @classmethod
    def of(cls, columns: FloatArray, wanted: FloatArray) -> Self:
        """Of coefficients of unit variance; what those that are wanted do not reach is left out.

        Both are what coefficients make of a whitened map, shape (n, k).
        """
        from scipy import linalg

        covariance = np.eye(len(columns)) + columns @ columns.T
        lower = linalg.cholesky(covariance, lower=True, overwrite_a=True)
        if wanted.shape[1] >= len(wanted):
            return cls(linalg.solve_triangular(lower, np.eye(len(lower)), lower=True))
        white = linalg.solve_triangular(lower, wanted, lower=True)
        kept = linalg.qr(white, mode="economic", overwrite_a=True)[0]
        return cls(linalg.solve_triangular(lower, kept, lower=True, trans="T").T)

    @property
    def noise(self) -> FloatArray:
        """Covariance of what is left of white noise alone, shape (n_data, n_data)."""
        return self.to_data @ self.to_data.T

    def __call__(self, columns: FloatArray) -> FloatArray:
        """What is left of columns, shape (n, k): (n_data, k), with noise N(0, 1)."""
        return self.to_data @ columns


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedSky:
    """What a map of part of the sky says of its B modes: v = R b + g.

    Attributes:
        survey: Pixels and their noise.
        response: R, shape (n_data, n_modes), 1/uK.
        reduction: Frees a whitened map of E modes; None where skies are drawn alone.
    """

    survey: Survey
    response: FloatArray
    reduction: SpanRemoved | KnownPower | None

    @classmethod
    def with_free_e_modes(cls, survey: Survey) -> Self:
        """E modes may have any amplitude: nothing that they can make is left in v.

        Raises:
            InputError: If no B modes are left.
        """
        ell = multipoles(survey.nside)
        b_modes = harmonics.polarisation_modes(survey.nside, int(ell[-1]), survey.pixels)
        unwanted = SpanRemoved.of(survey.whiten(harmonics.as_e_modes(b_modes)))
        if unwanted.rank == len(b_modes):
            raise InputError(
                f"--mask: on {100 * survey.f_sky:.0f} % of the sky E modes can make any map at "
                "all, and no B modes are left; take --e-modes known, or more of the sky"
            )
        return cls(survey, unwanted(survey.whiten(b_modes)).copy(), unwanted)

    @classmethod
    def with_known_e_modes(cls, survey: Survey, dl_ee: FloatArray) -> Self:
        """E modes have the power dl_ee, D_ell at `multipoles`, shape (n_ell,), uK^2."""
        ell = multipoles(survey.nside)
        b_modes = harmonics.polarisation_modes(survey.nside, int(ell[-1]), survey.pixels)
        root = np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(dl_ee, ell)))
        white = survey.whiten(b_modes)
        known = KnownPower.of(survey.whiten(harmonics.as_e_modes(b_modes)) * root, white)
        return cls(survey, known(white), known)

    def reduce(self, maps: FloatArray) -> FloatArray:
        """v of maps, shape (k, n_data); maps of shape (k, 2 n_pix), Q then U, uK."""
        assert self.reduction is not None
        return self.reduction(self.survey.whiten(maps.T)).T

    def draw(self, modes: RealArray, rng: np.random.Generator) -> FloatArray:
        """v of skies, shape (k, n_data), with noise of their own; modes (k, n_modes), uK.

        In single precision, twice as fast: 1e-7 of a sky is nothing.
        """
        seen = modes.astype(np.float32, copy=False) @ self._single.T
        seen += rng.standard_normal(seen.shape, dtype=np.float32)
        return seen.astype(float)

    @functools.cached_property
    def _single(self) -> npt.NDArray[np.float32]:
        return self.response.astype(np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class QuadraticEstimator:
    """Spectrum of v: the observation y.

    Attributes:
        ell: Multipoles, shape (n_ell,).
        weights: h of v, shape (n_modes, n_data), uK.
        mixing: M of the mean sums of squares M C + b of skies of power C, shape (n_ell, n_ell).
        noise: b, shape (n_ell,).
        cl_fiducial: C_ell of the fiducial sky, shape (n_ell,), uK^2.
    """

    ell: IntArray
    weights: FloatArray
    mixing: FloatArray
    noise: FloatArray
    cl_fiducial: FloatArray

    @classmethod
    def of(cls, masked: MaskedSky, dl_fiducial: FloatArray) -> Self:
        """The estimator that is best where D_ell is dl_fiducial, shape (n_ell,), uK^2, above 0."""
        from scipy import linalg

        ell, response = multipoles(masked.survey.nside), masked.response
        cl_fiducial = cosmology.dl_to_cl(dl_fiducial, ell)
        covariance = np.eye(len(response))
        covariance += (response * harmonics.per_mode(cl_fiducial)) @ response.T
        weights = linalg.cho_solve(linalg.cho_factor(covariance, overwrite_a=True), response).T
        ends = np.cumsum(2 * ell + 1)
        mixing = harmonics.sum_modes(
            np.array([((rows @ response) ** 2).sum(0) for rows in np.split(weights, ends[:-1])]).T,
            ell,
        )
        noise = harmonics.sum_modes((weights**2).sum(1)[:, None], ell)[:, 0]
        return cls(ell, weights, mixing, noise, cl_fiducial)

    @property
    def scale(self) -> FloatArray:
        """What turns sums of squares into powers of the sky, shape (n_ell,)."""
        return self.cl_fiducial / (self.mixing @ self.cl_fiducial)

    @property
    def dl_noise(self) -> FloatArray:
        """Mean of the noise in a spectrum, D_ell, shape (n_ell,), uK^2."""
        return cosmology.cl_to_dl(self.scale * self.noise, self.ell)

    def spectra(self, v: FloatArray) -> FloatArray:
        """y, shape (k, n_ell), D_ell in uK^2, > 0: sums of squares, scaled to the power of the sky.

        The mean is that of the fiducial sky, and noise, where the sky is the fiducial one. On the
        full sky y is what an observation is without a mask: S + N times a chi-square over nu.
        """
        squares = harmonics.sum_modes(((v @ self.weights.T) ** 2).T, self.ell).T
        return cosmology.cl_to_dl(squares * self.scale, self.ell)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedRows:
    """Simulated skies, one a row.

    Attributes:
        x: Realised primordial D_ell of the full sky at ell = 2 ... 2 nside - 1, shape (n, n_ell),
            uK^2.
        y: Spectrum of the part that is seen, D_ell at `multipoles`, shape (n, 3 nside - 2), uK^2.
        v: Reduced maps, from which y and all else follows, shape (n, n_data).
    """

    x: FloatArray
    y: FloatArray
    v: FloatArray


def draw_rows(
    sky: MaskedSky,
    estimator: QuadraticEstimator,
    powers: ExpectedPowers,
    n: int,
    generators: Generators,
    fixed_modes: FloatArray | float = 0.0,
) -> MaskedRows:
    """Draw skies: truth, observation and reduced map.

    Args:
        sky: What is seen.
        estimator: Of y.
        powers: At `multipoles`, through beam and window; a fixed foreground comes as its modes.
        n: Number of skies.
        generators: From `realisations.make_generators`; they advance, so that the next call goes
            on: rows do not depend on how many are drawn at a time.
        fixed_modes: Coefficients of a foreground that all skies share, shape (n_modes,), uK.
    """
    ell, n_x = powers.ell, len(cosmology.multipoles(sky.survey.nside))
    cl_signal, cl_contaminant = (
        cosmology.dl_to_cl(dl, ell) for dl in (powers.dl_signal, powers.dl_contaminant)
    )
    # of what no truth is asked for, one draw will do
    cl_rest = cl_contaminant + np.where(np.arange(len(ell)) < n_x, 0, cl_signal)
    shapes = [(n, int((2 * ell[:k] + 1).sum())) for k in (n_x, len(ell))]
    unit = generators["primordial"].standard_normal(shapes[0], np.float32)
    rest = generators["lensing"].standard_normal(shapes[1], np.float32)
    modes = rest * _roots(cl_rest) + np.asarray(fixed_modes, np.float32)
    modes[:, : unit.shape[1]] += unit * _roots(cl_signal[..., :n_x])
    mean_squares = realisations.realised_bb(unit, ell[:n_x])  # of unit power
    v = sky.draw(modes, generators["noise"])
    return MaskedRows(cl_signal[..., :n_x] * mean_squares, estimator.spectra(v), v)


def _roots(cl: FloatArray) -> npt.NDArray[np.float32]:
    """Standard deviation of each coefficient, shape (..., n_modes), uK, of powers (..., n_ell)."""
    return harmonics.per_mode(np.sqrt(cl).astype(np.float32))
