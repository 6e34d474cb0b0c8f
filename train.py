"""Train a score model on spectra: denoising score matching on normalised log D_ell.

With --data-file alone it learns the prior p(x). With --cond-file, the observations of the same
rows, it learns the posterior p(x | y); with --param-file as well, the r of the same rows, the
joint posterior p(x, r | y). Reads the training rows of data_generation.py. Writes the checkpoint
(--out) and beside it training_loss.npy (columns: training, validation, best linear denoiser; a
row per epoch) and training_loss.png. A checkpoint that is replaced stays as NAME.previous.pth.

SIGTERM, SIGUSR1 and Ctrl-C save and stop (exit codes 143, 143, 130); --resume goes on from there,
bit for bit. A job that may be stopped passes --resume always: docs/slurm.sbatch. On several
processes each takes an equal share of every batch: torchrun --nproc-per-node=2 train.py ...

Examples:
  python train.py --data-file data/dl_train_r0.001.npy --sde-type VE --epochs 150 --device cpu
  python train.py --data-file data/dl_train_r0-0.01.npy --out posterior.pth \\
      --cond-file data/dl_train_noisy_r0-0.01.npy --param-file data/r_train_r0-0.01.npy
"""

import copy
import dataclasses
import os
import time

import numpy as np

import sde_utils
from diffusion import baseline, dataset, trainer
from figures import training as plots
from runtime import atomic, cli, console, devices, processes, records, resources
from runtime.errors import InputError


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
        help="go on with the training in --out, if there is one; settings must be as they were",
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
    group.add_argument(
        "--batch-size", type=cli.positive_int, default=128, help="rows per step, of all processes"
    )
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


def check_settings(path, checkpoint, settings):
    """InputError where a checkpoint was trained with other settings."""
    before = checkpoint["training"].get("settings")
    before = {"precision": "float32", **before} if isinstance(before, dict) else {}
    if before != settings:
        key = next((k for k in settings if before.get(k) != settings[k]), "setting")
        raise InputError(f"{path}: was trained with another {key}; --resume cannot change it")


def build_networks(sde, kwargs, seed, checkpoint, device):
    """(network, EMA) with the weights of a checkpoint, or as they start where it is None."""
    import torch

    import model

    torch.manual_seed(seed)
    network = model.ScoreNet1D(sde, **kwargs)
    ema = copy.deepcopy(network)
    if checkpoint:
        network.load_state_dict(checkpoint["weights"])
        ema.load_state_dict(checkpoint["ema_weights"])
    return network.to(device), ema.to(device).requires_grad_(False)


def write_checkpoint(path, loss_file, record, network, ema, trained, state):
    """Write the checkpoint, and the loss history that it holds."""

    from runtime import checkpoints

    weights = {"weights": network.state_dict(), "ema_weights": ema.state_dict()}
    weights = {k: {n: v.cpu() for n, v in w.items()} for k, w in weights.items()}
    checkpoints.save(path, {**record, **weights, "training": trained, "resume": state})
    atomic.write_npy(loss_file, np.array(list(trained["history"].values())).T)


def announce(rows, steps, seconds, settings, network, num_bytes, folder):
    """Say beforehand how long and how large the work is."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    work = (
        f"{len(rows):,} rows, {steps:,} steps of {min(settings['batch_size'], len(rows))}, "
        f"{parameters:,} parameters, on {rows.device}: about {console.format_duration(seconds)}"
        f"{trainer.gpu_memory(rows.device)}"
    )
    # what it has had so far, a checkpoint before it is written, and the figure
    memory = (
        resources.peak_memory() + 2 * trainer.checkpoint_bytes(network) + resources.FIGURE_MEMORY
    )
    resources.announce(work, memory, num_bytes, folder)


def write_report(outputs, trained):
    """Write loss history and figure of a finished training, and say what it came to."""

    _, loss_file, figure_file = outputs
    atomic.write_npy(loss_file, np.array(list(trained["history"].values())).T)
    atomic.write_figure(figure_file, plots.training_loss(trained["history"], trained["levels"]))
    console.print_result(baseline.gaussian_verdict(trained["levels"])[0])
    console.print_result(f"wrote {resources.format_files(outputs)}")


def describe(args, tables, sde_record):
    """(arguments of the network, settings that a resumed training must share)."""
    n_ell = tables["data"].values.shape[1]
    kwargs = {"n_ell": n_ell, "n_cond": n_ell if args.cond_file else 0}
    kwargs |= {"n_param": int(bool(args.param_file))}
    kwargs |= {key: getattr(args, key) for key in ("hidden_dim", "embed_dim", "num_layers")}
    keys = ("batch_size", "epochs", "lr", "ema_decay", "val_fraction", "seed", "precision")
    settings = {key: getattr(args, key) for key in keys} | {"network": kwargs, "sde": sde_record}
    for name, table in tables.items():
        if table:
            settings[f"{name}_sha256"] = table.sha256
    return kwargs, settings


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

    from runtime import checkpoints

    devices.set_threads(args.threads)
    device = devices.get_device(args.device)
    folder = os.path.dirname(args.out)
    outputs = args.out, *(os.path.join(folder, f"training_loss.{k}") for k in ("npy", "png"))
    tables = dataset.load(args.data_file, args.cond_file, args.param_file)
    kwargs, settings = describe(args, tables, sde_record)
    checkpoint, state = None, {}
    if args.resume and os.path.exists(args.out):
        checkpoint = checkpoints.load(args.out)
        check_settings(args.out, checkpoint, settings)
        state = checkpoint["resume"]
        if not state:
            console.info(f"{args.out}: its training is finished; leave --resume out to train anew")
            if processes.rank() == 0:
                write_report(outputs, checkpoint["training"])
            return
    elif args.resume:
        console.info(f"--resume: there is no {args.out} yet; the training starts anew")
    network, ema = build_networks(sde, kwargs, args.seed, checkpoint, device)
    # the checkpoint that is there and its successor, and rows that do not fit into memory
    num_bytes = 2 * trainer.checkpoint_bytes(network)
    num_bytes += processes.local_world_size() * dataset.file_bytes(tables, device)
    if processes.rank() == 0:
        atomic.claim_outputs(outputs[1:] if state else outputs, num_bytes)
    learnt, rows, rows_held_out = dataset.prepare(
        tables, args.val_fraction, args.seed, device, os.path.abspath(folder)
    )
    moments = baseline.second_moments(rows.blocks())
    linear = baseline.LinearDenoiser(sde, moments, rows.n_dim, device)
    record = {"network_kwargs": kwargs, "sde": sde_record, **records.provenance(argv)}
    record |= {key: learnt[key] for key in ("normalizer", "cond_normalizer")}
    record["data"] = {**tables["data"].metadata, "mean_dl": learnt["mean_dl"]}

    def save(state, **levels):
        trained = {"settings": settings, "history": state["history"], **levels}
        state = {} if levels else state
        write_checkpoint(*outputs[:2], record, network, ema, trained, state)
        return trained

    with processes.process_group(device):
        held_out = trainer.HeldOutLoss(linear, rows_held_out, args.seed)
        work = (network, ema, sde, rows)
        steps, done = trainer.num_steps(rows, settings), trainer.steps_done(state)
        repeats = baseline.level_repeats(len(rows_held_out), rows.n_dim)
        # the first process alone passes through all of them, and all together through a share each
        num_passes = baseline.NUM_LEVELS * repeats * processes.world_size()
        seconds = trainer.estimate(*work, held_out, settings, done, num_passes)
        announce(rows, steps - done, seconds, settings, network, num_bytes, folder)
        if not state and processes.rank() == 0:
            checkpoints.keep_previous(args.out)
        began = time.monotonic()
        with console.progress(total=steps, unit="step") as bar:
            history = trainer.train(*work, held_out, settings, state, save, bar)
        batch_size = min(settings["batch_size"], len(rows))
        rate = (steps - done) * batch_size / (time.monotonic() - began)
        console.info(f"trained on {rate:,.0f} rows per second")
    if processes.rank() == 0:
        levels = baseline.loss_by_level(ema, linear, held_out.blocks, args.seed)
        write_report(outputs, save({"history": history}, levels=levels))


if __name__ == "__main__":
    main()
