"""The prior that the repository holds: small, the one its README names, and worth something."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
import torch

from checks.posteriors import ExactPosteriors
from diffusion import guided
from diffusion.trained import Trained
from runtime import checkpoints
from runtime.priors import Parameter
from sky import cosmology
from sky.observation import Observation, SkyModel
from sky.simulation import simulate
from studies import pretrained, runs
from studies.runs import Sizes

FILE = runs.ROOT / pretrained.FILE
MAX_BYTES = 600_000
NUM_DRAWS, SKIES = 1000, 8
# a network's own error, in sigma of r, beside that of so many draws: what `rms deviation` and
# `bias of r` of docs/checks.md ask
OF_NETWORK = 0.1


@pytest.fixture
def no_camb(monkeypatch):
    monkeypatch.setattr(cosmology, "lensing_bb", lambda ell, *_: 2.7e-7 * ell * (ell + 1.0))


def test_it_is_small_and_the_one_that_its_readme_names():
    assert FILE.stat().st_size < MAX_BYTES
    text = FILE.with_name("README.md").read_text()
    assert re.findall(r"SHA-256: `(\w+)`", text) == [checkpoints.file_sha256(str(FILE))]
    commands = [
        " ".join(["python", *step.command[1:]]) for step in pretrained.steps(
            "results/pretrained", Sizes()
        )
    ]  # fmt: skip
    assert re.findall(r"^    (python .*)$", text, re.MULTILINE) == commands


def test_its_posterior_of_r_is_the_exact_one(no_camb):
    """Of each sky mean and width of p(r | y); of many draws and skies, errors of either follow."""
    trained = Trained.load(str(FILE))
    sky, observation = SkyModel(nside=16, foregrounds=("none",)), Observation.in_one_band(
        fwhm_arcmin=0.0, noise_uk_arcmin=1.0
    )  # fmt: skip
    pairs = simulate((0, 0.01), SKIES, sky, observation, split="test")
    contaminants = pairs.record.contaminants
    draws = guided.with_likelihood(trained, contaminants, (0.0, 0.01)).posterior(pairs.y, NUM_DRAWS)
    prior = dataclasses.replace(trained.data.prior, parameters=(Parameter("r", 0.0, 0.01),))
    exact = ExactPosteriors.of_spectra(pairs.y, contaminants, prior).r
    # of the mean of m draws 1 / sqrt(m) sigma; five of these are once in 10^6
    error = (draws.r.mean(1) - exact.mean()) / exact.std()
    assert np.abs(error).max() < 5 / NUM_DRAWS**0.5 + OF_NETWORK
    # of their width 1 / sqrt(2 m) of it where p(r | y) is Gaussian; an edge takes from its tails
    ratio = draws.r.std(1) / exact.std()
    assert np.abs(ratio - 1).max() < 5 / (2 * NUM_DRAWS) ** 0.5 + OF_NETWORK
    # a control that must fail: the answers to other skies
    assert np.abs(np.roll(error * exact.std() + exact.mean(), 1) - exact.mean()).max() > 0.001


@pytest.fixture
def small(no_camb, monkeypatch):
    """Make a tiny one by the commands of the shipped one, in this process; its file."""
    import data_generation
    import train

    scripts = {"data_generation.py": data_generation.main, "train.py": train.main}

    def run_here(steps):
        for step in steps:
            scripts[step.script](list(step.argv))

    monkeypatch.setattr(runs, "run", run_here)

    def make(folder):
        path = folder / "kept" / "prior.pth"
        words = ["--shrink", "100000", "--out-dir", str(folder), "--file", str(path)]
        pretrained.main(words)
        return path

    return make


def test_the_same_command_makes_the_same_file(small, tmp_path):
    first, second = small(tmp_path / "a"), small(tmp_path / "b" / "elsewhere")
    assert first.read_bytes() == second.read_bytes()
    whole, kept = (Trained.load(str(path)) for path in (tmp_path / "a" / "prior.pth", first))
    for name, tensor in whole.ema_weights.items():
        torch.testing.assert_close(kept.ema_weights[name], tensor, rtol=0, atol=0)
    assert kept.weights.keys() == whole.weights.keys()
    assert first.stat().st_size < 0.6 * (tmp_path / "a" / "prior.pth").stat().st_size
    digest = checkpoints.file_sha256(str(first))
    assert digest in pathlib.Path(first.parent / "README.md").read_text()
