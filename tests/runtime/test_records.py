"""Two skies are told apart where they differ, and only there."""

import dataclasses

import numpy as np
import pytest

from runtime import records
from runtime.packed import pack
from runtime.records import Record, Sky

ECHO = {"name": "echo", "bands": [{"freq_ghz": 28.0}, {"freq_ghz": 95.0}]}
SINGLE = {"freq_ghz": 45.0, "noise_uk_arcmin": 11.9}
SKY = {"instrument": ECHO, "a_lens": 1.0, "foregrounds": ["gaussian"]}
CLEANED = {**SKY, "cleaning": {"method": "hilc", "weights_from": "sky"}}


def differences(trained, observed):
    """Of two skies, from the JSON of sidecars."""
    return Sky.from_json(trained).differences(Sky.from_json(observed))


def test_only_what_differs_is_named():
    other = {**SKY, "a_lens": 0.3, "foregrounds": ["d1", "s1"]}
    expected = {"a_lens": (1.0, 0.3), "foregrounds": (["gaussian"], ["d1", "s1"])}
    assert differences(SKY, other) == expected
    assert differences(SKY, dict(SKY)) == {}


def test_what_is_unknown_does_not_differ():
    assert differences({}, SKY) == differences(SKY, {}) == {}
    assert differences(SKY, {"a_lens": 1.0}) == {}
    assert differences({"a_lens": 1.0}, SKY) == {}


def test_a_cleaning_that_one_lacks_is_none():
    cleaning = CLEANED["cleaning"]
    assert differences(SKY, CLEANED) == {"cleaning": (None, cleaning)}
    assert differences(CLEANED, SKY) == {"cleaning": (cleaning, None)}
    assert records.describe_difference(cleaning, None) == ("hilc", "none")


def test_words():
    assert records.describe_difference(["gaussian"], ["d1", "s1"]) == ("gaussian", "d1 s1")
    assert records.describe_difference(1.0, 0.3) == ("1", "0.3")
    assert records.describe_difference(ECHO, SINGLE) == ("echo", "45 GHz")
    quieter = {**SINGLE, "noise_uk_arcmin": 2.0}
    expected = ("45 GHz with noise_uk_arcmin 11.9", "45 GHz with noise_uk_arcmin 2")
    assert records.describe_difference(SINGLE, quieter) == expected
    fewer = {**ECHO, "bands": ECHO["bands"][:1]}
    assert records.describe_difference(ECHO, fewer) == (
        "echo with bands 28 GHz 95 GHz",
        "echo with bands 28 GHz",
    )
    known = {**CLEANED["cleaning"], "weights_from": "model"}
    words = records.describe_difference(CLEANED["cleaning"], known)
    assert words == ("hilc with weights_from sky", "hilc with weights_from model")


def test_words_for_numbers():
    """Parameters by name; of two lists the first entry that differs, however little."""
    assert records.describe_difference({"tau": 0.05, "ns": 1.0}, {"tau": 0.06, "ns": 1.0}) == (
        "tau 0.05",
        "tau 0.06",
    )
    words = records.describe_difference([1.0, 2.0, 3.0], [1.0, 2.5, 3.0])
    assert words == (
        "of 3 numbers from 1 to 3, 2 at place 2",
        "of 3 numbers from 1 to 3, 2.5 there",
    )
    assert records.describe_difference(1.0, 1.0 + 1e-12) == ("1.0", "1.000000000001")
    assert records.describe_difference(None, [1.0, 2.0]) == ("none", "of 2 numbers from 1 to 2")
    own, other = {**SINGLE, "nl_bb": [1.0, 2.0]}, {**SINGLE, "nl_bb": [1.0, 3.0]}
    assert records.describe_difference(own, other) == (
        "45 GHz with nl_bb of 2 numbers from 1 to 2",
        "45 GHz with nl_bb of 2 numbers from 1 to 3",
    )


def test_a_template_that_one_lacks_is_cambs():
    own = {**SKY, "dl_fiducial": [1.0, 2.0]}
    assert differences(SKY, own) == {"dl_fiducial": (None, [1.0, 2.0])}
    assert differences(own, SKY) == {"dl_fiducial": ([1.0, 2.0], None)}
    assert differences(own, dict(own)) == {}


def test_a_record_crosses_json_unchanged():
    content = {
        "quantity": "posterior BB",
        "r_range": [0.0, 0.01],
        "signal_template": {"r_nodes": [0.002, 0.008], "dl_per_r": [[1.0, 2.0]] * 2},
        "a_lens": 0.5,
        "dl_lensing": [1.0, 2.0],
        "ilc_weights": [[0.5, 0.5]],
        "dl_ilc_bias": [0.0, 0.0],
        "dl_ilc_bias_expected": [0.0, 0.0],
        "method": "ode",
        "model_checkpoint": "m.pth",
        "prior": {"r": 0.001, "dl_signal": [1.0, 2.0], "mean_dl": [1.0, 2.0], "sky": SKY},
        "observation": {"file": "y.npy", "sha256": "0"},
        "cosmology": {"H0": 67.36, "nt": 0.0},
    }
    record = Record.from_json(content)
    assert record.to_json() == content
    assert record.sampled.prior.r == 0.001 and record.sampled.sky.a_lens == 1.0
    assert Record.from_json(record.to_json()).to_json() == content


def test_the_law_is_known_where_all_that_is_gaussian_is():
    assert Record.from_json({"dl_contaminant": [1.0]}).contaminants.law_known
    assert not Record.from_json({"dl_lensing": [1.0]}).contaminants.law_known
    assert not Record().contaminants.law_known


def test_a_misspelt_field_fails():
    with pytest.raises(TypeError):
        Record(qantity="r")


def analysis(pixels=6, noise=2.0, mask="mine.fits"):
    """Entry of part of the sky, as far as it is compared."""
    pixels = np.arange(pixels)
    return {
        "name": f"{mask}, 1 uK-arcmin",
        "mask": mask,
        "dl_fiducial": [1e-5, 3e-5],
        "pixels": pack(pixels),
        "noise": pack(np.full((len(pixels), 3), noise)),
    }


def test_the_content_of_an_analysis_counts_not_the_name_of_its_mask():
    own = {**SKY, "analysis": analysis()}
    alike = analysis(mask="other.fits", noise=2.0 * (1 + 1e-15))
    alike["dl_fiducial"] = [value * (1 + 1e-15) for value in alike["dl_fiducial"]]
    assert differences(own, {**SKY, "analysis": alike}) == {}
    for other in (analysis(pixels=7), analysis(noise=2.01), None):
        (pair,) = differences(own, {**SKY, "analysis": other}).values()
        words = records.describe_difference(*pair)
        assert words[0] != words[1] and max(map(len, words)) < 200


def test_a_sky_with_the_signal_of_another_differs_by_that_alone():
    """Noise, foregrounds and lensing stay; cosmology, template and beam are the other's."""
    band = {"freq_ghz": 45.0, "fwhm_arcmin": 24.8, "noise_uk_arcmin": 1.0}
    here = Sky(instrument=band, a_lens=0.5, foregrounds=["d1"], cosmology={"tau": 0.05})
    other = Sky(instrument={**band, "fwhm_arcmin": 0.0, "noise_uk_arcmin": 9.0}, a_lens=1.0,
                cosmology={"tau": 0.06})  # fmt: skip
    found = here.with_signal_of(other)
    assert found.differences(here).keys() == {"instrument", "cosmology"}
    assert found.beam_arcmin == 0 and found.instrument["noise_uk_arcmin"] == 1
    assert here.with_signal_of(here) == here and here.with_signal_of(Sky()) == here
    cleaned = dataclasses.replace(here, cleaning={"method": "hilc", "fwhm_arcmin": 30.0})
    assert cleaned.with_signal_of(other).beam_arcmin == 0
    assert cleaned.with_signal_of(other).instrument == band
