"""What a paper says of a parameter: a value with errors, or a limit."""

import numpy as np
import pytest
from scipy.stats import norm, truncnorm

from checks.paper import MIN_DRAWS, _limit, _with_errors, paper_line
from runtime.priors import Parameter

R = Parameter("r", 0.0, 0.01)


def quantiles(law, m=4000):
    """Draws without scatter: the quantiles of a law."""
    return law.ppf((np.arange(m) + 0.5) / m)


def cut(mean, sigma, low=0.0, high=0.01):
    return truncnorm((low - mean) / sigma, (high - mean) / sigma, mean, sigma)


def test_a_value_has_errors_and_near_an_edge_a_limit():
    line = paper_line(R, quantiles(cut(0.0024, 0.001)))
    assert line == "r = 0.00241 +0.00099 -0.00098 (68 % credible, median), r < 0.0040 (95 %)"
    far = paper_line(R, quantiles(norm(0.005, 0.0011)))
    assert far == "r = 0.0050 +0.0011 -0.0011 (68 % credible, median)"
    amplitude = paper_line(Parameter("a", -9.0, 9.0), quantiles(norm(-1.234, 0.13)))
    assert amplitude == "a = -1.23 +0.13 -0.13 (68 % credible, median)"


@pytest.mark.parametrize("mean", [-0.001, 0.0, 0.0007])
def test_a_posterior_that_is_cut_at_zero_has_a_limit_only(mean):
    law = cut(mean, 0.001)
    assert paper_line(R, quantiles(law)) == f"r < {law.ppf(0.95):.4f} (95 % credible)"


def test_other_edges():
    flipped = 0.01 - quantiles(cut(0.0, 0.001))
    assert paper_line(R, flipped).startswith("r > 0.0080 (95 % credible); it runs into")
    assert "not constrained: its draws fill the prior, 0 to 0.01" in paper_line(
        R, quantiles(cut(0.005, 1.0))
    )


def test_draws_at_random_say_the_same():
    """At the smallest number of draws: 200 tries each, wrong in less than one of 50."""
    for law, start in ((cut(0.0, 0.001), "r <"), (cut(0.0025, 0.001), "r ="), (cut(0, 1), "r is")):
        draws = law.rvs((200, MIN_DRAWS), random_state=0)
        assert sum(not paper_line(R, each).startswith(start) for each in draws) < 4


def test_few_draws_and_constant_ones():
    assert paper_line(R, np.full(MIN_DRAWS, 0.005)) == "r = 0.005 in all draws"


def test_limits_have_two_digits():
    assert [_limit(value) for value in (0.00398, 12.3, 0.5)] == ["0.0040", "12", "0.50"]


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((0.00244, 0.00108, 0.00093), "0.0024 +0.0011 -0.0009"),
        ((3.1415e-7, 2.2e-9, 1.0e-9), "(3.142 +0.022 -0.010)e-07"),
        ((123456.0, 2300.0, 1200.0), "(1.235 +0.023 -0.012)e+05"),
        ((0.0, 1.5, 1.5), "0.0 +1.5 -1.5"),
        ((-12.3, 25.0, 24.0), "-12 +25 -24"),
    ],
)
def test_rounding(numbers, text):
    assert _with_errors(*numbers) == text
