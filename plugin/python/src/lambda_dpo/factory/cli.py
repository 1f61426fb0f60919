"""`lambda-dpo-factory`: `llamafactory-cli` with `pref_loss: lambda_dpo`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .. import _native
from ..errors import ConfigError, LibraryError, PluginError
from . import hooks, keys

WORKER = Path(__file__).with_name("worker.py")


def main() -> None:
    """Runs a command of `llamafactory-cli`; only `train` with our loss differs from it."""
    _report_errors(_main)


def run() -> None:
    """Trains in this process: one of torchrun's, or the only one."""
    _report_errors(_run)


def _report_errors(function: Callable[[], None]) -> None:
    """Calls `function`; an error of ours ends the program with its message instead of a traceback."""
    try:
        function()
    except (ConfigError, LibraryError, PluginError) as error:
        sys.exit(f"lambda-dpo-factory: {error}")


def _main() -> None:
    hooks.check()
    from llamafactory import cli

    if sys.argv[1:2] == ["train"] and len(sys.argv) > 2 and "-h" not in sys.argv and "--help" not in sys.argv:
        from llamafactory.extras.misc import is_env_enabled

        command = sys.argv.pop(1)
        is_ours = _is_ours()
        sys.argv.insert(1, command)
        if is_ours:
            _refuse_engines(is_env_enabled)
            _native.api()
            hooks.install_launcher(WORKER)
            from llamafactory.extras.misc import get_device_count

            if not is_env_enabled("FORCE_TORCHRUN") and get_device_count() <= 1:
                sys.argv.pop(1)
                _run()
                return
    cli.main()


def _is_ours() -> bool:
    """Whether the arguments ask for λ-DPO; errors in our keys are reported before anything is loaded."""
    from llamafactory.hparams import read_args

    args, ours = keys.split(read_args())
    if keys.pref_loss(args) != keys.PREF_LOSS:
        if ours:
            key = next(iter(ours))
            raise ConfigError(f"`{key}` needs `pref_loss: {keys.PREF_LOSS}`: set it, or leave the key out.")
        return False
    if keys.stage(args) != "dpo":
        raise ConfigError(f"`pref_loss: {keys.PREF_LOSS}` needs `stage: dpo`, but the stage is {keys.stage(args)}.")
    if isinstance(args, dict) and args.get("use_ray"):
        raise ConfigError("λ-DPO does not run under Ray: leave `use_ray` out, and start it with torchrun.")
    keys.refuse_label_smoothing(args)
    keys.options(ours)
    keys.adapter(args, ours)
    return True


def _refuse_engines(is_env_enabled: Callable[[str], bool]) -> None:
    engines = {
        "USE_RAY": "Ray",
        "USE_MCA": "MCA (Megatron)",
        "USE_V1": "LLaMA-Factory's v1 trainer",
        "USE_KT": "KTransformers",
    }
    for variable, engine in engines.items():
        if is_env_enabled(variable):
            raise ConfigError(f"λ-DPO does not run under {engine}: unset {variable}.")


def _run() -> None:
    hooks.check()
    from llamafactory.extras.misc import is_env_enabled
    from llamafactory.hparams import read_args
    from llamafactory.train import tuner

    if not _is_ours():
        tuner.run_exp()
        return
    _refuse_engines(is_env_enabled)
    if torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            "λ-DPO does not run under torch.nn.DataParallel: start it with `lambda-dpo-factory train` or torchrun, or "
            "set CUDA_VISIBLE_DEVICES to one GPU."
        )
    _native.api()
    args, ours = keys.split(read_args())
    hooks.install(functools.partial(keys.options, ours), keys.adapter(args, ours))
    tuner.run_exp(args)
