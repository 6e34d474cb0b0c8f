"""ScoreNet1D, the network that predicts the noise, and the normaliser of its data."""

import math

import torch
from torch import nn


class FourierTime(nn.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020, arXiv:2006.10739).

    Args:
        embed_dim: Number of features, even.
        scale: Standard deviation of the fixed random frequencies.
    """

    def __init__(self, embed_dim, scale=2.0):
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(embed_dim // 2))

    def forward(self, value):
        """Features, shape (..., embed_dim), of value, shape (...)."""
        angle = 2 * math.pi * value[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """h + silu(W norm(h) + V embedding): the noise level enters every block."""

    def __init__(self, hidden_dim, embed_dim):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.linear = nn.Linear(hidden_dim, hidden_dim)
        self.modulation = nn.Linear(embed_dim, hidden_dim)

    def forward(self, h, embedding):
        return h + nn.functional.silu(self.linear(self.norm(h)) + self.modulation(embedding))


class PerMultipole(nn.Module):
    """A small network of its own for each multipole: one hidden layer of silu units.

    On the full sky multipoles are independent, and most of what a score adds to a Gaussian is
    the skewness of each. Units that see one multipole learn that from far fewer rows than a
    dense network, which also has to find out that the other multipoles do not matter.

    Args:
        n_ell: Number of multipoles.
        embed_dim: Width of the time embedding, which sets biases and output weights.
        units: Hidden units of each multipole.
    """

    def __init__(self, n_ell, embed_dim, units=16):
        super().__init__()
        self.shape = (n_ell, units)
        self.slopes = nn.Parameter(torch.randn(n_ell, units))
        self.biases = nn.Linear(embed_dim, n_ell * units)
        self.weights = nn.Linear(embed_dim, n_ell * units)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def forward(self, x, embedding):
        """Shape of x, (n, n_ell)."""
        biases = self.biases(embedding).unflatten(-1, self.shape)
        weights = self.weights(embedding).unflatten(-1, self.shape)
        return (nn.functional.silu(x[..., None] * self.slopes + biases) * weights).sum(-1)


class ScoreNet1D(nn.Module):
    """Predicts the noise z in x = alpha(t) x_0 + sigma(t) z.

    With u = sigma/alpha and the input scaled to unit variance, x' = x / sqrt(alpha^2 + sigma^2),
    the prediction is (u x' + F(x', u)) / sqrt(1 + u^2). The first term is the exact answer for
    uncorrelated Gaussian data of unit variance. F, a residual MLP plus one small network per
    multipole, starts at zero and learns the rest; its errors fade with the noise, where the
    reverse process would add them up over many steps (compare Karras et al. 2022,
    arXiv:2206.00364, section 5). u enters as Fourier features of its logarithm, which resolve
    small and large noise alike.

    Args:
        sde: An instance of a class in `sde_utils.SDES`.
        n_ell: Number of multipoles.
        hidden_dim: Width of the residual stream.
        embed_dim: Width of the time embedding, even.
        num_layers: Number of residual blocks.
    """

    def __init__(self, sde, n_ell, hidden_dim=256, embed_dim=128, num_layers=5):
        super().__init__()
        self.sde = sde
        self.fourier = FourierTime(embed_dim)
        self.embedding = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.SiLU())
        self.per_multipole = PerMultipole(n_ell, embed_dim)
        self.input = nn.Linear(n_ell, hidden_dim)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_dim, embed_dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, n_ell)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x, t):
        """Predicted noise, shape of x (n, n_ell); t is a scalar tensor or has shape (n,)."""
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        scale = (alpha**2 + sigma**2).sqrt()
        x = x / scale
        embedding = self.embedding(self.fourier((sigma / alpha).log().squeeze(-1) / 4))
        h = self.input(x)
        for block in self.blocks:
            h = block(h, embedding)
        correction = self.output(nn.functional.silu(self.norm(h)))
        correction = correction + self.per_multipole(x, embedding)
        return (sigma * x + alpha * correction) / scale


class Normalizer:
    """log D_ell, shifted and scaled to zero mean and unit variance per multipole.

    Args:
        mean: Mean of log D_ell, float32 tensor of shape (n_ell,); D_ell in uK^2.
        std: Its standard deviation, likewise, > 0.
    """

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    @classmethod
    def fit(cls, dl):
        """Fit to training rows dl, float64 tensor (n, n_ell), uK^2, all > 0."""
        log_dl = dl.log()
        return cls(log_dl.mean(0).float(), log_dl.std(0, correction=0).float())

    def state_dict(self):
        """The two tensors, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def normalize(self, dl):
        """float32 tensor (..., n_ell) from D_ell in uK^2, float64 tensor of that shape."""
        return ((dl.log() - self.mean) / self.std).float()

    def denormalize(self, x):
        """D_ell in uK^2, float64 tensor, from normalised x of the same shape."""
        return (x.double() * self.std + self.mean).exp()
