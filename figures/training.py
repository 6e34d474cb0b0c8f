"""Figure of a training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from figures import style

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure


@style.own_style()
def training_loss(
    history: Mapping[str, Sequence[float]], levels: Mapping[str, Sequence[float]]
) -> "Figure":
    """The loss over the epochs, and by noise level, beside the best linear denoiser.

    Args:
        history: {"train", "validation", "linear"}: lists with one value per epoch.
        levels: {"noise_to_signal", "network", "network_error", "linear"}: equally long lists;
            the error None where it is unknown.
    """
    figure, (left, right) = style.make_axes()
    epochs = np.arange(1, 1 + len(history["train"]))
    linear = history["linear"][-1]
    rows, held_out = ({"color": color} for color in (style.VERMILION, style.BLUE))
    left.plot(
        epochs, history["train"], **style.along(rows | {"lw": 0.5}, epochs), label="training rows"
    )
    left.plot(
        epochs, history["validation"], **style.along(held_out, epochs), label="held-out rows (EMA)"
    )
    left.axhline(linear, **style.LIMIT, label="best linear denoiser, held-out rows")
    # the first epochs would hide what matters: how far below the linear denoiser it ends
    settled = history["validation"][len(epochs) // 10 :]
    margin = 2 * max(abs(value - linear) for value in settled) + 1e-4
    left.set_ylim(linear - margin, linear + margin)
    left.set(xlabel="epoch", ylabel="mean squared error of the noise")
    left.legend(fontsize=style.LEGEND)
    by_level, errors = np.array(levels["linear"]), levels["network_error"]
    right.axhline(0, **style.LIMIT, label="best linear denoiser")
    right.errorbar(
        levels["noise_to_signal"],
        100 * (np.array(levels["network"]) / by_level - 1),
        None if errors is None else 100 * np.array(errors) / by_level,
        color=style.BLUE,
        marker="s",
        ms=4,
        capsize=2,
        label="network, held-out rows",
    )
    right.set(
        xscale="log",
        xlabel=r"noise to signal, $\sigma/\alpha$",
        ylabel="loss above the best linear denoiser [%]",
    )
    right.legend(fontsize=style.LEGEND)
    return figure
