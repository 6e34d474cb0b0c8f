"""with_likelihood: which models and laws it takes, and what becomes of them."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from diffusion import guided
from diffusion.normalizers import Normalizer, StateNormalizer
from diffusion.reach import Reach
from diffusion.trained import Trained
from model import Architecture, ScoreNet1D
from runtime.errors import InputError
from runtime.priors import Parameter, Prior, SignalTemplate
from runtime.records import Contaminants, Record
from runtime.tables import Table
from sde_utils import VESDE

N_ELL = 4
NU = 2 * np.arange(2, 2 + N_ELL) + 1
NOISE = 1e-6 * np.arange(1.0, 1 + N_ELL)
TEMPLATE = SignalTemplate(np.array([0.002, 0.008]), np.full((2, N_ELL), 1e-2))
R = Parameter("r", 0.0, 0.01)
LAW = Contaminants(dl_contaminant=NOISE)


def model(parameters=(), template=TEMPLATE, n_cond=0, skewness=-0.5, signal=1e-5):
    """A model that has learned nothing, of spectra at one r, or beside parameters."""
    sizes = Architecture(N_ELL, n_cond, len(parameters), 8, 4, 1)
    sde = VESDE()
    mean = torch.zeros(N_ELL) if parameters else torch.full((N_ELL,), float(np.log(signal)))
    skewness = None if skewness is None else torch.full((N_ELL,), skewness)
    spectrum = Normalizer(mean, torch.full((N_ELL,), 0.5), skewness=skewness)
    cond = Normalizer(mean[:n_cond], spectrum.std[:n_cond]) if n_cond else None
    template = template if parameters else None
    prior = Prior(r=None if parameters else 0.001, parameters=parameters, signal_template=template)
    signal_template = template if parameters == (R,) else None
    return Trained(
        *(sizes, "VE", sde, ScoreNet1D(sde, sizes).eval().requires_grad_(False)),
        StateNormalizer(spectrum, parameters, signal_template),
        *(cond, Reach.of([torch.randn(100, N_ELL)]), Record(prior=prior)),
        *({}, {}, {}, {}),
    )


REFUSED = {  # what is said: (model, law, range of r)
    "is conditional: it knows the likelihood": (model(n_cond=N_ELL), LAW, None),
    "knows r, and the checkpoint has tau": (model((Parameter("tau", 0.0, 1.0),)), LAW, None),
    "has r, tau; train a conditional": (model((R, Parameter("tau", 0.0, 1.0))), LAW, None),
    "does not say how the signal depends on r": (model((R,), None), LAW, None),
    "the checkpoint is of one r": (model(), LAW, (0.0, 0.01)),
    "signal from r = 0 to 0.01": (model((R,)), LAW, (0.001, 0.02)),
    "law of these observations is unknown": (model(), Contaminants(dl_noise=NOISE), None),
    "the law of these observations": (model(), Contaminants(dl_contaminant=NOISE[1:]), None),
    "no noise or lensing at ell = 3": (
        *(model(), Contaminants(dl_contaminant=NOISE * [1, 0, 1, 1]), None),
    ),
    "did not keep the shape of its rows; train again": (model(skewness=None), LAW, None),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_likelihood_fits_is_refused(words):
    said = "nothing"
    try:
        guided.with_likelihood(*REFUSED[words])
    except InputError as error:
        said = str(error)
    assert words in said


def test_the_model_draws_posteriors_and_stays_a_prior_itself():
    prior = model()
    posterior = guided.with_likelihood(prior, LAW)
    assert posterior.draws_posterior and not prior.draws_posterior and prior.guidance is None
    assert torch.equal(posterior.guidance.law.N, torch.tensor(NOISE))
    assert posterior.guidance.law.F is None and posterior.guidance.signal is None
    y = np.full((3, N_ELL), 1e-5)
    draws = posterior.posterior(y, num_draws=6, num_steps=3, seed=1)
    assert draws.dl.shape == (3, 6, N_ELL) and (draws.dl > 0).all()
    with pytest.raises(InputError, match="no posterior without a likelihood"):
        prior.posterior(y)
    same = guided.with_likelihood(prior, LAW).posterior(y, num_draws=6, num_steps=3, seed=1)
    assert np.array_equal(draws.dl, same.dl)


def test_a_fixed_foreground_of_no_power_is_none():
    law = Contaminants(dl_contaminant=NOISE, dl_fixed_foreground=0 * NOISE)
    assert guided.with_likelihood(model(), law).guidance.law.F is None
    law = dataclasses.replace(law, dl_fixed_foreground=NOISE)
    assert torch.equal(guided.with_likelihood(model(), law).guidance.law.F, torch.tensor(NOISE))


def test_a_range_of_r_is_that_of_draws_and_of_the_signal():
    narrow = guided.with_likelihood(model((R,)), LAW, (0.002, 0.005))
    assert narrow.parameters == (Parameter("r", 0.002, 0.005),)
    assert narrow.data.prior.r_range == (0.002, 0.005)
    q = torch.tensor([-8.0, 0.0, 8.0]).double()
    found = narrow.guidance.signal.log(q).exp()[:, 0]
    torch.testing.assert_close(found, torch.tensor([2e-5, 3.5e-5, 5e-5]).double())
    draws = narrow.posterior(np.full((2, N_ELL), 4e-5), num_draws=20, num_steps=4)
    assert draws.r.min() > 0.002 and draws.r.max() < 0.005


@pytest.mark.parametrize("parameters", [(), (R,)])
def test_observations_that_are_expected_are_those_of_the_simulation(parameters):
    """Of a shape that is that of spectra at a known S."""
    skewness = -0.5
    trained = guided.with_likelihood(model(parameters, skewness=skewness), LAW)
    known = trained.guidance
    y, rng = guided.expected(trained), np.random.default_rng(5)
    assert y.shape == (guided.EXPECTED_ROWS, N_ELL)
    u = known.shape.rvs(y.shape, rng)
    r = rng.uniform(0, 0.01, (len(y), 1))
    other = np.exp(rng.uniform(-1, 1, (len(y), 1)) * math.log(guided.OTHER_R))
    S = 1e-2 * r if parameters else 1e-5 * other
    x = S * np.exp(0.5 * u)
    simulated = NOISE / NU * rng.noncentral_chisquare(NU, NU * x / NOISE)
    for i in range(N_ELL):
        assert stats.ks_2samp(y[:, i], simulated[:, i]).pvalue > 1e-3
    assert stats.ks_2samp(y[:, 3] / 2, simulated[:, 3]).pvalue < 1e-9


def test_observations_far_from_what_is_expected_are_refused(capsys):
    trained = guided.with_likelihood(model(), LAW)
    rows = guided.expected(trained, seed=3)[:20]
    guided.check_observed(trained, Table.of("y.npy", rows, Record()), False)
    assert capsys.readouterr().err == ""
    kelvin = Table.of("y.npy", rows * 1e-12, Record())
    with pytest.raises(InputError, match="it looks as if .*K\\^2"):
        guided.check_observed(trained, kelvin, False)
    with pytest.raises(InputError, match="expects with the noise of n.txt.*or correct n.txt"):
        guided.check_observed(trained, kelvin, False, "n.txt")
    guided.check_observed(trained, kelvin, True)
    assert "cannot be trusted" in capsys.readouterr().err


def test_a_record_or_a_file_says_what_the_noise_is():
    trained, rows = model(), guided.expected(guided.with_likelihood(model(), LAW))[:5]
    args = SimpleNamespace(noise_file=None, r_range=None, allow_outliers=False, correct=False)

    def read(path, n_ell):
        assert (path, n_ell) == ("n.txt", N_ELL)
        return LAW

    named = Table.of("y.npy", rows, Record(contaminants=LAW))
    bare = Table.of("y.npy", rows, Record())
    of_file = SimpleNamespace(noise_file="n.txt", r_range=None, allow_outliers=False, correct=False)
    both = [guided.from_arguments(a, trained, t, read) for a, t in ((args, named), (of_file, bare))]
    assert both[0].guidance.digest() == both[1].guidance.digest()
    with pytest.raises(InputError, match="has no record; say what its noise is: --noise-file"):
        guided.from_arguments(args, trained, bare, read)
    with pytest.raises(InputError, match="--noise-file: the record of y.npy has it"):
        guided.from_arguments(of_file, trained, named, read)


def test_correlations_of_training_rows_are_said(capsys):
    """Of 0.6 between two multipoles; of none nothing, and nothing where weights are asked for."""
    covariance = torch.eye(N_ELL)
    covariance[0, 1] = covariance[1, 0] = 0.6
    variances, modes = torch.linalg.eigh(covariance)
    own = Table.of("y.npy", np.full((1, N_ELL), 2e-5), Record(unit="uK^2", contaminants=LAW))
    said = {}
    for name in ("independent", "correlated", "weighed"):
        trained = model()
        if name != "independent":
            trained.network.start.set(torch.zeros(0, N_ELL), variances, modes)
        flags = SimpleNamespace(
            noise_file=None, r_range=None, allow_outliers=True, correct=name == "weighed"
        )
        guided.from_arguments(flags, trained, own, read_contaminants=None)
        said[name] = capsys.readouterr().err
    assert "correlated by up to 0.60" in said["correlated"] and "--correct" in said["correlated"]
    assert "correlated" not in said["independent"] + said["weighed"]
