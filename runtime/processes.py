"""The processes that torchrun started: which one this is, and what they do together."""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# a process that has done its share waits for the slowest; one that is gone is noticed at once
GROUP_TIMEOUT = datetime.timedelta(days=30)
PEER_LOST = "another process stopped; its own message says why"


def rank() -> int:
    """Number of this process among all; 0 is the one that speaks and writes what all share."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Number of this process on its machine: its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextlib.contextmanager
def process_group(device: "torch.device") -> Iterator[None]:
    """Join the other processes for the block: NCCL between GPUs, gloo between CPUs.

    Args:
        device: torch.device on which this process computes.
    """
    if world_size() == 1:
        yield
        return
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=GROUP_TIMEOUT)
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


def replicate(network: "torch.nn.Module", device: "torch.device") -> "torch.nn.Module":
    """The network, with gradients that are means over all processes; itself where there is one."""
    if world_size() == 1:
        return network
    from torch.nn.parallel import DistributedDataParallel

    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        network, device_ids=ids, forward_sync_buffers=False, gradient_as_bucket_view=True
    )


def all_reduce_sum(tensor: "torch.Tensor") -> "torch.Tensor":
    """Sum of a tensor over all processes, in place."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor
