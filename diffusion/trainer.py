"""The loop that fits a network: denoising score matching with AdamW, on one or more processes.

Its random numbers belong to their step, see `streams`: it goes on from any step bit for bit, and
follows the same path on any number of processes, to rounding.
"""

from __future__ import annotations

import concurrent.futures
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import model
import sde_utils
from diffusion import shares
from diffusion.dataset import Rows
from diffusion.held_out import HeldOutLoss
from diffusion.settings import Configuration, TrainingSettings
from diffusion.streams import NOISE, ORDER, TIMING, seeded
from diffusion.trained import Trained
from runtime import console, devices, processes, resources, signals
from runtime.errors import DivergedError, InputError, Interrupted
from runtime.jsonfiles import Json
from runtime.priors import FloatArray

SAVE_SECONDS = 15  # between checkpoints of a running training
WARMUP_STEPS = 200
TIMED_STEPS = 5
NOISED_ROWS = 2**20  # of a training at least: of a shorter one rows are noised more than once,
STEP_ROWS = 512  # up to so many in a step


def learning_rate(step: int, num_steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, num_steps // 10)))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def noise_draws(batch_size: int, num_steps: int) -> int:
    """Times that each step of a training noises each row of a batch."""
    return max(1, min(STEP_ROWS // batch_size, -(-NOISED_ROWS // (batch_size * num_steps))))


def checkpoint_bytes(network: torch.nn.Module) -> int:
    """Bytes of a checkpoint: weights, their average, and two moments of AdamW, in float32."""
    return 16 * sum(parameter.numel() for parameter in network.parameters())


def make_network(
    configuration: Configuration, device: torch.device, init_from: str | None = None
) -> model.ScoreNet1D:
    """The network as a training starts with it.

    Args:
        configuration: Of the training.
        device: Where it trains.
        init_from: Checkpoint whose averaged weights it takes; None for random ones.

    Raises:
        InputError: If that checkpoint holds another kind of network.
    """
    torch.manual_seed(configuration.training.seed)
    network = model.ScoreNet1D(configuration.sde, configuration.architecture)
    if init_from is not None:
        trained = Trained.load(init_from)
        configuration.check_same_network(init_from, trained.architecture, trained.sde)
        network.load_state_dict(trained.ema_weights)
    return network.to(device)


def flatten(network: nn.Module) -> nn.Parameter:
    """All parameters as one vector, of which they become views.

    Optimiser and average then pass over one tensor, in a fraction of the time of many small ones.
    """
    parameters = list(network.parameters())
    vector = nn.utils.parameters_to_vector(parameters).detach()
    nn.utils.vector_to_parameters(vector, parameters)
    return nn.Parameter(vector)


@dataclasses.dataclass
class History:
    """Losses of the epochs so far.

    Attributes:
        train: Mean over the steps of an epoch.
        validation: On held-out rows, of the averaged weights.
        linear: The linear denoiser's on held-out rows.
    """

    train: list[float] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)
    linear: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From `history` of a checkpoint; KeyError, TypeError or ValueError where it is damaged."""
        return cls(**{f.name: [float(v) for v in content[f.name]] for f in dataclasses.fields(cls)})

    def to_json(self) -> Json:
        """Content of `history` of a checkpoint."""
        return dataclasses.asdict(self)

    def table(self) -> FloatArray:
        """Shape (n_epochs, 3): a row per epoch, columns as above."""
        return np.array([self.train, self.validation, self.linear]).T


@dataclasses.dataclass
class State:
    """Where a training stands, beside weights and optimiser.

    Attributes:
        step: Steps that are done.
        total: Sum of the losses of the unfinished epoch, scalar tensor on the device.
        history: Losses of the finished epochs.
    """

    step: int
    total: torch.Tensor
    history: History


class Trainer:
    """Fits a network, and its average, to rows; each process adds its slice of every batch.

    Args:
        network: ScoreNet1D on the device of the rows; changes in place.
        rows: `dataset.Rows` to train on.
        held_out: Callable network -> loss on held-out rows, with the linear denoiser's as `linear`.
        settings: Of the optimisation.
        threads: Threads that share the rows of a batch.

    Attributes:
        draws: Noise draws of each row of a batch; the levels of noise are stratified over all.
        weights: Of the network, one vector.
        ema: Copy of the network that follows with exponential averaging; `averages` its weights.
        state: Where the training stands.

    Raises:
        InputError: If the processes cannot share a batch equally.
    """

    def __init__(
        self,
        network: model.ScoreNet1D,
        rows: Rows,
        held_out: HeldOutLoss,
        settings: TrainingSettings,
        threads: int = 1,
    ) -> None:
        self.network, self.rows, self.held_out, self.settings = network, rows, held_out, settings
        self.batch_size = min(settings.batch_size, len(rows))
        share, rest = divmod(self.batch_size, processes.world_size())
        if rest:
            raise InputError(
                f"--batch-size: {self.batch_size} rows do not divide among "
                f"{processes.world_size()} processes; choose a multiple"
            )
        # in each epoch every row at most once, in full batches
        self.num_batches = len(rows) // self.batch_size
        self.num_steps = settings.epochs * self.num_batches
        self.draws = noise_draws(self.batch_size, self.num_steps)
        share *= self.draws
        self.parts = shares.cut(processes.rank() * share, share, threads)
        self.threads = len(self.parts)
        self.pool = concurrent.futures.ThreadPoolExecutor(self.threads)
        self.ema = copy.deepcopy(network).requires_grad_(False)
        self.parameters = list(network.parameters())
        self.weights, self.averages = flatten(network), flatten(self.ema)
        # written anew in each step: fresh memory costs more than what is written to it
        self.gradients = [torch.empty_like(self.weights.detach()) for _ in self.parts]
        self.optimizer = torch.optim.AdamW([self.weights], lr=0.0, weight_decay=0.0, fused=True)
        self.state = State(0, self._scalar(0.0), History())

    def _scalar(self, value: float) -> torch.Tensor:
        return self.rows.values.new_tensor(value, device=self.rows.device)

    def restore(self, trained: Trained) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If its training state is damaged, or is another one in other processes.
        """
        self.network.load_state_dict(trained.weights)
        self.ema.load_state_dict(trained.ema_weights)
        content = trained.resume
        try:
            self.optimizer.load_state_dict(content["optimizer"])
            history = History.from_json(content["history"])
            step, total = int(content["step"]), float(content["total"])
            lengths = {len(values) for values in history.to_json().values()}
            if not 0 <= step <= self.num_steps or lengths != {step // self.num_batches}:
                raise ValueError
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError):
            raise InputError(
                "--resume: the checkpoint's training state is damaged; train anew without --resume"
            ) from None
        self.state = State(step, self._scalar(total), history)

    def check_processes(self) -> None:
        """InputError where the processes do not stand at the same step."""
        step = self.state.step
        steps = processes.all_reduce_sum(torch.tensor(step, device=self.rows.device))
        if steps != step * processes.world_size():
            raise InputError("--out: processes see different checkpoints; share its folder")

    def resume_state(self) -> Json:
        """Content of `resume` of a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "step": self.state.step,
            "threads": self.threads,
            "total": float(self.state.total),
            "history": self.state.history.to_json(),
        }

    def order(self, epoch: int) -> torch.Tensor:
        """Row numbers in the order of an epoch; drawn on the CPU, alike for every device."""
        generator = seeded(torch.Generator(), self.settings.seed, ORDER, epoch)
        order = torch.randperm(len(self.rows), generator=generator)
        return order.to(self.rows.values.device)

    def _part(self, step: int, index: torch.Tensor, number: int) -> list[torch.Tensor]:
        """What rows of a batch add to its loss and to the gradient of each parameter."""
        settings = self.settings
        generator = seeded(torch.Generator(self.rows.device), settings.seed, NOISE, step)
        part = self.parts[number]
        x0, y = self.rows[index[part]]
        with devices.autocast(self.rows.device, settings.precision):
            place = (part.start, len(index))
            loss = sde_utils.denoising_loss(self.network, self.network.sde, x0, generator, y, place)
        loss = loss * (len(x0) / len(index))
        gradients = torch.autograd.grad(loss, self.parameters)
        vector = self.gradients[number]
        torch.cat([gradient.flatten() for gradient in gradients], out=vector)
        return [loss.detach(), vector]

    def take_step(self, step: int, index: torch.Tensor) -> torch.Tensor:
        """Take step number `step` on the batch of rows `index`; its loss, a scalar tensor."""
        settings, index = self.settings, index.repeat(self.draws)
        others = range(1, self.threads)
        pending = [self.pool.submit(self._part, step, index, number) for number in others]
        totals = self._part(step, index, 0)
        for future in pending:
            torch._foreach_add_(totals, future.result())
        loss, self.weights.grad = processes.all_reduce_sums(totals)
        self.optimizer.param_groups[0]["lr"] = learning_rate(step, self.num_steps, settings.lr)
        self.optimizer.step()
        # the average forgets the initial weights at the start of a training; AveragedModel would
        # copy the first weights, and knows no decay that varies
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)([self.averages], [self.weights], None)
        return loss

    def train(self, save: Callable[[], object], bar: Any) -> None:
        """Take the steps that are left.

        Args:
            save: Called every SAVE_SECONDS, before a stop, and at the end, by the first process
                alone, to write what the training has come to.
            bar: Progress bar over steps.

        Raises:
            DivergedError: If the loss stops being finite; nothing is saved then.
            Interrupted: If a signal asked for it, after `save`.
            ConnectionError: If another process is gone.
        """
        bar.n = bar.initial = self.state.step
        with signals.stop_request() as stop:
            try:
                self._take_steps(save, bar, stop)
            except RuntimeError as error:
                if not processes.is_peer_lost(error):
                    raise
                if not stop.code:
                    raise ConnectionError(processes.PEER_LOST) from None
                raise Interrupted(stop.code) from None  # the first has saved and left

    def _take_steps(self, save: Callable[[], object], bar: Any, stop: signals.StopRequest) -> None:
        state, saved, order = self.state, time.monotonic(), None
        while state.step < self.num_steps:
            epoch, batch = divmod(state.step, self.num_batches)
            if order is None:
                order = self.order(epoch)
            first = batch * self.batch_size
            state.total += self.take_step(state.step, order[first : first + self.batch_size])
            state.step += 1
            bar.update()
            if batch + 1 == self.num_batches:
                self._end_epoch(bar)
                order = None
            if processes.rank() > 0:
                continue  # it goes on until the first process, which saves, has left
            last = state.step == self.num_steps
            if stop.code or last or time.monotonic() - saved > SAVE_SECONDS:
                # weights can be lost a step before the loss shows it
                self._check_finite(float(state.total), float(self.weights.detach().sum()))
                save()
                saved = time.monotonic()
            if stop.code and not last:
                raise Interrupted(stop.code, "interrupted; go on with --resume")

    def _end_epoch(self, bar: Any) -> None:
        state, history = self.state, self.state.history
        loss, validation = float(state.total) / self.num_batches, self.held_out(self.ema)
        self._check_finite(loss, validation, self.held_out.linear)
        history.train.append(loss)
        history.validation.append(validation)
        history.linear.append(self.held_out.linear)
        bar.set_postfix(loss=f"{loss:.4f}", val=f"{validation:.4f}", refresh=False)
        state.total.zero_()

    def _check_finite(self, *values: float) -> None:
        if not all(map(math.isfinite, values)):
            raise DivergedError(
                f"the loss is not finite in epoch {1 + (self.state.step - 1) // self.num_batches}; "
                "the last good checkpoint stays; try a smaller --lr"
            )

    def seconds_left(self, num_passes: int) -> float:
        """Time that the rest takes, by the fastest of a few steps of a copy, and held-out losses.

        Args:
            num_passes: Passes through the held-out rows at the end.
        """
        network = copy.deepcopy(self.network)
        timed = Trainer(network, self.rows, self.held_out, self.settings, self.threads)
        generator = seeded(torch.Generator(), self.settings.seed, TIMING)
        seconds = []
        for number in range(TIMED_STEPS):
            began = time.monotonic()
            index = torch.randint(len(self.rows), (self.batch_size,), generator=generator)
            float(timed.take_step(number, index.to(self.rows.values.device)))  # waits for it
            seconds.append(time.monotonic() - began)
        began = time.monotonic()
        self.held_out(self.ema)
        per_pass = time.monotonic() - began
        passes = self.settings.epochs - self.state.step // self.num_batches + num_passes
        return (self.num_steps - self.state.step) * min(seconds) + passes * per_pass

    def announce(self, seconds: float, num_bytes: int, folder: str) -> None:
        """One line on stderr: how long and how large the work is.

        Args:
            seconds: From `seconds_left`.
            num_bytes: What it writes.
            folder: Into which.
        """
        parameters, device = sum(p.numel() for p in self.parameters), self.rows.device
        work = (
            f"{len(self.rows):,} rows, {self.num_steps - self.state.step:,} steps of "
            f"{self.batch_size}, {parameters:,} parameters, on {device} with "
            f"{devices.count_threads(self.threads)}: about {console.format_duration(seconds)}"
        )
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
            work += f", {resources.format_size(peak)} on the GPU"
        # what it has had so far, a checkpoint before it is written, and the figure
        memory = resources.peak_memory() + 2 * checkpoint_bytes(self.network)
        resources.announce(work, memory + resources.FIGURE_MEMORY, num_bytes, folder)
