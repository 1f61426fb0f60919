"""How a process of several ends."""

import os
import sys

import torch


def leave() -> None:
    """Ends this process once all are done, without taking the interpreter down.

    gloo's threads may hold tensors whose release then aborts the process (https://github.com/pytorch/pytorch/pull/179291).
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
