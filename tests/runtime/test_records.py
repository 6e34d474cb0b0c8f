"""Two skies are told apart where they differ, and only there."""

from runtime import records

ECHO = {"name": "echo", "bands": [{"freq_ghz": 28.0}, {"freq_ghz": 95.0}]}
SINGLE = {"freq_ghz": 45.0, "noise_uk_arcmin": 11.9}
SKY = {"instrument": ECHO, "a_lens": 1.0, "foregrounds": ["gaussian"]}
CLEANED = {**SKY, "cleaning": {"method": "hilc", "weights_from": "sky"}}


def test_only_what_differs_is_named():
    other = {**SKY, "a_lens": 0.3, "foregrounds": ["d1", "s1"]}
    expected = {"a_lens": (1.0, 0.3), "foregrounds": (["gaussian"], ["d1", "s1"])}
    assert records.differences(SKY, other) == expected
    assert records.differences(SKY, dict(SKY)) == {}


def test_what_is_unknown_does_not_differ():
    assert records.differences({}, SKY) == records.differences(SKY, {}) == {}
    assert records.differences(SKY, {"a_lens": 1.0}) == {}
    assert records.differences({"a_lens": 1.0}, SKY) == {}


def test_a_cleaning_that_one_lacks_is_none():
    cleaning = CLEANED["cleaning"]
    assert records.differences(SKY, CLEANED) == {"cleaning": (None, cleaning)}
    assert records.differences(CLEANED, SKY) == {"cleaning": (cleaning, None)}
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
