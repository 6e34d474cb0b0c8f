"""The loop that fits a network: denoising score matching with AdamW, on one or more processes.

Random numbers belong to their step: the order of an epoch and the noise of a step come from
generators that are seeded anew by (seed, purpose, number). So a training goes on from any step bit
for bit, and follows the same path on any number of processes, to rounding.
"""

import copy
import math
import time

import numpy as np

import sde_utils
from diffusion import baseline
from runtime import devices, processes, resources, signals
from runtime.errors import DivergedError, InputError, Interrupted

SAVE_SECONDS = 15  # between checkpoints of a running training
WARMUP_STEPS = 200
TIMED_STEPS = 5
ORDER, NOISE, VALIDATION, TIMING = range(4)  # what random numbers are for


def seeded(generator, seed, purpose, number=0):
    """The torch.Generator, set to where the random numbers of a step or epoch begin."""
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, number))
    return generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def learning_rate(step, num_steps, peak):
    """Linear warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / min(WARMUP_STEPS, max(1, num_steps // 10)))
    return peak * warmup * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def num_steps(rows, settings):
    """Steps of a whole training: in each epoch every row at most once, in full batches."""
    return settings["epochs"] * (len(rows) // min(settings["batch_size"], len(rows)))


def steps_done(state):
    """Steps that a resume state has behind it; 0 where it is damaged, which `train` refuses."""
    step = state.get("step")
    return step if isinstance(step, int) else 0


def checkpoint_bytes(network):
    """Bytes of a checkpoint: weights, their average, and two moments of AdamW, in float32."""
    return 16 * sum(parameter.numel() for parameter in network.parameters())


def gpu_memory(device):
    """In words, the most memory that this process has had on a GPU; nothing elsewhere."""
    import torch

    if device.type != "cuda":
        return ""
    return f", {resources.format_size(torch.cuda.max_memory_allocated(device))} on the GPU"


class Step:
    """One step of the optimiser, to which each process adds its slice of the batch.

    Args:
        network: ScoreNet1D in training, on the device.
        ema: Its copy that follows with exponential averaging.
        sde: An instance of a class in sde_utils.SDES.
        rows: `training_data.Rows` to train on.
        settings: {"batch_size", "epochs", "lr", "ema_decay", "seed", "precision"}.

    Raises:
        InputError: If the processes cannot share a batch equally.
    """

    def __init__(self, network, ema, sde, rows, settings):
        import torch

        self.sde, self.rows, self.settings = sde, rows, settings
        self.batch_size = min(settings["batch_size"], len(rows))
        share, rest = divmod(self.batch_size, processes.world_size())
        if rest:
            raise InputError(
                f"--batch-size: {self.batch_size} rows do not divide among "
                f"{processes.world_size()} processes; choose a multiple"
            )
        self.first, self.share = processes.rank() * share, share
        self.num_batches = len(rows) // self.batch_size
        self.num_steps = num_steps(rows, settings)
        self.parameters, self.averages = list(network.parameters()), list(ema.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0, fused=True)
        self.generator = torch.Generator(rows.device)
        self.network = processes.replicate(network, rows.device)

    def order(self, epoch):
        """Row numbers in the order of an epoch; drawn on the CPU, alike for every device."""
        import torch

        generator = seeded(torch.Generator(), self.settings["seed"], ORDER, epoch)
        order = torch.randperm(len(self.rows), generator=generator)
        return order.to(self.rows.values.device)

    def __call__(self, step, index):
        """Take step number `step` on the batch of rows `index`; its loss, a tensor."""
        import torch

        settings = self.settings
        seeded(self.generator, settings["seed"], NOISE, step)
        x0, y = self.rows[index[self.first : self.first + self.share]]
        with devices.autocast(self.rows.device, settings["precision"]):
            loss = sde_utils.denoising_loss(
                self.network, self.sde, x0, self.generator, y, (self.first, self.batch_size)
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = processes.all_reduce_sum(loss.detach() / processes.world_size())
        self.optimizer.param_groups[0]["lr"] = learning_rate(step, self.num_steps, settings["lr"])
        self.optimizer.step()
        # the average forgets the initial weights at the start of a training
        decay = min(settings["ema_decay"], (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        return loss


def estimate(network, ema, sde, rows, held_out, settings, done, num_passes):
    """Seconds that the rest takes after `done` steps: by the fastest of a few, and held-out losses.

    The steps are of copies, which are thrown away; arguments as in `train`, and the number of
    passes through the held-out rows at the end.
    """
    import torch

    step = Step(copy.deepcopy(network), copy.deepcopy(ema), sde, rows, settings)
    generator = seeded(torch.Generator(), settings["seed"], TIMING)
    seconds = []
    for number in range(TIMED_STEPS):
        began = time.monotonic()
        index = torch.randint(len(rows), (step.batch_size,), generator=generator)
        float(step(number, index.to(rows.values.device)))  # waits for the device
        seconds.append(time.monotonic() - began)
    began = time.monotonic()
    held_out(ema)
    per_pass = time.monotonic() - began
    passes = settings["epochs"] - done // step.num_batches + num_passes
    return (step.num_steps - done) * min(seconds) + passes * per_pass


class HeldOutLoss:
    """Loss on held-out rows, for which each process takes some blocks.

    The linear denoiser's loss over all noise is known; measured is how far a network's is from it
    on the same noise, which has less Monte-Carlo error.

    Args:
        linear: A `linear_denoiser.LinearDenoiser`.
        rows: `training_data.Rows` that are held out.
        seed: Of the noise, which is always the same.
    """

    def __init__(self, linear, rows, seed):
        import torch

        self.rows, self.seed, self.sde = rows, seed, linear.sde
        self.blocks = list(rows.blocks())
        times = sde_utils.noise_levels(linear.sde, torch.ones((), device=rows.device), 64)
        moments = baseline.second_moments(self.blocks)
        self.linear = float(linear.loss(moments, times).mean())
        self._probed_linear = self._probe(linear)

    def _probe(self, denoiser):
        import torch

        n, device = len(self.rows), self.rows.device
        generator, total, first = torch.Generator(device), torch.zeros((), device=device), 0
        with torch.no_grad():
            for number, (x, y) in enumerate(self.blocks):
                if number % processes.world_size() == processes.rank():
                    seeded(generator, self.seed, VALIDATION)
                    args = (denoiser, self.sde, x, generator, y, (first, n))
                    total += sde_utils.denoising_loss(*args) * len(x) / n
                first += len(x)
        return float(processes.all_reduce_sum(total))

    def __call__(self, network):
        """The loss, a number."""
        return self.linear + (self._probe(network) - self._probed_linear)


def _restore(state, step):
    """(steps done, sum of the losses of the unfinished epoch, history) of a resume state."""
    import torch

    done, total, history = 0, 0.0, {"train": [], "validation": [], "linear": []}
    try:
        if state:
            step.optimizer.load_state_dict(state["optimizer"])
            history = {key: [float(v) for v in state["history"][key]] for key in history}
            done, total = int(state["step"]), float(state["total"])
        lengths = {len(values) for values in history.values()}
        if not 0 <= done <= step.num_steps or lengths != {done // step.num_batches}:
            raise ValueError
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError):
        raise InputError(
            "--resume: the checkpoint's training state is damaged; train anew without --resume"
        ) from None
    if (
        processes.all_reduce_sum(torch.tensor(done, device=step.rows.device))
        != done * processes.world_size()
    ):
        raise InputError("--out: processes see different checkpoints; share its folder")
    return done, total, history


def train(network, ema, sde, rows, held_out, settings, state, save, bar):
    """Take the steps that are left; `ema` and `network` change in place.

    Args:
        network, ema, sde, rows, settings: As in `Step`.
        held_out: Callable network -> loss on held-out rows, with the linear denoiser's as `linear`.
        state: {"optimizer", "step", "total", "history"}, where training stands; empty at the start.
        save: Called with the new state every SAVE_SECONDS, before a stop, and at the end, by the
            first process alone.
        bar: Progress bar over steps.

    Returns:
        {"train", "validation", "linear"}: the losses of each epoch.

    Raises:
        DivergedError: If the loss stops being finite; nothing is saved then.
        Interrupted: If a signal asked for it, after the state was saved.
    """
    step = Step(network, ema, sde, rows, settings)
    done, total, history = _restore(state, step)
    bar.n = bar.initial = done
    total = rows.values.new_tensor(total, device=rows.device)
    saved, order = time.monotonic(), None

    def check(*losses):
        if not all(map(math.isfinite, losses)):
            raise DivergedError(
                f"the loss is not finite in epoch {1 + (done - 1) // step.num_batches}; the last "
                "good checkpoint stays; try a smaller --lr"
            )

    def save_state():
        # weights can be lost a step before the loss shows it
        check(float(total), *(float(p.detach().sum()) for p in step.parameters))
        optimizer = step.optimizer.state_dict()
        save({"optimizer": optimizer, "step": done, "total": float(total), "history": history})

    with signals.stop_request() as stop:
        try:
            while done < step.num_steps:
                epoch, batch = divmod(done, step.num_batches)
                if order is None:
                    order = step.order(epoch)
                first = batch * step.batch_size
                total += step(done, order[first : first + step.batch_size])
                done += 1
                bar.update()
                if batch + 1 == step.num_batches:
                    losses = float(total) / step.num_batches, held_out(ema), held_out.linear
                    check(*losses)
                    for values, loss in zip(history.values(), losses, strict=True):
                        values.append(loss)
                    bar.set_postfix(loss=f"{losses[0]:.4f}", val=f"{losses[1]:.4f}", refresh=False)
                    total.zero_()
                    order = None
                if processes.rank() > 0:
                    continue  # it goes on until the first process, which saves, has left
                last = done == step.num_steps
                if stop.code or last or time.monotonic() - saved > SAVE_SECONDS:
                    save_state()
                    saved = time.monotonic()
                if stop.code and not last:
                    raise Interrupted(stop.code, "interrupted; go on with --resume")
        except RuntimeError as error:
            if not processes.is_peer_lost(error):
                raise
            if not stop.code:
                raise ConnectionError(processes.PEER_LOST) from None
            raise Interrupted(stop.code) from None  # the first has saved and left
    return history
