"""How the processes of a distributed run add gradients, and how they end."""

import os
import sys

import torch
from torch.distributed.fsdp import FSDPModule


def reduce_by_sums(model):
    """Has FSDP ask gloo for sums of gradients, and divide them: asked for a mean, gloo computes a sum in torch 2.8."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)


def leave() -> None:
    """Ends this process once all are done, without shutting down the interpreter.

    During shutdown, gloo's threads may release tensors, which aborts the process
    (https://github.com/pytorch/pytorch/pull/179291).
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
