"""The gate before r: right maps of every kind of sky pass, those of another do not."""

import dataclasses

import healpy
import numpy as np
import pytest

from checks import map_gate
from runtime.map_powers import MapPowers
from runtime.priors import Parameter, Prior
from sky import cosmology, harmonics, masked

NSIDE, RANGE, N = 8, (0.0, 1.0), 12
ELL = masked.multipoles(NSIDE)
WINDOW = masked.cosine_window(NSIDE) ** 2
DL_PER_R, DL_LENSING = 0.05 * np.exp(-ELL / 8) * WINDOW, 2e-6 * ELL**2 * WINDOW
DL_DUST = 3e-3 * (ELL / 10.0) ** -0.5 * WINDOW
PRIOR = Prior(
    parameters=(Parameter("r", *RANGE),), signal_template=cosmology.linear_template(DL_PER_R)
)


@pytest.fixture(scope="module")
def part():
    latitude = 90 - np.degrees(healpy.pix2ang(NSIDE, np.arange(12 * NSIDE**2))[0])
    survey = masked.Survey.uniform((np.abs(latitude) > 20).astype(float), 5.0)
    return masked.MaskedSky.with_free_e_modes(survey)


def modes(dl, seed):
    """Coefficients of N skies of a power."""
    root = np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(dl, ELL)))
    return root * np.random.default_rng(seed).standard_normal((N, len(root)))


def gate_of(part, **powers):
    powers = MapPowers(**{"prior": PRIOR, "dl_contaminant": DL_LENSING, **powers})
    return map_gate.MapGate.of(part.response, powers, [], np.zeros((0, len(part.response))))


def refused(gate, part, sky):
    """How many of N skies are refused."""
    v = part.draw(sky, np.random.default_rng(9))
    return sum(gate.judge(one, gate.posterior(one)).refused for one in v)


def test_a_fixed_foreground_belongs_to_the_model(part):
    sky, fixed = modes(0.3 * DL_PER_R + DL_LENSING, 1), modes(20 * DL_DUST, 2)[0]
    gate = gate_of(part, fixed_modes=fixed)
    assert refused(gate, part, sky + fixed) == 0
    assert refused(gate, part, sky) == N  # without it
    assert refused(gate_of(part), part, sky + fixed) == N  # unknown


def test_an_ensemble_is_taken_at_the_foreground_that_suits(part):
    """Of any amplitude, and a tilt between those of its shapes; not of another shape."""
    shapes = np.stack([DL_DUST * (ELL / 10.0) ** tilt for tilt in (-0.7, 0.0, 0.7)])
    gate, sky = gate_of(part, dl_foregrounds=shapes), 0.3 * DL_PER_R + DL_LENSING
    for amplitude, tilt in ((0.0, 0.0), (0.1, 0.3), (10.0, -0.3)):
        dust = amplitude * DL_DUST * (ELL / 10.0) ** tilt
        assert refused(gate, part, modes(sky + dust, 3)) == 0
    assert gate.posterior(part.draw(modes(sky, 3), np.random.default_rng(4))[0]) is None
    other = np.where(ELL == 9, 300 * DL_DUST, 0.0)
    assert refused(gate, part, modes(sky + other, 3)) == N
    known = gate_of(part)  # the same skies, of a model without foregrounds
    assert refused(known, part, modes(sky + 10 * DL_DUST, 3)) == N


def test_one_r_is_the_model_at_that_r(part):
    prior = Prior(r=0.3, dl_signal=0.3 * DL_PER_R)
    gate = gate_of(part, prior=prior)
    assert refused(gate, part, modes(0.3 * DL_PER_R + DL_LENSING, 5)) == 0
    assert refused(gate, part, modes(30 * DL_PER_R + DL_LENSING, 5)) == N
    null = dataclasses.replace(prior, r=0.0, dl_signal=np.zeros(len(ELL)))
    assert refused(gate_of(part, prior=null), part, modes(DL_LENSING, 5)) == 0
