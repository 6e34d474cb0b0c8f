"""Every check of a run, with its threshold: passed or not.

A check is a function of `Measurements` that yields what it finds, or nothing where it does not
apply. To add one, write it and add its line to `CHECKS`.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from checks.against_map import RAgainstMap
from checks.calibration import Calibration, TarpReport
from checks.estimates import LOW_ELL, SIGMAS, Estimate, Reported, known
from checks.parameters import ParameterReport
from checks.r import AgainstExact, RReport
from checks.sharpness import Sharpness
from runtime.jsonfiles import Json
from runtime.priors import FloatArray

MAP_EXCESS = (1.0, 3.0)  # of squared errors over those of the map's mean, %: of all ell, of one
MAP_WIDTH = (0.985, 1.02)  # of r over the map's: a spectrum of part of the sky makes it 1.01 itself
MAP_SLACK = 0.015  # beyond what the spectrum makes of it, where that is more
MAP_DEVIATION = (0.15, 0.2)  # of r from the map's mean, rms in sigma: of the run alone, and in all


@dataclasses.dataclass(frozen=True)
class Measurements(Reported):
    """What is judged: the measurements of a run, None where they have no meaning or are unknown."""

    sharpness: Sharpness | None = None
    calibration: Calibration | None = None
    r: RReport | None = None
    parameters: dict[str, ParameterReport] | None = None
    tarp_parameters: TarpReport | None = None

    FLAT = ("sharpness", "calibration")


@dataclasses.dataclass(frozen=True)
class Check(Reported):
    """The result of a check.

    Attributes:
        name: What was checked.
        value: Number that was judged.
        error: Its standard error, where there is one.
        limit: The threshold in words.
        passed: Whether it was met.
    """

    name: str
    value: float
    error: float | None
    limit: str
    passed: bool

    NULLABLE = ("error",)

    def to_json(self) -> Json:
        """As `Reported.to_json`, the name under "check"."""
        content = super().to_json()
        return {"check": content.pop("name"), **content}


CheckFunction = Callable[[Measurements], Iterator[Check]]


# --- kinds of checks -------------------------------------------------------------------------


def at_most(
    name: str, limit: float, measured: Callable[[Measurements], Estimate | None]
) -> CheckFunction:
    """Check that the size of an estimate is no larger than a limit."""

    def check(of: Measurements) -> Iterator[Check]:
        found = measured(of)
        if found is not None:
            passed = bool(abs(found.value) <= limit)
            yield Check(name, found.value, found.error, f"<= {limit:g}", passed)

    return check


def above(
    name: str, limit: float, measured: Callable[[Measurements], float | None]
) -> CheckFunction:
    """Check that a number, as a p-value, is above a limit."""

    def check(of: Measurements) -> Iterator[Check]:
        found = measured(of)
        if found is not None:
            yield Check(name, found, None, f"> {limit:g}", bool(found > limit))

    return check


# --- what is measured ------------------------------------------------------------------------


def _worst(values: FloatArray, errors: FloatArray, at: int) -> Estimate:
    return Estimate(float(values[at]), float(errors[at]))


def _excess(of: Measurements) -> Estimate | None:
    if of.sharpness is None or of.sharpness.map is not None:  # which y cannot reach
        return None
    return of.sharpness.excess_percent


def _slope_gap(of: Measurements) -> Estimate | None:
    if of.sharpness is None or of.sharpness.slope_limit is None:
        return None
    gap = (of.sharpness.slope - of.sharpness.slope_limit)[: LOW_ELL - 1]
    return _worst(gap, of.sharpness.slope_error, int(np.abs(gap).argmax()))


def _r2_gap(of: Measurements) -> Estimate | None:
    if of.sharpness is None or of.sharpness.r2_gap is None or of.sharpness.r2_gap_error is None:
        return None
    if of.sharpness.map is not None:  # part of it is what y itself loses
        return None
    gap = of.sharpness.r2_gap
    return _worst(gap, of.sharpness.r2_gap_error, int(np.argmax(gap)))


def _pit(of: Measurements) -> Estimate | None:
    pit = None if of.calibration is None else of.calibration.pit_ks
    return None if pit is None else Estimate(pit.value, pit.error)


def _sbc(of: Measurements) -> float | None:
    sbc = None if of.calibration is None else of.calibration.sbc
    return None if sbc is None else sbc.smallest_times_ell


def _tarp(of: Measurements) -> float | None:
    tarp = None if of.calibration is None else of.calibration.tarp
    return None if tarp is None else tarp.p_value


def _tarp_of_parameters(of: Measurements) -> float | None:
    return None if of.tarp_parameters is None else of.tarp_parameters.p_value


def _sbc_of_r(of: Measurements) -> float | None:
    return None if of.r is None else of.r.sbc_p


def _of_r(part: Callable[[AgainstExact], Estimate]) -> Callable[[Measurements], Estimate | None]:
    """What is measured of r against the exact p(r | y); that of a map has checks of its own."""

    def measured(of: Measurements) -> Estimate | None:
        found = None if of.r is None else of.r.against_exact
        return None if found is None or found.map is not None else part(found)

    return measured


def _width(r: AgainstExact) -> Estimate:
    return Estimate(r.width_ratio.value - 1, r.width_ratio.error)


def _pit_of_r(r: AgainstExact) -> Estimate:
    pit = known(r.pit_ks)
    return Estimate(pit.value, pit.error)


# --- checks of a kind of their own -----------------------------------------------------------


def loss_by_shuffling(of: Measurements) -> Iterator[Check]:
    """Estimates from another sky's observation are worse."""
    if of.sharpness is not None:
        found = of.sharpness.shuffled_minus_mse
        passed = bool(found.value > SIGMAS * found.error)
        name, limit = "MSE lost by shuffled observations", f"> {SIGMAS} errors"
        yield Check(name, found.value, found.error, limit, passed)


def bias_against_truth(of: Measurements) -> Iterator[Check]:
    """Over its prior an exact posterior of a parameter has no bias."""
    limit = 0.02
    reports: dict[str, RReport | ParameterReport] = {} if of.r is None else {"r": of.r}
    for name, report in {**reports, **(of.parameters or {})}.items():
        if report.sbc_p is not None:
            bias = report.bias_truth
            passed = bool(abs(bias.value) <= limit + SIGMAS * bias.error)
            words = f"<= {limit:g} + {SIGMAS} errors"
            title = f"bias of {name} against the truth, sigma"
            yield Check(title, bias.value, bias.error, words, passed)


def ranks_of_parameters(of: Measurements) -> Iterator[Check]:
    """Ranks of the truth of a parameter are uniform; r has a check of its own."""
    limit = 0.01
    for name, report in (of.parameters or {}).items():
        if report.sbc_p is not None:
            passed = bool(report.sbc_p > limit)
            yield Check(f"SBC of {name}, p", report.sbc_p, None, f"> {limit:g}", passed)


def coverage_of_parameters(of: Measurements) -> Iterator[Check]:
    """A 68 % interval of a parameter holds the truth as often as it says."""
    for name, report in (of.parameters or {}).items():
        covered = (report.coverage or {}).get(0.68)
        if covered is not None:
            value = float(covered.value - covered.expected)
            passed = bool(abs(value) <= SIGMAS * covered.error)
            title = f"68 % coverage of {name} minus its level"
            yield Check(title, value, covered.error, f"<= {SIGMAS} errors", passed)


def sigma_not_below_limit(of: Measurements) -> Iterator[Check]:
    """No posterior of r is narrower than what an observation can hold."""
    for row in () if of.r is None else of.r.sigma:
        if row.limit is not None:
            passed = bool(row.sigma > row.limit - SIGMAS * row.error)
            name = f"sigma(r) at r = {row.r:.4f} not below its limit"
            limit = f"> {row.limit:.3g} - {SIGMAS} errors"
            yield Check(name, row.sigma, row.error, limit, passed)


# --- part of the sky: against the answer that its maps give, of which spectra hold less ---------


def error_against_map(of: Measurements) -> Iterator[Check]:
    """The mean of a spectrum is nearly as good as the map's, but for what y itself loses."""
    found = None if of.sharpness is None else of.sharpness.map
    if of.sharpness is None or found is None:
        return
    excess = (found.excess_percent - found.excess_of_spectrum)[: LOW_ELL - 1]
    worst = _worst(excess, found.excess_percent_error, int(np.argmax(excess)))
    overall = known(of.sharpness.excess_percent)
    mean = Estimate(overall.value - found.mean_excess_of_spectrum, overall.error)
    name = "MSE above the map's optimum, less the spectrum's own"
    for title, each, limit in (
        (f"{name}, %", mean, MAP_EXCESS[0]),
        (f"{name}, worst of ell <= {LOW_ELL}, %", worst, MAP_EXCESS[1]),
    ):
        passed = bool(each.value <= limit + SIGMAS * each.error)
        yield Check(title, each.value, each.error, f"<= {limit:g} + {SIGMAS} errors", passed)


def _r_of_map(of: Measurements) -> tuple[AgainstExact, RAgainstMap] | None:
    found = None if of.r is None else of.r.against_exact
    return None if found is None or found.map is None else (found, found.map)


def width_against_map(of: Measurements) -> Iterator[Check]:
    """At any r the posterior of r is as wide as that of the map, but for what y itself loses."""
    found = _r_of_map(of)
    for row in () if found is None else found[1].widths:
        ratio, (low, high) = row.width_ratio, MAP_WIDTH
        high = max(high, row.width_of_spectrum + MAP_SLACK)
        slack = SIGMAS * ratio.error
        passed = bool(low - slack <= ratio.value <= high + slack)
        name = f"width of r over the map's at r = {row.r_low:.4f}-{row.r_high:.4f}"
        limit = f"{low:g} to {high:.3f}, {SIGMAS} errors more"
        yield Check(name, ratio.value, ratio.error, limit, passed)


def mean_against_map(of: Measurements) -> Iterator[Check]:
    """The mean of r is that of the map, but for the scatter of what y itself loses."""
    found = _r_of_map(of)
    if found is not None:
        against, given_map = found
        bias, limit = against.bias, 0.02
        passed = bool(abs(bias.value) <= limit + SIGMAS * bias.error)
        words = f"<= {limit:g} + {SIGMAS} errors"
        yield Check("bias of r against the map, sigma", bias.value, bias.error, words, passed)
        rms, (own, limit) = against.rms_deviation, MAP_DEVIATION
        limit = max(limit, float(np.hypot(own, given_map.rms_deviation_of_spectrum)))
        name = "rms deviation of r from the map's, sigma"
        passed = bool(rms.value <= limit + SIGMAS * rms.error)
        yield Check(name, rms.value, rms.error, f"<= {limit:.3g} + {SIGMAS} errors", passed)


CHECKS: tuple[CheckFunction, ...] = (
    at_most("MSE above the exact optimum, %", 1.0, _excess),
    at_most(f"response slope minus its limit, worst of ell <= {LOW_ELL}", 0.03, _slope_gap),
    at_most("R2 below its limit, worst ell", 0.02, _r2_gap),
    at_most("PIT KS of D_ell", 0.015, _pit),
    loss_by_shuffling,
    above("SBC of D_ell, smallest p x n_ell", 0.01, _sbc),
    above("TARP of D_ell, p", 0.01, _tarp),
    above("SBC of r, p", 0.01, _sbc_of_r),
    at_most("width ratio of r - 1", 0.03, _of_r(_width)),
    at_most("PIT KS of r", 0.015, _of_r(_pit_of_r)),
    at_most("bias of r, sigma", 0.02, _of_r(lambda r: r.bias)),
    at_most("rms deviation of r, sigma", 0.15, _of_r(lambda r: r.rms_deviation)),
    ranks_of_parameters,
    coverage_of_parameters,
    above("TARP of the parameters, p", 0.01, _tarp_of_parameters),
    bias_against_truth,
    error_against_map,
    width_against_map,
    mean_against_map,
    sigma_not_below_limit,
)


def judge(measurements: Measurements) -> list[Check]:
    """The results of all checks that apply."""
    return [found for check in CHECKS for found in check(measurements)]
