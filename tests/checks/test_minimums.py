"""What few rows or draws cannot tell is null in the JSON, left out of the text, and not judged."""

import json
import os
import re

import numpy as np
import pytest
from test_pipeline import (  # noqa: F401  folder and pairs are fixtures
    DENOISE,
    JOINT,
    NOISE,
    POSTERIOR,
    SIGNAL,
    TINY,
    draw,
    folder,
    pairs,
)

import sample
import train
from checks import calibration, law, likelihood, minimums, output, statistics
from checks import truth as truth_checks
from checks.estimates import Estimate
from checks.r import upper_limit
from runtime import jsonfiles, tables
from runtime.priors import Parameter, Prior
from runtime.records import Contaminants, Record

NUMBER = re.compile(r"nan|inf\b|[+]-0[.]0*\b| \+- 0[.]0+ |±")


def compare(n, limit=True):
    """`compare_with_truth` of n rows whose output is the observation."""
    truth, observed = draw(n, 6)
    contaminants = Contaminants(dl_contaminant=NOISE if limit else None)
    record = Record(prior=Prior(dl_signal=SIGNAL), contaminants=contaminants)
    y = tables.Table("y", observed, record)
    x = tables.Table("x", truth, Record())
    return truth_checks.compare_with_truth(
        y, x, observed, Record(prior=Prior(mean_dl=SIGNAL)), None
    )


@pytest.mark.parametrize("limit", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5, 200])
def test_a_verdict_takes_rows(n, limit):
    report = compare(n, limit)
    json.dumps(report.to_json(), allow_nan=False)
    norm = float(np.square(SIGNAL / (SIGNAL + NOISE)).sum()) if limit else len(SIGNAL)
    needed = minimums.rows_for_share(norm)
    assert ("prior_draw" in report.mse) == (n > 1)
    assert (report.correlation.denoised is None) == (n < minimums.ROWS["correlations"])
    if n < needed:
        assert report.verdict.startswith(f"n = {n}: too few") and str(needed) in report.verdict
    else:
        assert "The output" in report.verdict


def test_no_perfect_output_is_called_an_echo_for_want_of_rows():
    """With the rows that a verdict takes all of the correlation is told from none of it."""
    truth, _ = draw(4000, 1)
    fresh, _ = draw(4000, 2)
    needed = minimums.rows_for_share(len(SIGNAL))
    for first in range(0, 4000 - needed, needed):
        rows = slice(first, first + needed)
        perfect = truth_checks.attained_share(np.ones(len(SIGNAL)), None, needed)
        assert truth_checks.is_echo(perfect) is False
        corr = truth_checks.correlation(fresh[rows], truth[rows])
        found = truth_checks.attained_share(corr, None, needed)
        assert truth_checks.is_echo(found)
    assert truth_checks.is_echo(Estimate(1.0, 0.2)) is None


def test_a_truth_that_does_not_vary_is_no_matter_of_rows():
    corr = np.full(6, np.nan)
    assert "does not vary" in truth_checks.verdict(corr, None, 100, 0.0)
    assert "too few" in truth_checks.verdict(corr, None, 1, 0.0)
    assert "no information" in truth_checks.verdict(corr, np.full(6, 1e-4), 1, 0.0)


@pytest.mark.parametrize("m", [1, 2, 6, 7, 19, 20, 64])
def test_a_quantile_takes_draws(m):
    summary = output.Summary.of(np.random.default_rng(0).random(m), 3, Parameter("r", 0.0, 1.0))
    text = "\n".join(summary.lines("r"))
    assert (summary.median is None) == (m < 2)
    assert (summary.upper is None) == (summary.lower is None) == (m < 7)
    assert (summary.upper_limit_95 is None) == (m < 20)
    assert ("95 % upper limit" in text) == (m >= 20)
    assert ("a 95 % limit (20)" in text) == (m < 20)
    assert ("r = " in text) == (m > 1) and (f"n = {m} draws" in text) == (m < 20)
    found = upper_limit(np.random.default_rng(0).random((50, m)), 0.95, None)
    assert (found is None) == (m < 20)


def test_draws_that_a_quantile_takes():
    assert [minimums.quantile_draws(level) for level in (0.5, 0.84, 0.16, 0.68, 0.95)] == [
        *(2, 7, 7, 4, 20)
    ]


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_a_distance_from_the_law_takes_rows(n):
    generated, _ = draw(n, 5)
    record = Record("primordial BB", prior=Prior(r=0.001, dl_signal=SIGNAL))
    found = law.compare_with_law(generated, record)
    generated = output.Inputs(None, None, Record(), None)
    text = "\n".join(output.lines(output.OutputReport(law=found), generated))
    json.dumps(found.to_json(), allow_nan=False)
    assert (found.ks_mean is None) == (found.skewness_error is None) == (n < 10)
    assert ("ks_mean" in text) == (n == 10) and (f"n = {n}: too few" in text) == (n < 10)


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_a_standard_error_takes_rows(n):
    log_p = np.random.default_rng(0).normal(100, 1, n)
    report = likelihood.likelihood_report(log_p, log_p + np.linspace(0, 0.2, n))
    lines = likelihood.lines(report, n)
    json.dumps(report, allow_nan=False)
    assert (report["log_likelihood"]["error"] is None) == (n < 10)
    assert (report["kullback_leibler"] is None) == (n < 10)
    assert any("+-" in line for line in lines) == (n == 10)
    assert sum("too few" in line for line in lines) == (n < 10)


@pytest.mark.parametrize(
    ("m", "levels"), [(3, {0.5, 0.68}), (16, {0.5, 0.68}), (40, {0.5, 0.68, 0.95})]
)
def test_no_coverage_of_an_interval_that_holds_all_draws(m, levels):
    rng = np.random.default_rng(0)
    ranks = statistics.sbc_ranks(rng.random(500), rng.random((500, m)))
    found = calibration.coverages(ranks, m)
    assert set(found) == levels and all(each.error > 0 for each in found.values())


@pytest.mark.usefixtures("folder", "pairs")
@pytest.mark.parametrize("num_draws", [1, 2, 64])
def test_one_observation(num_draws, capsys):
    """What a user has: the outputs of sample.py, files and words."""
    train.main([*TINY, *JOINT, "--epochs", "1"])
    words = dict(zip(POSTERIOR[::2], POSTERIOR[1::2], strict=True))
    for flag in ("--data-file-noisy", "--data-file-gt"):
        table = tables.load_spectra(words.get(flag) or DENOISE[DENOISE.index(flag) + 1])
        tables.write_array(f"one{flag}.npy", np.array(table.values[:1]), table.record)
        words[flag] = f"one{flag}.npy"
    words["--num-draws"] = str(num_draws)
    capsys.readouterr()
    sample.main([word for pair in words.items() for word in pair])
    out = capsys.readouterr().out
    report = jsonfiles.read_json("metrics.json")
    assert "n = 1: too few" in out and out.count("n = 1: too few for correlations") == 1
    assert not NUMBER.search(out) and "prior_draw" not in report["mse"]
    assert os.path.exists("posterior_std.npy") == (num_draws > 1)
    assert os.path.exists("posterior_quantiles.npy") == (num_draws > 6)
    assert ("95 % upper limit" in out) == (num_draws == 64)


@pytest.mark.usefixtures("folder")
def test_one_generated_spectrum(capsys):
    train.main([*TINY, "--epochs", "1"])
    sample.main(["--num-samples", "1", "--num-steps", "3", "--device", "cpu"])
    assert "n = 1: too few for a distance" in capsys.readouterr().out
    assert jsonfiles.read_json("metrics.json")["ks_mean"] is None
