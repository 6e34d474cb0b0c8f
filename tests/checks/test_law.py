"""Distances from the exact law: at their floor for exact draws, above it for others."""

import numpy as np
import pytest
from test_pipeline import SIGNAL, draw

from checks import law
from runtime.priors import Prior
from runtime.records import Record


def test_generated_metrics_are_at_the_floor_for_exact_draws():
    truth, _ = draw(4000, 5)
    record = Record("primordial BB", prior=Prior(r=0.001, dl_signal=SIGNAL))
    good = law.compare_with_law(truth, record)
    # the mean KS distance of n exact draws is 0.8687 / sqrt(n), with a spread of 0.26 / sqrt(n)
    assert good.ks_mean == pytest.approx(0.8687 / 4000**0.5, abs=5 * 0.26 / (6 * 4000) ** 0.5)
    log = np.log(truth)
    gaussian = np.random.default_rng(0).normal(log.mean(0), log.std(0), log.shape)
    assert law.compare_with_law(np.exp(gaussian), record).ks_mean > 2 * good.ks_mean
    assert law.compare_with_law(np.exp(gaussian), record).skewness_error > 0.3


def test_the_law_is_tested_on_rows_that_the_report_counts(monkeypatch):
    truth, _ = draw(300, 5)
    record = Record("primordial BB", prior=Prior(r=0.001, dl_signal=SIGNAL))
    monkeypatch.setattr(law, "MAX_VALUES", 6 * 200)
    report = law.compare_with_law(truth, record)
    assert report.ks_rows == 200
    assert report.to_json() == law.compare_with_law(truth[:200], record).to_json()
