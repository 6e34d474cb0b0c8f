"""The sphere on paper: HEALPix maps in Mollweide's equal-area projection, for figures."""

import numpy as np

from runtime.priors import FloatArray
from sky.cosmology import IntArray


def mollweide(nside: int, pixels: IntArray, values: FloatArray, height: int = 300) -> FloatArray:
    """Image of a map, north up, its centre in the middle, longitudes growing to the left.

    Args:
        nside: HEALPix NSIDE.
        pixels: RING numbers of the pixels that have a value, shape (n_pix,).
        values: Of these pixels, shape (n_pix,).
        height: Of the image.

    Returns:
        Shape (height, 2 height), the first row in the south; NaN where there is no value, infinite
        outside of the sphere.
    """
    import healpy

    across = 2 * (np.arange(2 * height) + 0.5) / height - 2  # -2 to 2, the axes of the ellipse
    up = 2 * (np.arange(height) + 0.5) / height - 1
    angle = np.arcsin(up)[:, None]
    latitude = np.arcsin((2 * angle + np.sin(2 * angle)) / np.pi)
    longitude = -np.pi * across / (2 * np.cos(angle))
    inside = np.abs(longitude) <= np.pi
    sphere = np.full(12 * nside**2, np.nan)
    sphere[pixels] = values
    colatitude = np.broadcast_to(np.pi / 2 - latitude, longitude.shape)
    image = np.full(longitude.shape, np.inf)
    image[inside] = sphere[healpy.ang2pix(nside, colatitude[inside], longitude[inside])]
    return image
