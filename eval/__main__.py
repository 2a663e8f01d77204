"""Scores a finished run again: python -m eval run=DIR [eval.lengths=[1,16]] [extension=yarn,pi] [extension.tune=true].

Settings are those of conf/eval, as the run was scored, and those of the extensions' files; rows that are new or changed
are added to its results.
"""

import sys

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from eval.record.jobs import FAILED, MISTAKES, one_sentence

USAGE = "usage: python -m eval run=DIR [extension=NAME,NAME|all] [extension.KEY=VALUE ...] [eval.KEY=VALUE ...]"


def main(arguments: list[str]) -> None:
    from data.module import build_data
    from eval.compare.comparison import read_comparison
    from eval.compare.report import write_files
    from eval.measure.exact_match import score_task
    from eval.measure.perplexity import check_settings, evaluate, extension_list, settings_of_each, streams_for
    from eval.measure.probes import run_probes
    from eval.record.folder import RunFolder
    from eval.record.terminal import print_results
    from model.build import build_transformer, training_steps
    from model.catalogue import CONF
    from model.settings import check_split, check_type
    from model.training.checkpoint import checkpoint_step, load_weights, newest
    from model.training.trainer import prepare_process

    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if "run" not in options or len(options) != len(arguments):
        raise ValueError(USAGE)
    folder = RunFolder(options.pop("run"))
    config = folder.config
    default = OmegaConf.load(CONF / "eval" / "default.yaml")
    settings = OmegaConf.merge(default, config["eval"])
    if extensions := options.pop("extension", None):
        settings.extensions = extensions.split(",")
    OmegaConf.set_struct(settings, True)
    changes = OmegaConf.create({})
    for key, value in options.items():
        if key.startswith("extension."):
            changes.merge_with_dotlist([f"{key.removeprefix('extension.')}={value}"])
            continue
        if not key.startswith("eval.") or key[5:].split(".")[0] not in settings:
            raise ValueError(f"{key}={value}: no such setting; known are eval.{{{', '.join(settings)}}}")
        try:
            settings.merge_with_dotlist([f"{key[5:]}={value}"])
        except OmegaConfBaseException as error:
            raise ValueError(f"{key}={value}: {one_sentence(error)}") from None
    settings = OmegaConf.to_container(settings, resolve=True)
    settings["extension_settings"] |= settings_of_each(extension_list(settings), OmegaConf.to_container(changes))
    check_type("eval", settings, OmegaConf.to_container(default))
    check_split(settings["split"])
    checkpoint, steps = newest(folder.checkpoints), training_steps(config)
    if checkpoint is None or checkpoint_step(checkpoint) != steps or "training" not in folder.results:
        raise ValueError(f"{folder.path} has not been trained to its end: finish the run first, by its own command")
    scored = {row["context_length"] / config["context"] for row in folder.results["rows"]}
    settings["lengths"] = sorted(scored | set(settings["lengths"]))
    prepare_process(config["trainer"]["threads"])
    data = build_data(config)
    for key in ("corpus_hash", "tokenizer_hash"):
        if folder.results.get(key) != getattr(data, key):
            raise ValueError(
                f"{folder.path} was trained on other data than data={config['data']['name']} is now ({key})"
            )
    held_out, *others = streams_for(data.streams, settings["split"])
    check_settings(settings, held_out, config["context"])
    model = build_transformer(config, data.vocab_size, data.separators)
    model.load_state_dict(load_weights(checkpoint))
    with folder.hold():
        rows = evaluate(model, held_out, folder, settings, *others)
        run_probes(model, held_out, folder, settings)
        score_task(model, data, folder, settings)
        folder.set_status("finished")  # also where it failed when it was first scored
    write_files(read_comparison(folder.path))
    print_results({**folder.results, "rows": rows}, config["context"])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MISTAKES as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr)
        sys.exit(FAILED)
