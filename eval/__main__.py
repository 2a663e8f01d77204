"""Scores a finished run again: python -m eval run=DIR [eval.lengths=[1,16]] [extension=yarn] [extension.tune=true].

    python -m eval --help                           all settings
    python -m eval -m run=A,B extension=yarn,pi     runs and extensions, one after the other

Settings are those of conf/eval, as the run was scored, and those of the extension's file; rows that are new or changed
are added to its results.
"""

import os
import sys
import tempfile
from dataclasses import replace

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from conf.schema import CONF, EvaluationSettings, ScoringSettings
from conf.typed import composed_as, plain, typed
from eval.record.command import answering
from eval.record.folder import RunFolder
from eval.record.identity import register_names
from eval.record.jobs import SWEEP_FAILED, attempt

FAILED_RUNS = "TRAINSHORT_FAILED_RUNS"  # in the environment: the file in which jobs, in whatever process, note failures


def score(cfg: DictConfig) -> None:
    """Scores the run of cfg.run."""
    asked = composed_as(ScoringSettings, cfg)
    if asked.run is None:
        raise ValueError("which run? Give its folder: python -m eval run=DIR")
    folder = RunFolder(asked.run)
    evaluation, context = as_given(cfg, folder.settings.eval), folder.settings.context

    from eval.compare.comparison import read_comparison
    from eval.compare.report import write_files
    from eval.measure.measurement import Measurement
    from eval.record.terminal import print_results
    from eval.record.trained import load
    from model.training.trainer import prepare_process

    prepare_process(folder.settings.trainer.threads)
    elsewhere = {"cache_dir": asked.cache_dir, "num_workers": asked.num_workers}
    with folder.hold():
        trained = load(folder.path, **{key: value for key, value in elsewhere.items() if value is not None})
        scored = {row["context_length"] / context for row in folder.results["rows"]}
        evaluation = replace(evaluation, lengths=sorted(scored | set(evaluation.lengths)))
        measurement = Measurement(evaluation, trained.data, context)
        for found in measurement.of(trained.model, folder.results, folder.losses.keys()):
            folder.add(found)
        folder.set_status("finished")  # also where it failed when it was first scored
    write_files(read_comparison(folder.path))
    results = folder.results
    print_results({**results, "rows": measurement.asked(results["rows"])}, context)


def as_given(cfg: DictConfig, scored: EvaluationSettings) -> EvaluationSettings:
    """The evaluation that a run was scored by, with what the command line sets in its place."""
    keys = [override.lstrip("+").partition("=")[0] for override in HydraConfig.get().overrides.task]
    evaluation = OmegaConf.create({"eval": plain(scored)})
    for key in keys:
        if key.partition(".")[0] == "eval":
            OmegaConf.update(evaluation, key, OmegaConf.select(cfg, key))
    values = OmegaConf.to_container(evaluation.eval)
    if cfg.extension is not None:
        settings = OmegaConf.to_container(cfg.extension)
        name = settings.pop("name")
        del settings["_target_"]
        values |= {"extensions": [name], "extension_settings": {**values["extension_settings"], name: settings}}
    return typed(EvaluationSettings, values, "eval")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="eval")
def main(cfg: DictConfig) -> None:
    if attempt(lambda: score(cfg), cfg, "run"):
        with open(os.environ[FAILED_RUNS], "a", encoding="utf-8") as file:
            file.write(f"{cfg.run}\n")


if __name__ == "__main__":
    register_names()
    with answering(), tempfile.NamedTemporaryFile("r", encoding="utf-8") as failed:
        os.environ[FAILED_RUNS] = failed.name
        main()
        if failed.read():
            sys.exit(SWEEP_FAILED)
