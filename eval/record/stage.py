"""A second stage as it starts: its parent's weights, checked before anything is trained, and its extension as set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from conf.schema import Settings
from data.module import TextDataModule, WindowDataModule, build_data
from data.windows import difference_of, read_at
from eval.measure.extended import needs_tuning, tuned_extension
from eval.measure.scoring import Scorer
from eval.measure.streams import CALIBRATION
from eval.record.folder import RunFolder
from model.build import build_transformer
from model.training.checkpoint import (
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    is_whole,
    load_weights,
    read,
    run_of,
)
from model.training.language_model import LanguageModel


def settled(settings: Settings) -> Settings:
    """The settings of a stage whose extension chooses for itself with what that has chosen, once, on a split that isn't
    scored; others as they are. Raises ValueError where a stage can't start from its parent."""
    if settings.stage is None:
        return settings
    folder = RunFolder.of(settings)
    if "training" not in folder.results:
        _checkpoint(settings)
    if not (settings.extension and needs_tuning(settings.extension)):
        return settings
    if (chosen := folder.results.get("extension")) is None:
        chosen = _chosen(settings, parent_weights(settings))
        folder.update(extension=chosen)
    return replace(settings, stage=replace(settings.stage, extension=chosen))


def start(settings: Settings, module: LanguageModel, data: WindowDataModule) -> None:
    """Gives the module of a stage what its parent has come to. Raises ValueError where that is not there, or was
    trained on other data."""
    parent = RunFolder(settings.init).results
    for name, what in {"corpus_hash": f"data={data.name}", "tokenizer_hash": "this tokenizer"}.items():
        if parent.get(name) != getattr(data, name):
            raise ValueError(f"init={settings.init}: was trained on other data than {what} ({name}): leave it out")
    weights = parent_weights(settings)
    begun = build_transformer(settings, data.vocab_size, data.separators, weights)
    module.transformer.load_state_dict(begun.state_dict())
    if settings.training.optimizer_from:
        module.averages = _averages(settings, module)


def check_documents(settings: Settings, data: WindowDataModule) -> None:
    """Says where a stage reads other documents than the runs before it. Raises ValueError where the arms of a sweep
    would, which are to differ in their contexts alone."""
    contexts = settings.contexts
    if settings.extend and not settings.stage:
        contexts.append(settings.extend.context or round(settings.context * settings.extend.stretch))
    if not isinstance(data, TextDataModule) or len(contexts) < 2:
        return
    corpus = data.settings
    changed = difference_of(read_at(data.streams["train"], contexts, corpus.cross_documents, corpus.min_tokens))
    if changed and settings.extend:
        raise ValueError(f"extend.stretch={settings.extend.stretch:g}: {changed}")
    if changed:
        print(f"warning: {changed}", flush=True)


def parent_weights(settings: Settings) -> dict[str, Tensor]:
    """The weights that a stage starts from. Raises ValueError, with the remedy, where they are not there."""
    return load_weights(_checkpoint(settings))


def _checkpoint(settings: Settings) -> Path:
    stage, folder = settings.stage, Path(settings.init, "checkpoints")
    path = checkpoint_path(folder, stage.step)
    if not is_whole(path):
        there = sorted(map(checkpoint_step, checkpoints(folder)))
        share = f"'training.keep=[{settings.init_at:g}]' " if settings.init_at < 1 else ""
        raise ValueError(
            f"init={settings.init}: has no checkpoint after step {stage.step} (it has {there or 'none'}): train it by "
            f"its own command with {share}force=true"
        )
    if run_of(path) not in (None, stage.parent):
        raise ValueError(f"init={settings.init}: {path} is another run's: train it anew, by its own command")
    return path


def _averages(settings: Settings, module: LanguageModel) -> dict[int, dict[str, Tensor]]:
    """What the parent's optimizer has kept. Raises ValueError where it is of other parameters."""
    (kept,) = read(_checkpoint(settings))["optimizer_states"]
    own = module.configure_optimizers()["optimizer"].state_dict()
    if [group["params"] for group in kept["param_groups"]] != [group["params"] for group in own["param_groups"]]:
        raise ValueError(
            "training.optimizer_from=parent: the parent has other parameters than the model has now; leave it out"
        )
    return kept["state"]


def _chosen(settings: Settings, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The config of the extension with what it chooses for itself, on the parent's weights."""
    data = build_data(settings)
    model = build_transformer(replace(settings, extension=None), data.vocab_size, data.separators, weights)
    model.trained_length = settings.stage.trained_length
    stream = data.streams[CALIBRATION[settings.eval.split]]
    scorer = Scorer(model.eval(), stream, settings.eval.batch_tokens, settings.eval.precision)
    extension = tuned_extension(scorer, stream, settings.extension, settings.trained_length, settings.eval)
    print(f"{settings.run_id}: extension={settings.extension['name']} with {extension.describe()}", flush=True)
    return {**settings.extension, **extension.settings()}
