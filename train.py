"""Train short, test long: trains a small transformer with a position encoding and scores it beyond its context.

    python train.py encoding=alibi            one run
    python train.py -m encoding=rope,alibi    a sweep, compared at its end
    python train.py --help                    all groups and settings

Heavy packages are imported once the configuration is known to be valid, so that a misspelt key answers at once.
"""

import sys

import hydra
from omegaconf import DictConfig

from eval.record.identity import register_names, sweep_name


def train(config: dict) -> None:
    """One run: data, model, trainer, fit, evaluate, results. Goes on where an interrupted one stopped."""
    from data.module import build_data
    from eval.compare.comparison import read_comparison
    from eval.compare.report import write_files
    from eval.measure.exact_match import score_task
    from eval.measure.perplexity import check_settings, evaluate, streams_for
    from eval.measure.probes import run_probes
    from eval.record.folder import run_folder, write_table
    from eval.record.provenance import describe_run
    from eval.record.terminal import announce, print_results
    from eval.record.tracking import track
    from eval.record.tuning import tuned
    from model.build import build_language_model, training_steps
    from model.settings import check_types
    from model.training.trainer import Meter, fit, prepare_process

    check_types(config)
    prepare_process(config["trainer"]["threads"])
    folder = run_folder(config)
    with folder.hold():
        folder.check_same(config)
        if folder.finished:
            print(f"{folder.path} is finished already")
        else:
            config = tuned(config, train)
            with folder.recording(config), track(config, folder.name, config["runs"], config["sweep"]) as tracker:
                steps = training_steps(config)
                data = build_data(config)
                folder.require(corpus_hash=data.corpus_hash, tokenizer_hash=data.tokenizer_hash)
                held_out, *others = streams_for(data.streams, config["eval"]["split"])
                check_settings(config["eval"], held_out, config["context"])
                model = build_language_model(config, data.vocab_size, data.separators)
                meter = Meter(config, steps, report=tracker.log_point)
                announce(config, data, model, folder)
                fit(config, model, data, folder.path, meter)
                write_table(folder.path / "curve.csv", meter.curve)
                folder.update(**describe_run(config, data, model, meter))
                evaluate(model.transformer, held_out, folder, config["eval"], *others, report=tracker.log_rows)
                run_probes(model.transformer, held_out, folder, config["eval"])
                score_task(model.transformer, data, folder, config["eval"], report=tracker.log_rows)
                tracker.summarise(folder.results["training"])
    if not config["sweep"]:
        write_files(read_comparison(folder.path))
    print_results(folder.results, config["context"])
    print(folder.path)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from eval.record.jobs import carry_out

    carry_out(train, cfg)


if __name__ == "__main__":
    register_names()
    multirun = {"-m", "--multirun"} & set(sys.argv)
    if multirun and not any(argument.startswith("sweep=") for argument in sys.argv):
        sys.argv.append(f"sweep={sweep_name(sys.argv[1:])}")
    main()
