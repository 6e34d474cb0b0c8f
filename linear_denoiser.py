"""The best linear denoiser in closed form: what a network has to beat to have learnt anything."""

import math

import numpy as np

import sde_utils

NUM_LEVELS = 12  # noise levels at which network and linear denoiser are compared
LEVEL_REPEATS = 16  # noise draws per row and level


class LinearDenoiser:
    """The best linear (Gaussian) denoiser of the training rows, in closed form.

    With B y the linear regression of x_0 on the observation, and C the covariance of what it
    leaves, the best linear prediction of z from x = alpha x_0 + sigma z and y is
    K (x - alpha B y) with K = sigma (alpha^2 C + sigma^2)^-1; without y, B = 0. A network that
    has learnt nothing beyond a Gaussian does no better.

    Args:
        sde: An instance of a class in sde_utils.SDES.
        x_train: Normalised training rows, shape (n, n_ell).
        y_train: Their normalised observations, or None.
    """

    def __init__(self, sde, x_train, y_train=None):
        import torch

        self.sde, self.regression = sde, None
        if y_train is not None:
            self.regression = torch.linalg.lstsq(y_train, x_train).solution
        rest = self._rest(x_train, y_train)
        self.variances, self.modes = torch.linalg.eigh(rest.T @ rest / len(rest))

    def _rest(self, x, y, alpha=1):
        return x if y is None else x - alpha * (y @ self.regression)

    def _gain(self, t):
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        return sigma / (alpha**2 * self.variances + sigma**2)

    def __call__(self, x, t, y=None):
        """Predicted noise, shape of x (n, n_ell); t is a scalar tensor or has shape (n,)."""
        rest = self._rest(x, y, self.sde.alpha(t)[..., None])
        return (rest @ self.modes * self._gain(t)) @ self.modes.T

    def loss(self, x0, t, y=None):
        """Expected squared error per component on rows x0, over all noise, at time t.

        With M the second moments of x0 - B y in the modes of C and k the gains, the mean over
        modes of k^2 alpha^2 M + (sigma k - 1)^2.
        """
        alpha, sigma, gain = self.sde.alpha(t), self.sde.sigma(t), self._gain(t)
        second_moments = (self._rest(x0, y) @ self.modes).square().mean(0)
        return (gain**2 * alpha**2 * second_moments + (sigma * gain - 1) ** 2).mean()


def loss_by_level(network, linear, sde, rows, seed):
    """Held-out loss of network and linear denoiser at each noise level.

    The linear loss is exact over the noise; the network's is that plus the mean difference of
    the two on the same noise, which cancels most of the Monte-Carlo error.

    Args:
        network: Callable (x, t, y) -> predicted noise.
        linear: A `LinearDenoiser`.
        sde: An instance of a class in sde_utils.SDES.
        rows: (x0, y): held-out rows and their observations, or None.
        seed: Of the noise.

    Returns:
        {"noise_to_signal", "network", "network_error", "linear"}: lists of NUM_LEVELS numbers;
        network_error is the standard error of the difference over the rows.
    """
    import torch

    x0, y = rows
    generator = torch.Generator(x0.device).manual_seed(seed)
    times = sde_utils.noise_levels(sde, x0.new_ones(()), NUM_LEVELS - 1)
    table = {"noise_to_signal": [], "network": [], "network_error": [], "linear": []}
    with torch.no_grad():
        for t in times:
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            difference = 0
            for _ in range(LEVEL_REPEATS):
                z = torch.empty_like(x0).normal_(generator=generator)
                x = alpha * x0 + sigma * z
                errors = [(f(x, t, y) - z).square().mean(1) for f in (network, linear)]
                difference = difference + (errors[0] - errors[1]) / LEVEL_REPEATS
            exact = linear.loss(x0, t, y)
            table["noise_to_signal"].append(float(sigma / alpha))
            table["linear"].append(float(exact))
            table["network"].append(float(exact + difference.mean()))
            error = difference.std(correction=0) / math.sqrt(max(1, len(x0) - 1))
            table["network_error"].append(float(error))
    return table


def gaussian_verdict(levels):
    """(sentence, percent): by how much the network beats the best linear denoiser."""
    network, linear = np.array(levels["network"]), np.array(levels["linear"])
    share = 100 * (1 - network.sum() / linear.sum())
    error = 100 * np.sqrt(np.sum(np.square(levels["network_error"]))) / linear.sum()
    numbers = f"{share:+.3f} +- {error:.3f} % below the best linear denoiser on held-out rows"
    if share <= 2 * error:
        return f"loss {numbers}: no sign that it learnt anything beyond a Gaussian", share
    return f"loss {numbers}: it learnt more than a Gaussian", share
