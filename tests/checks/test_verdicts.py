"""The registry of checks: one line adds a check, and what is unknown is not judged."""

from checks import verdicts
from checks.calibration import Calibration, PitDistance
from checks.estimates import Estimate
from checks.verdicts import Check, Measurements


def test_nothing_known_is_nothing_judged():
    assert verdicts.judge(Measurements()) == []


def test_thresholds_in_both_directions():
    for value, passed in ((0.014, True), (0.016, False)):
        of = Measurements(calibration=Calibration(PitDistance(value, 0.001, 0.002)))
        (check,) = verdicts.judge(of)
        assert check == Check("PIT KS of D_ell", value, 0.001, "<= 0.015", passed)
        assert list(check.to_json()) == ["check", "value", "error", "limit", "passed"]
    below = verdicts.at_most("size", 0.1, lambda of: Estimate(-0.2, 0.0))
    assert not next(below(Measurements())).passed  # it is the size that counts
    above = verdicts.above("p", 0.01, lambda of: 0.01)
    assert not next(above(Measurements())).passed


def test_a_check_is_one_line(monkeypatch):
    new = verdicts.above("new", 0.5, lambda of: 0.6)
    monkeypatch.setattr(verdicts, "CHECKS", (*verdicts.CHECKS, new))
    assert [check.name for check in verdicts.judge(Measurements())] == ["new"]
