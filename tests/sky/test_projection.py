"""Mollweide's projection: equal areas, north up, longitudes growing to the left."""

import healpy
import numpy as np
import pytest

from sky import projection

NSIDE = 8
LONGITUDE, LATITUDE = healpy.pix2ang(NSIDE, np.arange(12 * NSIDE**2), lonlat=True)


def test_areas_are_those_of_the_sphere():
    for cut in (0, 20, 60):
        pixels = np.flatnonzero(np.abs(LATITUDE) >= cut)
        image = projection.mollweide(NSIDE, pixels, np.ones(len(pixels)))
        inside = ~np.isinf(image)
        assert inside.mean() == pytest.approx(np.pi / 4, abs=2e-3)
        share = np.isfinite(image).sum() / inside.sum()
        assert share == pytest.approx(len(pixels) / len(LATITUDE), abs=2e-3)


def test_directions():
    pixels = np.arange(len(LATITUDE))
    latitudes = projection.mollweide(NSIDE, pixels, LATITUDE, height=100)
    assert latitudes[2, 100] < -70 and latitudes[97, 100] > 70
    longitudes = projection.mollweide(NSIDE, pixels, LONGITUDE, height=100)
    assert longitudes[50, 50] == pytest.approx(90, abs=10)  # left of the centre
    assert longitudes[50, 150] == pytest.approx(270, abs=10)
    assert np.isinf(longitudes[0, 0])
    # as healpy has it, at some places
    from healpy import projector

    plane = projector.MollweideProj()
    across, up = 2 * (np.array([30, 120]) + 0.5) / 100 - 2, 2 * (np.array([40, 70]) + 0.5) / 100 - 1
    theta, phi = plane.xy2ang(across, up)
    expected = LONGITUDE[healpy.ang2pix(NSIDE, theta, phi)]
    assert longitudes[[40, 70], [30, 120]].tolist() == expected.tolist()
