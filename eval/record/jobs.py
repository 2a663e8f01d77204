"""How a job ends: one clear sentence for a user's mistake, a record of every failure, an exit code that says which.

0 finished · 1 failed · 3 a sweep with failed jobs · 130 stopped by Ctrl-C · 143 stopped by SIGTERM
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

FAILED, SWEEP_FAILED = 1, 3
MISTAKES = (ValueError, OSError, MemoryError)  # explained by their message; anything else is a fault of the program


def carry_out(job: Callable[[dict[str, Any]], None], cfg: DictConfig) -> None:
    """Runs a job on its resolved configuration. In a multirun a failure is recorded and the other jobs go on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from model.training.checkpoint import Interrupted

    config = OmegaConf.to_container(cfg, resolve=True)
    multirun = HydraConfig.get().mode == RunMode.MULTIRUN
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    try:
        check_devices(config, multirun)
        job(config)
    except Interrupted as stop:
        print(f"{stop}: run the same command again to go on", file=sys.stderr)
        sys.exit(stop.exit_code)
    except Exception as error:
        if not isinstance(error, MISTAKES):
            traceback.print_exc()
        print(f"{config['run_id'] if multirun else 'error'}: {one_sentence(error)}", file=sys.stderr)
        if not multirun:
            sys.exit(FAILED)
        _record(config, error)


def check_devices(config: dict[str, Any], multirun: bool) -> None:
    """Raises ValueError where a run on several devices, which starts its command again for each, can't do so."""
    trainer = config["trainer"]
    if trainer["devices"] == 1 and trainer["num_nodes"] == 1:
        return
    if multirun or config["tuning"]:
        raise ValueError(
            f"trainer={trainer['name']} with trainer.devices={trainer['devices']} and trainer.num_nodes="
            f"{trainer['num_nodes']} can't run inside {'a multirun' if multirun else 'a choice of learning rates'}: "
            "give each job one device (trainer.devices=1), or start each run by itself, without "
            f"{'-m' if multirun else 'tuning'}"
        )


def one_sentence(error: BaseException) -> str:
    """The message of an error on one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _record(config: dict[str, Any], error: Exception) -> None:
    """Notes a failure that came before the run's own folder could, so that the sweep's report knows of it."""
    from eval.record.folder import run_folder, write_json

    try:
        folder = run_folder(config)
        if folder.status["state"] != "failed":
            folder.path.mkdir(parents=True, exist_ok=True)
            write_json(folder.path / "config.json", config)
            folder.set_status("failed", error=one_sentence(error), traceback=traceback.format_exc())
    except MISTAKES as second:
        print(f"{config['run_id']}: its failure could not be recorded: {second}", file=sys.stderr)


def _stop(signum, frame):
    from model.training.checkpoint import Interrupted

    raise Interrupted(signum)
