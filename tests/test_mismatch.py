"""Two skies are told apart where they differ, and only there."""

import mismatch

ECHO = {"name": "echo", "bands": [{"freq_ghz": 28.0}, {"freq_ghz": 95.0}]}
SINGLE = {"freq_ghz": 45.0, "noise_uk_arcmin": 11.9}
SKY = {"instrument": ECHO, "a_lens": 1.0, "foregrounds": ["gaussian"]}
CLEANED = {**SKY, "cleaning": {"method": "hilc", "weights_from": "sky"}}


def test_only_what_differs_is_named():
    other = {**SKY, "a_lens": 0.3, "foregrounds": ["d1", "s1"]}
    expected = {"a_lens": (1.0, 0.3), "foregrounds": (["gaussian"], ["d1", "s1"])}
    assert mismatch.differences(SKY, other) == expected
    assert mismatch.differences(SKY, dict(SKY)) == {}


def test_what_is_unknown_does_not_differ():
    assert mismatch.differences({}, SKY) == mismatch.differences(SKY, {}) == {}
    assert mismatch.differences(SKY, {"a_lens": 1.0}) == {}
    assert mismatch.differences({"a_lens": 1.0}, SKY) == {}


def test_a_cleaning_that_one_lacks_is_none():
    cleaning = CLEANED["cleaning"]
    assert mismatch.differences(SKY, CLEANED) == {"cleaning": (None, cleaning)}
    assert mismatch.differences(CLEANED, SKY) == {"cleaning": (cleaning, None)}
    assert mismatch.tell(cleaning, None) == ("hilc", "none")


def test_words():
    assert mismatch.tell(["gaussian"], ["d1", "s1"]) == ("gaussian", "d1 s1")
    assert mismatch.tell(1.0, 0.3) == ("1", "0.3")
    assert mismatch.tell(ECHO, SINGLE) == ("echo", "45 GHz")
    quieter = {**SINGLE, "noise_uk_arcmin": 2.0}
    expected = ("45 GHz with noise_uk_arcmin 11.9", "45 GHz with noise_uk_arcmin 2")
    assert mismatch.tell(SINGLE, quieter) == expected
    fewer = {**ECHO, "bands": ECHO["bands"][:1]}
    assert mismatch.tell(ECHO, fewer) == (
        "echo with bands 28 GHz 95 GHz",
        "echo with bands 28 GHz",
    )
    known = {**CLEANED["cleaning"], "weights_from": "model"}
    words = mismatch.tell(CLEANED["cleaning"], known)
    assert words == ("hilc with weights_from sky", "hilc with weights_from model")
