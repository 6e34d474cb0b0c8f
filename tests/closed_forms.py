"""Closed forms that several tests hold the code against."""

import sde_utils


def velocity_from_score(sde, score):
    """Velocity dv/dtheta of a score function, by its definition.

    With E[z | x] = -sigma score and E[x_0 | x] = (x + sigma^2 score) / alpha, the velocity
    cos(theta) E[z | x] - sin(theta) E[x_0 | x] is
    -(sigma/alpha) (v + sqrt(alpha^2 + sigma^2) score).
    """

    def velocity(x, t):
        scale = sde_utils.prior_std(sde, t)
        return -sde.sigma(t) / sde.alpha(t) * (x / scale + scale * score(x, t))

    return velocity
