"""Train a score model on spectra: denoising score matching on normalised log D_ell.

With --data-file alone it learns the prior p(x). With --cond-file, the observations of the same
rows, it learns the posterior p(x | y); with --param-file as well, the r of the same rows, the
joint posterior p(x, r | y); with --cond-file and --param-file alone p(r | y). Reads the training
rows of data_generation.py, or arrays of any other simulator, whose parameters --param names and
whose observations may have any number of columns. Writes the checkpoint (--out NAME.pth) and beside
it NAME.loss.npy (columns: training, validation, best linear denoiser; a row per epoch) and
NAME.loss.png. A checkpoint that is replaced stays as NAME.previous.pth.

SIGTERM, SIGUSR1 and Ctrl-C save and stop (exit codes 143, 143, 130); --resume goes on from there,
bit for bit. A job that may be stopped passes --resume always: docs/slurm.sbatch. On several
processes each takes an equal share of every batch: torchrun --nproc-per-node=2 train.py ...

Examples:
  python train.py --data-file data/dl_train_r0.001.npy --sde-type VE --epochs 150 --device cpu
  python train.py --data-file data/dl_train_r0-0.01.npy --out posterior.pth \\
      --cond-file data/dl_train_noisy_r0-0.01.npy --param-file data/r_train_r0-0.01.npy
  python train.py --cond-file y.npy --param-file theta.npy --param r 0 0.01 --param A_d 0 10
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import sde_utils
from diffusion.settings import Configuration, TrainingSettings
from figures.training import training_loss
from runtime import (
    atomic,
    cli,
    console,
    devices,
    drawing,
    locks,
    processes,
    provenance,
    resources,
    run_folder,
)
from runtime.priors import Parameter

if TYPE_CHECKING:
    from diffusion.baseline import LossLevels
    from diffusion.checkpoint_writer import CheckpointWriter
    from diffusion.dataset import Rows, TrainingTables
    from diffusion.trained import Trained
    from diffusion.trainer import History, Trainer

DATA_FILE = "data/dl_train_r0.001.npy"


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the flags of files and of what their columns are."""
    group = parser.add_argument_group("files")
    npy, pth = cli.file_argument(".npy"), cli.file_argument(".pth")
    group.add_argument(
        "--data-file",
        type=npy,
        help=f"training rows, D_ell in uK^2 (default: {DATA_FILE}; beside --param-file none: "
        "learn parameters alone)",
    )
    group.add_argument(
        "--cond-file", type=npy, help="their observations, row for row: learn the posterior"
    )
    group.add_argument(
        "--param-file", type=npy, help="their parameters, row for row: learn these as well"
    )
    group.add_argument(
        "--param",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "MIN", "MAX"),
        help="a column of --param-file and the range over which it is uniform, for each in order; "
        "files of data_generation.py say that themselves",
    )
    group.add_argument(
        "--r-range",
        type=cli.finite_float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="short for --param r MIN MAX",
    )
    group.add_argument(
        "--init-from", type=pth, help="checkpoint with whose weights the training starts"
    )
    group.add_argument("--out", type=pth, default="model.pth", help="checkpoint to write")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training in --out, if there is one; settings must be as they were",
    )


def build_parser() -> argparse.ArgumentParser:
    parser = cli.make_parser(__doc__)
    add_files(parser)
    cli.add_sde_arguments(parser, sde_utils.SDES)
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


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        data_file, cond_file, param_file: Training rows, None where there are none.
        declared: Columns of param_file that the command line names.
        init_from: Checkpoint with whose weights it starts, or None.
        out: Checkpoint.
        resume: Whether to go on with it.
        device, threads: As runtime.devices takes them; threads None for as many as pay.
        sde_name: A key of sde_utils.SDES.
        sde: The forward process.
        hidden_dim, embed_dim, num_layers: Of the network.
        training: Settings of the optimisation.
    """

    data_file: str | None
    cond_file: str | None
    param_file: str | None
    declared: tuple[Parameter, ...]
    init_from: str | None
    out: str
    resume: bool
    device: str
    threads: int | None
    sde_name: str
    sde: sde_utils.SDE
    hidden_dim: int
    embed_dim: int
    num_layers: int
    training: TrainingSettings

    @property
    def folder(self) -> str:
        """Of all outputs; empty for the working folder."""
        return os.path.dirname(self.out)

    def load_tables(self) -> TrainingTables:
        """Training rows; InputError where they do not fit."""
        from diffusion.dataset import TrainingTables

        files = (self.data_file, self.cond_file, self.param_file)
        return TrainingTables.load(*files, self.declared)

    def configuration(self, tables: TrainingTables) -> Configuration:
        """All that the weights follow from, with the sizes and digests of the tables."""
        from model import Architecture
        from runtime.checkpoints import file_sha256

        architecture = Architecture(
            n_ell=tables.n_ell,
            n_cond=tables.n_cond,
            n_param=len(tables.parameters),
            hidden_dim=self.hidden_dim,
            embed_dim=self.embed_dim,
            num_layers=self.num_layers,
        )
        digests = tables.digests()
        if self.init_from:
            digests["init_sha256"] = file_sha256(self.init_from)
        return Configuration(
            self.training, architecture, self.sde_name, self.sde, digests, self.declared
        )


def parse_options(argv: list[str] | None = None) -> Options:
    """The command line, read once."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.param_file and not args.cond_file and not args.data_file:
        parser.error("--param-file needs --data-file or --cond-file: alone r is its prior")
    if not args.data_file and not args.param_file:
        args.data_file = DATA_FILE
    if args.init_from and os.path.abspath(args.init_from) == os.path.abspath(args.out):
        parser.error("--init-from: is --out, which would replace it; name another --out")
    name = args.sde_type or "VE"
    parameters = cli.sde_parameters(parser, args, sde_utils.SDES, name)
    try:
        sde = sde_utils.SDES[name](**parameters)
    except ValueError as error:
        parser.error(f"--sde-type {name}: {error}")
    training = TrainingSettings(**_fields(TrainingSettings, args))
    declared = declared_parameters(parser, args)
    return Options(
        **_fields(Options, args), declared=declared, sde_name=name, sde=sde, training=training
    )


def declared_parameters(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> tuple[Parameter, ...]:
    """The parameters that --param and --r-range name."""
    given = [("r", *args.r_range)] if args.r_range else []
    given += args.param
    if given and not args.param_file:
        parser.error("--param and --r-range name columns of --param-file; give it, too")
    if args.r_range and args.param:
        parser.error("--r-range is short for --param r MIN MAX; give one of the two")
    try:
        found = tuple(Parameter(name, float(low), float(high)) for name, low, high in given)
    except ValueError as error:
        parser.error(f"--param: {error}")
    if len({each.name for each in found}) < len(found):
        parser.error("--param: a name stands there twice")
    return found


def _fields(cls: type, args: argparse.Namespace) -> dict:
    """The fields of a dataclass that are arguments by the same name."""
    names = [field.name for field in dataclasses.fields(cls)]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def find_checkpoint(options: Options, configuration: Configuration) -> Trained | None:
    """The checkpoint that --resume goes on with; None to start anew.

    Raises:
        InputError: If it was trained in another configuration.
    """
    from diffusion.trained import Trained

    if not options.resume:
        return None
    if not os.path.exists(options.out):
        console.info(f"--resume: there is no {options.out} yet; the training starts anew")
        return None
    trained = Trained.load(options.out)
    configuration.check_same(options.out, trained.training)
    return trained


def share_threads(options: Options, limit: int, rows: Rows, before: Trained | None) -> int:
    """Threads that share a batch: those asked for, of the stopped training, or as many as pay.

    Args:
        options: Of the command line.
        limit: Of this process on its device.
        rows: To train on.
        before: A stopped training, which goes on bit for bit with as many; None for a new one.
    """
    from diffusion import trainer
    from diffusion.shares import threads_that_pay

    if options.threads is not None or rows.device.type != "cpu":
        return limit
    if before and isinstance(threads := before.resume.get("threads"), int):
        return min(max(1, threads), devices.MAX_THREADS)
    batch_size = min(options.training.batch_size, len(rows))
    num_steps = options.training.epochs * (len(rows) // batch_size)
    step_rows = batch_size * trainer.noise_draws(batch_size, num_steps)
    return min(limit, threads_that_pay(step_rows // processes.world_size(), options.hidden_dim))


def write_report(outputs: list[str], history: History, levels: LossLevels) -> None:
    """Write loss history and figure of a finished training, then print what it came to."""
    from diffusion import baseline

    _, loss_file, figure_file = outputs
    atomic.write_npy(loss_file, history.table())
    drawing.write_figure(figure_file, lambda: training_loss(history.to_json(), levels.to_json()))
    console.print_result(baseline.gaussian_verdict(levels))
    written = resources.format_files(filter(os.path.exists, outputs))
    console.print_result(f"wrote {written}")


def make_save(
    writer: CheckpointWriter, training: Trainer, outdated: list[str]
) -> Callable[[], None]:
    """Callable that writes what a training has come to.

    Args:
        writer: Of the checkpoint.
        training: The training.
        outdated: Outputs of another training, the checkpoint first, which go with the first call.
    """
    from runtime import checkpoints

    left = list(outdated)

    def save() -> None:
        if left:
            checkpoints.keep_previous(left[0])
            run_folder.remove(left[1:], left)
            left.clear()
        writer.write(training)

    return save


@cli.script
def main(argv: list[str] | None = None) -> None:
    options = parse_options(argv)
    with locks.hold(options.out):
        train(options, argv)


def train(options: Options, argv: list[str] | None) -> None:
    """Train what the options ask for, and write it."""
    from diffusion import baseline, dataset, trainer
    from diffusion.checkpoint_writer import CheckpointWriter
    from diffusion.held_out import HeldOutLoss
    from diffusion.shrinkage import best_linear

    device, settings = devices.get_device(options.device), options.training
    limit = devices.set_threads(options.threads, device)
    losses = [f"{options.out.removesuffix('.pth')}.loss.{kind}" for kind in ("npy", "png")]
    outputs = [options.out, *losses]
    tables = options.load_tables()
    configuration = options.configuration(tables)
    before = find_checkpoint(options, configuration)
    if before and not before.resume:
        console.info(f"{options.out}: its training is finished; leave --resume out to train anew")
        if processes.rank() == 0:
            history = trainer.History.from_json(before.training["history"])
            levels = baseline.LossLevels.from_json(before.training["levels"])
            write_report(outputs, history, levels)
        return
    network = trainer.make_network(configuration, device, options.init_from)
    # the checkpoint that is there and its successor, and rows that do not fit into memory
    num_bytes = 2 * trainer.checkpoint_bytes(network)
    num_bytes += processes.local_world_size() * dataset.file_bytes(tables, device)
    if processes.rank() == 0:
        atomic.claim_outputs(losses if before else outputs, num_bytes)
    prepared = dataset.prepare(
        tables, settings.val_fraction, settings.seed, device, os.path.abspath(options.folder)
    )
    rows = prepared.train
    linear = best_linear(configuration.sde, rows, prepared.held_out)
    if not options.init_from:
        network.start.set(linear.regression, linear.variances, linear.modes)
    with processes.process_group(device):
        held_out = HeldOutLoss(linear, prepared.held_out, settings.seed)
        threads = share_threads(options, limit, rows, before)
        training = trainer.Trainer(network, rows, held_out, settings, threads)
        if before:
            training.restore(before)
        training.check_processes()
        seconds = training.seconds_left(held_out.passes_by_level())
        training.announce(seconds, num_bytes, options.folder)
        made_by = provenance.collect(argv) | {"run": provenance.run_id(configuration.to_json())}
        writer = CheckpointWriter(
            *(options.out, losses[0], configuration, prepared, tables.record, made_by)
        )
        steps, began = training.num_steps - training.state.step, time.monotonic()
        with console.progress(total=training.num_steps, unit="step") as bar:
            training.train(make_save(writer, training, [] if before else outputs), bar)
        rate = steps * training.batch_size / (time.monotonic() - began)
        console.info(f"trained on {rate:,.0f} rows per second")
    if processes.rank() == 0:
        levels = baseline.loss_by_level(training.ema, linear, held_out.blocks, settings.seed)
        writer.write(training, levels)
        write_report(outputs, training.state.history, levels)


if __name__ == "__main__":
    main()
