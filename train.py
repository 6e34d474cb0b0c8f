"""Train a score model on spectra: denoising score matching on normalised log D_ell.

With --data-file alone it learns the prior p(x). With --cond-file, the observations of the same
rows, it learns the posterior p(x | y); with --param-file as well, the r of the same rows, the
joint posterior p(x, r | y). Reads the training rows of data_generation.py. Writes the checkpoint
(--out) and beside it training_loss.npy (columns: training, validation, best linear denoiser; a
row per epoch) and training_loss.png. A checkpoint that is replaced stays as NAME.previous.pth.

Examples:
  python train.py --data-file data/dl_train_r0.001.npy --sde-type VE --epochs 150 --device cpu
  python train.py --data-file data/dl_train_r0-0.01.npy --out posterior.pth \\
      --cond-file data/dl_train_noisy_r0-0.01.npy --param-file data/r_train_r0-0.01.npy
"""

import copy
import dataclasses
import functools
import math
import os
import time

import numpy as np

import cli
import linear_denoiser
import sde_utils
import storage

SAVE_SECONDS = 15  # between checkpoints of a running training
WARMUP_STEPS = 200


def split_rows(n, val_fraction, seed):
    """Row numbers of the training and the validation rows."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = max(1, round(val_fraction * n))
    if n - n_val < 2:
        raise cli.InputError(f"--data-file: {n} rows are too few to train and validate on")
    return order[n_val:], order[:n_val]


def learning_rate(step, num_steps, peak):
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, num_steps // 10)))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(network, ema, sde, rows_train, rows_val, settings, state, save, bar):
    """Run the epochs that are left; `ema` and `network` change in place.

    Args:
        network: ScoreNet1D in training.
        ema: Its copy that follows with exponential averaging.
        sde: An instance of a class in sde_utils.SDES.
        rows_train: (x, y): normalised training rows, shape (n, n_ell), on the device, and their
            observations, or None.
        rows_val: Validation rows, likewise.
        settings: {"batch_size", "epochs", "lr", "ema_decay", "seed"}.
        state: {"history", "generator", "optimizer"} where training stands; empty at the start.
        save: Called with the new state every SAVE_SECONDS, and at the end.
        bar: Progress bar over epochs.

    Raises:
        DivergedError: If the loss stops being finite; nothing is saved then.
    """
    import torch

    (x_train, y_train), (x_val, y_val) = rows_train, rows_val
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
    linear = linear_denoiser.LinearDenoiser(sde, x_train, y_train)
    times = sde_utils.noise_levels(sde, x_train.new_ones(()), 64)
    linear_loss = float(torch.stack([linear.loss(x_val, t, y_val) for t in times]).mean())

    @torch.no_grad()
    def probe_loss(denoiser):
        probe = torch.Generator(x_val.device).manual_seed(settings["seed"] + 1)
        return sde_utils.denoising_loss(denoiser, sde, x_val, probe, y_val)

    saved = time.monotonic()
    for epoch in range(len(history["train"]), settings["epochs"]):
        order = torch.randperm(len(x_train), device=x_train.device, generator=generator)
        total = x_train.new_zeros(())
        for batch in range(batches):
            step = epoch * batches + batch
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            y = None if y_train is None else y_train[rows]
            loss = sde_utils.denoising_loss(network, sde, x_train[rows], generator, y)
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
    npy = cli.file_argument(".npy")
    group.add_argument(
        "--cond-file", type=npy, help="their observations, row for row: learn the posterior"
    )
    group.add_argument(
        "--param-file", type=npy, help="their r, row for row: learn the joint posterior of D_ell, r"
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


def load_rows(data_file, cond_file=None, param_file=None):
    """Training rows from disk.

    Returns:
        {"data", "cond", "param"}: `storage.Table` of truth, observation and r, the last two None
        where no file is given.

    Raises:
        InputError: Where rows do not match, or have no logarithm.
    """
    rows = {"data": storage.load_spectra(data_file), "cond": None, "param": None}
    if rows["data"].metadata.get("r") == 0:
        raise cli.InputError(
            f"{data_file}: is the null test, r = 0: it has no primordial spectrum to learn; "
            "train on r > 0"
        )
    if cond_file:
        rows["cond"] = storage.load_spectra(cond_file)
        storage.check_quantity("--data-file", rows["data"], "primordial BB")
        storage.check_quantity("--cond-file", rows["cond"], "observed BB")
    if param_file:
        rows["param"] = storage.load_r(param_file)
    for table in filter(None, (rows["cond"], rows["param"])):
        storage.check_same_rows(rows["data"], table)
    for table in filter(None, (rows["data"], rows["cond"])):
        if (table.values <= 0).any():
            raise cli.InputError(
                f"{table.path}: holds zeros, which have no logarithm; train on D_ell > 0"
            )
    return rows


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


def prepare_rows(rows, val_fraction, seed):
    """Split, fit the normalisers on the training rows alone, and normalise.

    Args:
        rows: From `load_rows`.
        val_fraction: Share of the rows held out.
        seed: Of the split.

    Returns:
        (record, train, val): the normalisers and the mean D_ell of the training rows (uK^2), for
        the checkpoint; and twice (x, y), float32 tensors (n, n_ell), y None without observations.
    """
    import torch

    import model

    def fit(normalizer, path, *values):
        fitted = normalizer(*(torch.from_numpy(np.asarray(v[train], float)) for v in values))
        if not (fitted.state_dict()["std"] > 0).all():
            raise cli.InputError(f"{path}: a multipole has the same value in each row")
        both = []
        for split in (train, val):
            chosen = (torch.from_numpy(np.asarray(v[split], float)) for v in values)
            both.append(fitted.normalize(*chosen))
        return fitted.state_dict(), both

    data, cond, param = rows["data"], rows["cond"], rows["param"]
    train, val = split_rows(len(data.values), val_fraction, seed)
    record = {"mean_dl": data.values[train].mean(0).tolist(), "cond_normalizer": None}
    if param is None:
        record["normalizer"], x = fit(model.Normalizer.fit, data.path, data.values)
    else:
        joint = functools.partial(
            model.JointNormalizer.fit, r_range=param.r_range, signal=param.signal
        )
        record["normalizer"], x = fit(joint, data.path, data.values, param.values)
    y = (None, None)
    if cond is not None:
        record["cond_normalizer"], y = fit(model.Normalizer.fit, cond.path, cond.values)
    return record, (x[0], y[0]), (x[1], y[1])


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
    if args.param_file and not args.cond_file:
        parser.error("--param-file needs --cond-file: without observations r is its prior")
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
    rows = load_rows(args.data_file, args.cond_file, args.param_file)
    device = cli.get_device(args.device)
    learnt, *prepared = prepare_rows(rows, args.val_fraction, args.seed)
    rows_train, rows_val = (
        tuple(None if values is None else values.to(device) for values in pair) for pair in prepared
    )
    kwargs = {"n_ell": rows["data"].values.shape[1]}
    kwargs |= {
        "n_cond": kwargs["n_ell"] if args.cond_file else 0,
        "n_param": int(bool(args.param_file)),
    }
    kwargs |= {key: getattr(args, key) for key in ("hidden_dim", "embed_dim", "num_layers")}
    keys = ("batch_size", "epochs", "lr", "ema_decay", "val_fraction", "seed")
    settings = {key: getattr(args, key) for key in keys}
    digests = {f"{name}_sha256": storage.digest(t.values) for name, t in rows.items() if t}
    settings |= {"network": kwargs, "sde": sde_record, **digests}

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
        "normalizer": learnt["normalizer"],
        "cond_normalizer": learnt["cond_normalizer"],
        "data": {**rows["data"].metadata, "mean_dl": learnt["mean_dl"]},
        **storage.provenance(argv),
    }

    def save(state, finished):
        training = {"settings": settings, "history": state["history"]}
        if finished:
            linear = linear_denoiser.LinearDenoiser(sde, *rows_train)
            training["levels"] = linear_denoiser.loss_by_level(
                ema, linear, sde, rows_val, args.seed
            )
            state = {}
        write_checkpoint(args.out, loss_file, record, network, ema, training, state)

    done = len(checkpoint["training"]["history"]["train"]) if args.resume else 0
    counts = f"{len(rows_train[0])} rows, {len(rows_val[0])} held out"
    cli.note(f"training on {counts}, on {device}")
    with cli.progress(total=args.epochs, initial=done, unit="epoch") as bar:
        train(network, ema, sde, rows_train, rows_val, settings, state, save, bar)
    training = checkpoints.load(args.out)["training"]
    storage.write_figure(figure_file, plots.training_loss(training["history"], training["levels"]))
    cli.say(linear_denoiser.gaussian_verdict(training["levels"])[0])
    cli.say(f"wrote {args.out}, {loss_file}, {figure_file}")


if __name__ == "__main__":
    main()
