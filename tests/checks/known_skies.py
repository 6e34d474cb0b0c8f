"""Skies whose exact posterior is known, and statistical limits, for the tests of checks.

Every statistical check has a false-alarm rate of FALSE_ALARM by construction; seeds are fixed, so
that it passes always or never.
"""

import types

import numpy as np
from scipy import stats

from checks.exact import FixedForegroundPosterior, GaussianPosterior
from checks.exact_r import MarginalPosterior, ObservationModel, RPosterior
from checks.noncentral import degrees

FALSE_ALARM = 1e-6
NUM_ELL = 5
NU = degrees(NUM_ELL)
TILT = (NU / 9) ** 0.5
R_RANGE = (0.0, 2.0)


def z_limit(num_checks):
    """Two-sided limit on normal deviates: all checks together raise FALSE_ALARM by chance."""
    return stats.norm.isf(FALSE_ALARM / 2 / num_checks)


def assert_uniform(u):
    """KS test of each column of u, shape (n, k)."""
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > FALSE_ALARM / u.shape[1]


def signal(r):
    """S at each r, shape (k, n_ell): not quite proportional to r, as with the tensor tilt."""
    return np.outer(r, TILT) * (1 + 0.05 * np.outer(r, 1 / NU))


def make_pairs(S, N, F, n, seed):
    """x and y, shape (n, n_ell), from all nu coefficients of p, n and f; S also (n, n_ell)."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((2, n, NUM_ELL))
    S, N, F = (np.broadcast_to(a, (n, NUM_ELL)) for a in (S, N, F))
    for i, nu in enumerate(NU):
        direction = rng.standard_normal(nu)
        f = direction / np.linalg.norm(direction) * np.sqrt(nu * F[:, i, None])
        p, noise = (np.sqrt(a[:, i, None]) * rng.standard_normal((n, nu)) for a in (S, N))
        x[:, i], y[:, i] = np.mean(p**2, axis=1), np.mean((p + noise + f) ** 2, axis=1)
    return x, y


def case(F, unknown_r, n, seed=1, N=0.5 / TILT):
    """Pairs of truth and observation with their exact posterior, r drawn from its prior or 1."""
    r = np.random.default_rng(seed + 100).uniform(*R_RANGE, n) if unknown_r else np.ones(n)
    S, F = signal(r), F * TILT**2
    x, y = make_pairs(S, N, F, n, seed)
    r_posterior = None
    if unknown_r:
        model = ObservationModel(signal, N, F, R_RANGE)
        r_posterior = RPosterior(y, model)
        posterior = MarginalPosterior(y, model, r_posterior)
    elif F.any():
        posterior = FixedForegroundPosterior(y, S, N, F)
    else:
        posterior = GaussianPosterior(y, S, N)
    return types.SimpleNamespace(
        r=r, x=x, y=y, S=S, N=N, F=F, posterior=posterior, r_posterior=r_posterior
    )


CASES = {
    "Gaussian": lambda: case(0.0, False, 6000),
    "fixed": lambda: case(2.0, False, 6000),
    "marginal": lambda: case(0.0, True, 3000),
    "marginal fixed": lambda: case(1.0, True, 600),
}
