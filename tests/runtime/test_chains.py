"""Chains are what GetDist reads: names, labels, ranges, weights, numbers."""

import argparse

import getdist
import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

from runtime import chains
from runtime.priors import Parameter

PARAMETERS = [Parameter("r", 0.0, 0.01), Parameter("beta_dust", -1e3, 1.5)]


@pytest.fixture
def draws():
    rng = np.random.default_rng(0)
    return {"beta_dust": rng.normal(size=200), "r": 0.01 * rng.random(200)}


def test_getdist_loads_what_was_drawn(tmp_path, draws):
    root = str(tmp_path / "run.1")
    chains.write(root, draws, PARAMETERS)
    settings = {"ignore_rows": 0.3}  # a user's, for chains with burn-in
    samples = getdist.loadMCSamples(root, no_cache=True, settings=settings)
    assert samples.getParamNames().list() == ["r", "beta_dust"]
    np.testing.assert_array_equal(samples.weights, np.ones(200))
    for name, values in draws.items():
        column = samples.getParamNames().numberOfName(name)
        np.testing.assert_array_equal(samples.samples[:, column], values)
        assert samples.mean(name) == pytest.approx(values.mean())
    for each in PARAMETERS:
        assert samples.ranges.getLower(each.name) == each.low
        assert samples.ranges.getUpper(each.name) == each.high
    assert samples.sampler == "uncorrelated"
    labels = [each.label for each in samples.getParamNames().names]
    assert labels == ["r", r"\mathrm{beta\_dust}"]
    for label in labels:
        MathTextParser("agg").parse(f"${label}$")


def test_files_are_those_that_are_written(tmp_path, draws):
    root = str(tmp_path / "run")
    chains.write(root, draws, PARAMETERS)
    assert {str(path) for path in tmp_path.iterdir()} == set(chains.files(root).values())


def test_one_draw(tmp_path, draws):
    root = str(tmp_path / "run")
    chains.write(root, {name: values[:1] for name, values in draws.items()}, PARAMETERS)
    assert np.loadtxt(f"{root}.txt").shape == (4,)


def test_a_root_is_no_folder(tmp_path):
    assert chains.root("a/b.txt") == chains.root("a/b") == "a/b"
    for value in ("", "a/", ".txt", str(tmp_path)):
        with pytest.raises(argparse.ArgumentTypeError):
            chains.root(value)
