"""The processes that torchrun started: which one this is, and what they do together."""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtime.errors import InputError

if TYPE_CHECKING:
    import torch

# a process that has done its share waits for the slowest; one that is gone is noticed at once
GROUP_TIMEOUT = datetime.timedelta(days=30)
TORCHRUN = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
MAX_REASON = 200  # characters of what PyTorch says
MEND = "start with torchrun, or unset it"
PEER_LOST = "another process stopped; its own message says why"


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise InputError(f"the variable {name} is {text!r}, not a number; {MEND}") from None


def rank() -> int:
    """Number of this process among all; 0 is the one that speaks and writes what all share."""
    return _variable("RANK", 0)


def world_size() -> int:
    """Number of processes; 1 without torchrun."""
    return _variable("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process on its machine: its GPU."""
    return _variable("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes on this machine."""
    return _variable("LOCAL_WORLD_SIZE", 1)


def check_environment() -> None:
    """InputError where the variables that torchrun sets are there in part, or contradict."""
    for name, of, number, total in (
        ("RANK", "WORLD_SIZE", rank(), world_size()),
        ("LOCAL_RANK", "LOCAL_WORLD_SIZE", local_rank(), local_world_size()),
    ):
        if total < 1:
            raise InputError(f"the variable {of} is {total}, not above 0; {MEND}")
        if not 0 <= number < total:
            raise InputError(f"the variable {name} is {number} of {total} processes; {MEND}")
    if world_size() > 1:
        missing = [name for name in TORCHRUN if name not in os.environ]
        if missing:
            raise InputError(
                f"the variable WORLD_SIZE is {world_size()}, but {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set; {MEND}"
            )
        if not 0 < (port := _variable("MASTER_PORT", 0)) < 2**16:
            raise InputError(f"the variable MASTER_PORT is {port}; {MEND}")
        address = os.environ["MASTER_ADDR"]
        try:
            socket.getaddrinfo(address, port)
        except (OSError, UnicodeError):  # PyTorch would look for it for days
            raise InputError(
                f"the variable MASTER_ADDR is {address!r}, a machine that is not found; {MEND}"
            ) from None


@contextlib.contextmanager
def process_group(device: "torch.device | None" = None) -> Iterator[None]:
    """Join the other processes for the block: NCCL between GPUs, gloo between CPUs.

    Args:
        device: torch.device on which this process computes; None for a CPU.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    backend = "gloo" if device is None or device.type != "cuda" else "nccl"
    try:
        dist.init_process_group(backend, timeout=GROUP_TIMEOUT)
    except (dist.DistError, ValueError) as error:
        reason = str(error).partition("\n")[0][:MAX_REASON]
        raise ConnectionError(f"cannot join the other processes ({reason}); {MEND}") from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_peer_lost(error: Exception) -> bool:
    """Whether an error means that another process is gone."""
    if world_size() == 1:
        return False
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)


def barrier() -> None:
    """Wait until all processes are here; signals are heard meanwhile.

    Raises:
        ConnectionError: If another process is gone.
    """
    if world_size() == 1:
        return
    import torch.distributed as dist

    try:
        work = dist.barrier(async_op=True)
        while not work.is_completed():
            time.sleep(0.02)
        work.wait()
    except RuntimeError:
        raise ConnectionError(PEER_LOST) from None


def all_reduce_sum(tensor: "torch.Tensor") -> "torch.Tensor":
    """Sum of a tensor over all processes, in place."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def all_reduce_sums(tensors: "list[torch.Tensor]") -> "list[torch.Tensor]":
    """Sums of tensors of one type over all processes, in one go."""
    if world_size() == 1:
        return tensors
    import torch

    total = all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors]))
    parts = total.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
