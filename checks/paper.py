"""The line that a paper needs: a parameter with its error, or its limit."""

import math

import numpy as np

from checks.edges import edge_densities
from checks.estimates import known
from runtime.priors import FloatArray, Parameter

# with these the ends of an interval are known to 8 % of sigma, a 95 % limit to 11 %
MIN_DRAWS = 400
AT_EDGE = math.exp(-0.5)  # an edge of the prior is within one sigma of the peak of the density
NEAR_EDGE = 3  # errors; nearer to it a limit is told beside the value


def paper_line(parameter: Parameter, draws: FloatArray) -> str:
    """Median with its 68 % credible interval, and where the prior cuts the posterior its limit.

    Where an edge of the prior lies within one sigma of the peak there is no detection, and the
    limit takes the place of the value.

    Args:
        parameter: Name and range of the prior.
        draws: Of the posterior of one observation, shape (m,), MIN_DRAWS or more.
    """
    name, low, high = parameter.name, parameter.low, parameter.high
    if np.ptp(draws) == 0:
        return f"{name} = {draws[0]:.3g} in all draws"
    left, middle, right = map(float, np.quantile(draws, [0.16, 0.5, 0.84]))
    below, above = map(float, np.quantile(draws, [0.05, 0.95]))
    at_low, at_high = known(edge_densities(draws[None], parameter))[0] > AT_EDGE
    if at_low and at_high:
        return f"{name} is not constrained: its draws fill the prior, {low:g} to {high:g}"
    if at_low:
        return f"{name} < {_limit(above)} (95 % credible)"
    if at_high:
        return f"{name} > {_limit(below)} (95 % credible); it runs into its prior's end, {high:g}"
    line = f"{name} = {_with_errors(middle, right - middle, middle - left)}"
    line += " (68 % credible, median)"
    if middle - low < NEAR_EDGE * (middle - left):
        line += f", {name} < {_limit(above)} (95 %)"
    return line


def _limit(value: float) -> str:
    """Two significant digits, zeros at the end among them."""
    return f"{value:#.2g}".removesuffix(".")


def _with_errors(value: float, up: float, down: float) -> str:
    """ "value +up -down", rounded to two digits of the larger error."""
    decimals = 1 - math.floor(math.log10(max(up, down)))
    scale = 0
    if not 0 <= decimals <= 5:
        scale = math.floor(math.log10(max(abs(value), up, down)))
        decimals += scale
    numbers = (number / 10**scale for number in (value, up, down))
    text = "{:.{d}f} +{:.{d}f} -{:.{d}f}".format(*numbers, d=max(decimals, 0))
    return f"({text})e{scale:+03d}" if scale else text
