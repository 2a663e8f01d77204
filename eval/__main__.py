"""Scores a finished run again: python -m eval run=DIR [extension=yarn] [extension.tune=true].

    python -m eval run=DIR 'eval.lengths=[1,16]'    at these lengths, too
    python -m eval run=SWEEP 'eval.lengths=[16]'    all runs of a sweep, and its report
    python -m eval --help                           all settings
    python -m eval -m run=A,B extension=yarn,pi     runs and extensions, one after the other

Settings are those of conf/eval, as the run was trained with them, and those of the extension's file. What is missing
is scored. Where the settings choose other targets, as a longer length does, the rows on the old ones are kept for when
they are asked for again, and the run shows the new.
"""

from conf.packages import explain_missing
from conf.quick import quick_imports
from model.signals import last_words, listen

if __name__ == "__main__":
    explain_missing()
    listen()  # before what takes seconds to import

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from conf.mistakes import one_sentence
from conf.own import used_by
from conf.schema import CONF, EvaluationSettings, ScoringSettings, Settings
from conf.typed import composed_as, plain, typed
from eval.record.command import answering
from eval.record.files import DamagedError
from eval.record.folder import RunFolder, runs_of
from eval.record.identity import register_names
from eval.record.jobs import MISTAKES, SWEEP_FAILED, attempt
from model.devices import wait_by_load

FAILED_RUNS = "TRAINSHORT_FAILED_RUNS"  # in the environment: the file in which jobs, in whatever process, note failures


def score(cfg: DictConfig) -> None:
    """Scores the run of cfg.run, or all runs of that sweep."""
    asked = composed_as(ScoringSettings, cfg)
    if asked.run is None:
        raise ValueError("which run? Give its folder, or that of a sweep: python -m eval run=DIR")
    path = Path(asked.run)
    folders = runs_of(path)
    given = HydraConfig.get().overrides.task
    evaluations = {
        folder: as_given(asked, settings.eval, given) for folder in folders if (settings := _readable(folder, path))
    }

    with quick_imports():
        from eval.compare.comparison import read_comparison
        from eval.compare.report import print_comparison, write_files
        from eval.measure.extended import as_chosen

    elsewhere = {"cache_dir": asked.cache_dir, "num_workers": asked.num_workers}
    elsewhere = {key: value for key, value in elsewhere.items() if value is not None}
    if folders[0].path == path:
        with as_chosen(asked.extension):
            score_run(folders[0], evaluations[folders[0]], elsewhere)
        return
    failed = [folder.name for folder in folders if folder not in evaluations]
    for number, (folder, evaluation) in enumerate(evaluations.items(), start=1):
        print(f"--- run {number} of {len(evaluations)}: {folder.name}", flush=True)
        try:
            with as_chosen(asked.extension):
                score_run(folder, evaluation, elsewhere)
        except MISTAKES as error:
            failed.append(folder.name)
            print(f"{folder.name}: {one_sentence(error)}", file=sys.stderr)
    print(f"--- comparing {len(folders)} runs", flush=True)
    comparison = read_comparison(path)
    write_files(comparison)
    print_comparison(comparison)
    if failed:
        raise ValueError(f"{len(failed)} of {len(folders)} runs could not be scored: {', '.join(failed)}")


def _readable(folder: RunFolder, path: Path) -> Settings | None:
    """The settings of a run; None, which is said, where they are damaged and the run is one of a sweep's."""
    try:
        return folder.settings
    except DamagedError as error:
        if folder.path == path:
            raise
        print(f"{folder.name}: {one_sentence(error)}", file=sys.stderr)
        return None


def score_run(folder: RunFolder, evaluation: EvaluationSettings, elsewhere: Mapping[str, Any]) -> None:
    """Scores one run, writes its report, shows the rows asked for. elsewhere: settings of where its data lie."""
    wait_by_load(folder.settings.trainer.threads)

    with quick_imports():
        from eval.compare.comparison import read_comparison
        from eval.compare.report import write_files
        from eval.measure.measurement import Measurement, fingerprint
        from eval.record.terminal import print_results
        from eval.record.tracking import track_scored
        from eval.record.trained import load
        from model.training.trainer import prepare_process

    settings = folder.settings
    prepare_process(settings.trainer.threads)
    with folder.hold():
        folder.check()
        trained = load(folder.path, **elsewhere)
        measurement = Measurement(evaluation, trained.data, settings.first_context)
        measurement.check(trained.model)
        folder.turn_to(measurement.key)
        for found in measurement.of(trained.model, folder.results, folder.losses.keys()):
            folder.add(found)
        folder.set_status("finished", scored=fingerprint(evaluation))  # also where it failed when it was first scored
    write_files(read_comparison(folder.path))
    track_scored(folder, trained.model, trained.data)
    results = folder.results
    asked = measurement.asked(results)
    print_results({**results, **asked}, settings, folder.windows_of(asked["rows"]))
    print(f"report: {folder.report}")


def as_given(asked: ScoringSettings, configured: EvaluationSettings, given: Iterable[str]) -> EvaluationSettings:
    """The evaluation that a run was trained with, with what the command line sets in its place; lengths are added.
    given: the command line's settings, key=value."""
    from eval.measure.extended import chosen_extension

    keys = [override.lstrip("+").partition("=")[0] for override in given]
    evaluation, typed_in = OmegaConf.create({"eval": plain(configured)}), OmegaConf.create({"eval": plain(asked.eval)})
    for key in keys:
        if key.partition(".")[0] == "eval":
            OmegaConf.update(evaluation, key, OmegaConf.select(typed_in, key))
    values = OmegaConf.to_container(evaluation.eval)
    values["lengths"] = sorted({*configured.lengths, *values["lengths"]})
    if asked.extension is not None:
        name, settings = chosen_extension(asked.extension)
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
        sys.argv[1:] = used_by(sys.argv[1:])
        with last_words(lambda stop: os.unlink(failed.name)):
            main()
        if failed.read():
            sys.exit(SWEEP_FAILED)
