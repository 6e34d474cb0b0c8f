"""Observations that no training row resembles: seen, named, and not seen where there are none."""

import numpy as np
import pytest
import torch

from diffusion import reach
from diffusion.normalizers import Normalizer
from diffusion.reach import Observed, Reach
from runtime.errors import InputError

ELL = np.arange(2, 16)
SIGNAL = 1e-3 * (ELL / 10.0) ** 1.5 + 2e-4 * np.exp(-((ELL / 4) ** 2))


def spectra(n, seed):
    """Rows of a full sky, S chi^2_nu / nu."""
    nu = 2 * ELL + 1
    return SIGNAL * np.random.default_rng(seed).chisquare(nu, (n, len(ELL))) / nu


TRAINING = torch.from_numpy(spectra(4000, 0))
NORMALIZER = Normalizer.fit([TRAINING.clone()])
REACH = Reach.of([NORMALIZER.normalize(TRAINING)])


def check(values, insist=False, raised=False, is_spectrum=True):
    observed = Observed("y.npy", values, NORMALIZER.normalize, is_spectrum, raised)
    return reach.check(REACH, observed, insist)


def test_other_rows_of_the_same_law_pass():
    assert not check(spectra(20_000, 1))


WEIGHT = ELL * (ELL + 1) / (2 * np.pi)
SLIPS = {
    r"as if K\^2 was taken for uK\^2": lambda dl: dl * 1e-12,
    r"as if uK\^2 was taken for K\^2": lambda dl: dl * 1e12,
    r"as if mK\^2 was taken for uK\^2": lambda dl: dl * 1e-6,
    "as if C_ell was taken for D_ell": lambda dl: dl / WEIGHT,
    "as if D_ell was taken for C_ell": lambda dl: dl * WEIGHT,
    r"as if C_ell in K\^2 was taken for D_ell in uK\^2": lambda dl: dl / WEIGHT * 1e-12,
    r"as if D_ell in K\^2 was taken for C_ell in uK\^2": lambda dl: dl * WEIGHT * 1e-12,
}


@pytest.mark.parametrize("cause", SLIPS)
def test_a_slip_is_refused_and_named(cause, capsys):
    values = SLIPS[cause](spectra(1, 2))
    with pytest.raises(InputError, match=cause):
        check(values)
    assert check(values, insist=True)
    assert "cannot be trusted" in capsys.readouterr().err


def test_a_factor_is_refused_without_a_cause():
    with pytest.raises(InputError, match="check unit and ell"):
        check(50 * spectra(3, 3))


def test_one_strange_row_among_many_is_found():
    values = spectra(9000, 4)
    values[8000] *= 50
    with pytest.raises(InputError, match="1 of 9,000 observations .* row 8000"):
        check(values)


def test_the_recipe_takes_noise_but_no_other_unit():
    assert not check(spectra(5, 5) + 1000 * SIGNAL, raised=True)
    with pytest.raises(InputError, match=r"K\^2"):
        check(1e-12 * (spectra(5, 5) + 3 * SIGNAL), raised=True)


def test_no_spectrum_is_not_taken_for_one():
    with pytest.raises(InputError) as caught:
        check(SLIPS["as if C_ell was taken for D_ell"](spectra(1, 6)), is_spectrum=False)
    assert "C_ell" not in str(caught.value)


def test_a_single_observation_is_no_row_of_many(capsys):
    assert check(50 * spectra(1, 3), insist=True)
    said = capsys.readouterr().err
    assert "the observation lies outside" in said and "row" not in said.split("any training row")[0]


def test_a_tail_of_band_powers_is_no_slip_of_units(capsys):
    # asinh of values that are far too small is 0, which training rows do reach
    values = np.random.default_rng(7).normal(size=(200, 3))
    scale = torch.ones(3)
    normalizer = Normalizer.fit([torch.from_numpy(values)], scale)
    far = Observed("y.npy", np.full((1, 3), 12.0), normalizer.normalize, False, False)
    reach.check(Reach.of([normalizer.normalize(torch.from_numpy(values))]), far, insist=True)
    said = capsys.readouterr().err
    assert "outside" in said and "taken for" not in said


def test_reach_round_trip():
    assert Reach.from_json(REACH.to_json()) == REACH
