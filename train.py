"""Train short, test long: trains a small transformer with a position encoding and scores it beyond its context.

    python train.py encoding=alibi            one run
    python train.py -m encoding=rope,alibi    a sweep, compared at its end
    python train.py --help                    all groups and settings

Heavy packages are imported once the configuration is known to be valid, so that a misspelt key answers at once.
"""

import math
import sys

from conf.packages import explain_missing
from conf.quick import quick_imports
from model.signals import listen

if __name__ == "__main__":
    explain_missing()
    listen()  # before what takes seconds to import

import hydra
from omegaconf import DictConfig

from conf.own import used_by
from conf.schema import Settings
from eval.record.command import answering
from eval.record.identity import register_names


def train(settings: Settings) -> None:
    """One run: data, model, trainer, fit, measure, report. Goes on where an interrupted one stopped."""
    with quick_imports():
        from conf.progress import side_by_side, speak_as
        from data.module import build_data
        from eval.compare.comparison import read_comparison
        from eval.compare.report import write_files
        from eval.measure.measurement import Measurement, fingerprint
        from eval.record.folder import RunFolder
        from eval.record.provenance import describe_run
        from eval.record.stage import check_documents, settled, start
        from eval.record.terminal import announce, in_a_line, print_results
        from eval.record.tracking import track_run
        from eval.record.trained import is_trained
        from eval.record.tuning import tuned
        from model.build import check_model
        from model.training.checkpoint import newest
        from model.training.language_model import build_language_model
        from model.training.meter import Meter
        from model.training.trainer import fit, prepare_process, restore

    prepare_process(settings.trainer.threads)
    folder, asked = RunFolder.of(settings), fingerprint(settings.eval)
    with folder.hold():
        run = folder.begin(settings)
        if folder.scored(asked):
            if not settings.sweep:
                write_files(read_comparison(folder.path))
            print(f"{folder.path} is finished already" + f"; report: {folder.report}" * (not settings.sweep))
            return
        settings = tuned(settled(settings), train)
        speak_as(settings.run_id if settings.sweep else "")
        with track_run(settings) as tracker:
            with folder.recording(settings, asked):
                check_model(settings)
                data = build_data(settings)
                folder.require(corpus_hash=data.corpus_hash, tokenizer_hash=data.tokenizer_hash)
                folder.keep_tokenizer(data.tokenizer)
                check_documents(settings, data)
                measurement = Measurement(settings.eval, data, settings.first_context)
                model = build_language_model(settings, data.vocab_size, data.separators)
                measurement.check(model.transformer)
                if is_trained(folder, settings):
                    print(f"{folder.path} has been trained; scoring what is missing", flush=True)
                    restore(settings, model, data, folder.path)
                    tracker.log_curve(folder.curve)
                else:
                    if settings.stage and newest(folder.checkpoints) is None:
                        start(settings, model, data)
                    announce(settings, data, model, folder)
                    meter = Meter(settings, report=tracker.log_point)
                    fit(settings, model, data, folder.path, meter, run)
                    folder.describe(describe_run(settings, data, model, meter), meter.curve)
                folder.turn_to(measurement.key)
                for found in measurement.of(model.transformer, folder.results, folder.losses.keys()):
                    folder.add(found)
                    tracker.log_figures([*found.rows, *found.tasks], settings.first_context)
            if not settings.sweep:
                write_files(read_comparison(folder.path))
            tracker.log_run(folder, model.transformer, data)
    if side_by_side():
        print(f"{folder.path}: {in_a_line(folder.results)}", flush=True)
        return
    print_results(folder.results, settings, folder.windows)
    print(folder.path if settings.sweep else f"report: {folder.report}")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """One job of a command. Gives what a sweeper that optimises goes by."""
    from eval.record.jobs import carry_out

    done = carry_out(train, cfg)

    from eval.record.folder import RunFolder
    from eval.record.objective import objective

    return objective(RunFolder.of(cfg)) if done else math.inf


if __name__ == "__main__":
    register_names()
    with answering():
        sys.argv[1:] = used_by(sys.argv[1:])
        main()
