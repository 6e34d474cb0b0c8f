"""Train a score model on spectra: denoising score matching on normalised log D_ell.

Reads the training rows of data_generation.py. Writes the checkpoint (--out) and beside it
training_loss.npy (columns: training, validation, best linear denoiser; a row per epoch) and
training_loss.png. A checkpoint that is replaced stays as NAME.previous.pth.

Example:
  python train.py --data-file data/dl_train_r0.001.npy --sde-type VE --epochs 150 --device cpu
"""

import copy
import dataclasses
import math
import os
import time

import numpy as np

import cli
import sde_utils
import storage

SAVE_SECONDS = 15  # between checkpoints of a running training
WARMUP_STEPS = 200
NUM_LEVELS = 12  # noise levels at which network and linear denoiser are compared
LEVEL_REPEATS = 16  # noise draws per row and level


def split_rows(n, val_fraction, seed):
    """Row numbers of the training and the validation rows."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = max(1, round(val_fraction * n))
    if n - n_val < 2:
        raise cli.InputError(f"--data-file: {n} rows are too few to train and validate on")
    return order[n_val:], order[:n_val]


class LinearDenoiser:
    """The best linear (Gaussian) denoiser of the training rows, in closed form.

    For data of zero mean and covariance C the best linear prediction of z from
    x = alpha x_0 + sigma z is K x with K = sigma (alpha^2 C + sigma^2)^-1. A network that has
    learnt nothing beyond a Gaussian does no better.

    Args:
        sde: An instance of a class in sde_utils.SDES.
        x_train: Normalised training rows, shape (n, n_ell).
    """

    def __init__(self, sde, x_train):
        import torch

        self.sde = sde
        self.variances, self.modes = torch.linalg.eigh(x_train.T @ x_train / len(x_train))

    def _gain(self, t):
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        return sigma / (alpha**2 * self.variances + sigma**2)

    def __call__(self, x, t):
        """Predicted noise, shape of x (n, n_ell); t is a scalar tensor or has shape (n,)."""
        return (x @ self.modes * self._gain(t)) @ self.modes.T

    def loss(self, x0, t):
        """Expected squared error per component on rows x0, over all noise, at time t.

        With B the second moments of x0 in the modes of C and k the gains, the mean over modes of
        k^2 alpha^2 B + (sigma k - 1)^2.
        """
        alpha, sigma, gain = self.sde.alpha(t), self.sde.sigma(t), self._gain(t)
        second_moments = (x0 @ self.modes).square().mean(0)
        return (gain**2 * alpha**2 * second_moments + (sigma * gain - 1) ** 2).mean()


def loss_by_level(network, linear, sde, x0, seed):
    """Held-out loss of network and linear denoiser at each noise level.

    The linear loss is exact over the noise; the network's is that plus the mean difference of
    the two on the same noise, which cancels most of the Monte-Carlo error.

    Returns:
        {"noise_to_signal", "network", "network_error", "linear"}: lists of NUM_LEVELS numbers;
        network_error is the standard error of the difference over the rows.
    """
    import torch

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
                errors = [(f(x, t) - z).square().mean(1) for f in (network, linear)]
                difference = difference + (errors[0] - errors[1]) / LEVEL_REPEATS
            exact = linear.loss(x0, t)
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


def learning_rate(step, num_steps, peak):
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, num_steps // 10)))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(network, ema, sde, x_train, x_val, settings, state, save, bar):
    """Run the epochs that are left; `ema` and `network` change in place.

    Args:
        network: ScoreNet1D in training.
        ema: Its copy that follows with exponential averaging.
        sde: An instance of a class in sde_utils.SDES.
        x_train: Normalised training rows, shape (n, n_ell), on the device.
        x_val: Validation rows, likewise.
        settings: {"batch_size", "epochs", "lr", "ema_decay", "seed"}.
        state: {"history", "generator", "optimizer"} where training stands; empty at the start.
        save: Called with the new state every SAVE_SECONDS, and at the end.
        bar: Progress bar over epochs.

    Raises:
        DivergedError: If the loss stops being finite; nothing is saved then.
    """
    import torch

    parameters, averages = list(network.parameters()), list(ema.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, fused=True)
    generator = torch.Generator(x_train.device).manual_seed(settings["seed"])
    history = {"train": [], "validation": [], "linear": []}
    if state:
        try:
            optimizer.load_state_dict(state["optimizer"])
            generator.set_state(state["generator"])
            history = {key: list(state["history"][key]) for key in history}
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
            raise cli.InputError(
                "--resume: the checkpoint's training state is damaged; train anew without --resume"
            ) from None
    batch_size = min(settings["batch_size"], len(x_train))
    batches = len(x_train) // batch_size
    num_steps = settings["epochs"] * batches
    linear = LinearDenoiser(sde, x_train)
    times = sde_utils.noise_levels(sde, x_train.new_ones(()), 64)
    linear_loss = float(torch.stack([linear.loss(x_val, t) for t in times]).mean())

    @torch.no_grad()
    def probe_loss(denoiser):
        probe = torch.Generator(x_val.device).manual_seed(settings["seed"] + 1)
        return sde_utils.denoising_loss(denoiser, sde, x_val, probe)

    saved = time.monotonic()
    for epoch in range(len(history["train"]), settings["epochs"]):
        order = torch.randperm(len(x_train), device=x_train.device, generator=generator)
        total = x_train.new_zeros(())
        for batch in range(batches):
            step = epoch * batches + batch
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            loss = sde_utils.denoising_loss(network, sde, x_train[rows], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.param_groups[0]["lr"] = learning_rate(step, num_steps, settings["lr"])
            optimizer.step()
            # the average forgets the initial weights at the start of a training
            decay = min(settings["ema_decay"], (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1 - decay)
            total += loss.detach()
        mean_loss = float(total) / batches
        # on the same noise as the linear denoiser, whose exact loss is known: less Monte Carlo
        val_loss = linear_loss + float(probe_loss(ema) - probe_loss(linear))
        if not math.isfinite(mean_loss + val_loss):
            raise cli.DivergedError(
                f"the loss is not finite in epoch {epoch + 1}; the last good checkpoint stays; "
                "try a smaller --lr"
            )
        for key, value in zip(history, (mean_loss, val_loss, linear_loss), strict=True):
            history[key].append(value)
        bar.set_postfix(loss=f"{mean_loss:.4f}", val=f"{val_loss:.4f}", refresh=False)
        bar.update()
        last = epoch + 1 == settings["epochs"]
        if last or time.monotonic() - saved > SAVE_SECONDS:
            state = {"generator": generator.get_state(), "optimizer": optimizer.state_dict()}
            save({**state, "history": history}, finished=last)
            saved = time.monotonic()


def build_parser():
    parser = cli.make_parser(__doc__)
    group = parser.add_argument_group("files")
    group.add_argument(
        "--data-file",
        type=cli.file_argument(".npy"),
        default="data/dl_train_r0.001.npy",
        help="training rows, D_ell in uK^2",
    )
    group.add_argument(
        "--out", type=cli.file_argument(".pth"), default="model.pth", help="checkpoint to write"
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the unfinished training in --out; other settings must be as they were",
    )
    cli.add_sde_arguments(parser)
    group = parser.add_argument_group("network")
    group.add_argument("--hidden-dim", type=cli.positive_int, default=256, help="width")
    group.add_argument(
        "--embed-dim", type=cli.even_int, default=128, help="Fourier features of time, even"
    )
    group.add_argument(
        "--num-layers", type=cli.positive_int, default=5, help="number of residual blocks"
    )
    group = parser.add_argument_group("training")
    group.add_argument("--batch-size", type=cli.positive_int, default=128, help="rows per step")
    group.add_argument(
        "--epochs", type=cli.positive_int, default=150, help="passes over the training rows"
    )
    group.add_argument(
        "--lr", type=cli.positive_float, default=7e-4, help="peak learning rate of AdamW"
    )
    group.add_argument(
        "--ema-decay", type=cli.fraction, default=0.999, help="decay of the weight average"
    )
    group.add_argument(
        "--val-fraction", type=cli.fraction, default=0.05, help="share of rows held out"
    )
    cli.add_run_arguments(parser)
    return parser


def load_rows(path):
    """Training spectra; InputError where their logarithm does not exist."""
    spectra = storage.load_spectra(path)
    if spectra.metadata.get("r") == 0:
        raise cli.InputError(
            f"{path}: is the null test, r = 0: it has no primordial spectrum to learn; "
            "train on r > 0"
        )
    if (spectra.values <= 0).any():
        raise cli.InputError(f"{path}: holds zeros, which have no logarithm; train on D_ell > 0")
    return spectra


def resume_state(path, checkpoint, settings):
    """State of the unfinished training in a checkpoint; InputError where settings differ."""
    before = checkpoint["training"].get("settings")
    if before != settings:
        before = before if isinstance(before, dict) else {}
        key = next(k for k in settings if before.get(k) != settings[k])
        raise cli.InputError(f"{path}: was trained with another {key}; --resume cannot change it")
    if not checkpoint["resume"]:
        raise cli.InputError(f"{path}: its training is finished; leave --resume out to train anew")
    return checkpoint["resume"]


def prepare_rows(data, path, val_fraction, seed):
    """Split, fit the normaliser on the training rows alone, and normalise.

    Returns:
        (normalizer, x_train, x_val, mean_dl): float32 tensors (n, n_ell), and the mean D_ell of
        the training rows, uK^2, a list.
    """
    import torch

    import model

    train_rows, val_rows = split_rows(len(data.values), val_fraction, seed)
    dl_train = torch.tensor(data.values[train_rows], dtype=torch.float64)
    dl_val = torch.tensor(data.values[val_rows], dtype=torch.float64)
    normalizer = model.Normalizer.fit(dl_train)
    if not (normalizer.std > 0).all():
        raise cli.InputError(f"{path}: a multipole has the same value in each row")
    x_train, x_val = normalizer.normalize(dl_train), normalizer.normalize(dl_val)
    return normalizer, x_train, x_val, dl_train.mean(0).tolist()


def write_checkpoint(path, loss_file, record, network, ema, training, state):
    """Write the checkpoint, and the loss history that it holds."""
    import checkpoints

    weights = {"weights": network.state_dict(), "ema_weights": ema.state_dict()}
    weights = {k: {n: v.cpu() for n, v in w.items()} for k, w in weights.items()}
    checkpoints.save(path, {**record, **weights, "training": training, "resume": state})
    storage.write_npy(loss_file, np.array(list(training["history"].values())).T)


def parse_arguments(argv):
    """(args, SDE, its record for the checkpoint)."""
    parser = build_parser()
    args = parser.parse_args(argv)
    name = args.sde_type or "VE"
    parameters = cli.sde_parameters(parser, args, name)
    try:
        sde = sde_utils.SDES[name](**parameters)
    except ValueError as error:
        parser.error(f"--sde-type {name}: {error}")
    return args, sde, {"name": name, "parameters": dataclasses.asdict(sde)}


@cli.script
def main(argv=None):
    args, sde, sde_record = parse_arguments(argv)

    import torch

    import checkpoints
    import model
    import plots

    folder = os.path.dirname(args.out)
    loss_file, figure_file = (os.path.join(folder, f"training_loss.{k}") for k in ("npy", "png"))
    data = load_rows(args.data_file)
    device = cli.get_device(args.device)
    normalizer, x_train, x_val, mean_dl = prepare_rows(
        data, args.data_file, args.val_fraction, args.seed
    )
    x_train, x_val = x_train.to(device), x_val.to(device)
    kwargs = {"n_ell": x_train.shape[1]}
    kwargs |= {key: getattr(args, key) for key in ("hidden_dim", "embed_dim", "num_layers")}
    keys = ("batch_size", "epochs", "lr", "ema_decay", "val_fraction", "seed")
    settings = {key: getattr(args, key) for key in keys}
    settings |= {"network": kwargs, "sde": sde_record, "data_sha256": storage.digest(data.values)}

    torch.manual_seed(args.seed)
    network = model.ScoreNet1D(sde, **kwargs)
    ema, state = copy.deepcopy(network), {}
    if args.resume:
        checkpoint = checkpoints.load(args.out)
        state = resume_state(args.out, checkpoint, settings)
        network.load_state_dict(checkpoint["weights"])
        ema.load_state_dict(checkpoint["ema_weights"])
        storage.claim_outputs([loss_file, figure_file])
    else:
        storage.claim_outputs([args.out, loss_file, figure_file])
        checkpoints.keep_previous(args.out)
    network, ema = network.to(device), ema.to(device).requires_grad_(False)
    record = {
        "network_kwargs": kwargs,
        "sde": sde_record,
        "normalizer": normalizer.state_dict(),
        "data": {**data.metadata, "mean_dl": mean_dl},
        **storage.provenance(argv),
    }

    def save(state, finished):
        training = {"settings": settings, "history": state["history"]}
        if finished:
            linear = LinearDenoiser(sde, x_train)
            training["levels"] = loss_by_level(ema, linear, sde, x_val, args.seed)
            state = {}
        write_checkpoint(args.out, loss_file, record, network, ema, training, state)

    done = len(checkpoint["training"]["history"]["train"]) if args.resume else 0
    cli.note(f"training on {len(x_train)} rows, {len(x_val)} held out, on {device}")
    with cli.progress(total=args.epochs, initial=done, unit="epoch") as bar:
        train(network, ema, sde, x_train, x_val, settings, state, save, bar)
    training = checkpoints.load(args.out)["training"]
    storage.write_figure(figure_file, plots.training_loss(training["history"], training["levels"]))
    cli.say(gaussian_verdict(training["levels"])[0])
    cli.say(f"wrote {args.out}, {loss_file}, {figure_file}")


if __name__ == "__main__":
    main()
