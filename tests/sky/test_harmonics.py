"""Matrices of the modes against healpy's transforms."""

import healpy
import numpy as np
import pytest

from sky import harmonics, realisations

NSIDE, ELL_MAX = 4, 11
ELL = np.arange(2, ELL_MAX + 1)
PIXELS = np.arange(7, 190, 3)


def coefficients(*shape):
    return np.random.default_rng(0).standard_normal((*shape, (ELL_MAX + 1) ** 2 - 4))


def test_maps_are_those_of_healpy():
    b, e = coefficients(2)
    b_modes = harmonics.polarisation_modes(NSIDE, ELL_MAX, PIXELS)
    alms = [harmonics.to_alm(modes, ELL_MAX) for modes in (0 * e, e, b)]
    _, q, u = healpy.alm2map(alms, NSIDE, lmax=ELL_MAX, pol=True)
    found = b_modes @ b + harmonics.as_e_modes(b_modes) @ e
    np.testing.assert_allclose(found, np.concatenate([q[PIXELS], u[PIXELS]]), atol=1e-12)


def test_powers_are_those_of_healpy():
    b = coefficients()
    expected = healpy.alm2cl(harmonics.to_alm(b, ELL_MAX))[2:] * ELL * (ELL + 1) / (2 * np.pi)
    assert realisations.realised_bb(b, ELL) == pytest.approx(expected, rel=1e-12)


def test_values_of_ell_and_sums_over_its_modes():
    values = np.arange(len(ELL)) + 1.5
    per_mode = harmonics.per_mode(values)
    assert len(per_mode) == len(coefficients())
    assert (per_mode == np.repeat(values, 2 * ELL + 1)).all()
    sums = harmonics.sum_modes(np.stack([per_mode, 0 * per_mode], 1), ELL)
    assert sums[:, 0] == pytest.approx(values * (2 * ELL + 1)) and not sums[:, 1].any()


def test_each_mode_is_that_of_healpy():
    """Also where Jacobi polynomials have large degrees and orders."""
    nside, ell_max = 16, 47
    pixels = np.arange(0, 12 * nside**2, 5)
    found = harmonics.polarisation_modes(nside, ell_max, pixels)
    ell = harmonics.mode_ell(ell_max)
    for column in np.random.default_rng(1).choice(len(ell), 60, replace=False):
        unit = np.zeros(len(ell))
        unit[column] = 1
        alms = [np.zeros(healpy.Alm.getsize(ell_max), complex), harmonics.to_alm(unit, ell_max)]
        expected = np.concatenate(
            [each[pixels] for each in healpy.alm2map_spin(alms, nside, 2, ell_max)]
        )
        np.testing.assert_allclose(found[:, column], expected, atol=1e-12)
