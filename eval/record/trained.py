"""A run's trained model, with the tokenizer and the data that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from conf.schema import Settings, corpus_of
from data.corpus import Document
from data.inputs import input_hash
from data.module import TaskDataModule, TextDataModule, data_module
from data.tokenizer import TextTokenizer
from eval.record.folder import RunFolder
from model.build import build_transformer
from model.training.checkpoint import checkpoint_step, checkpoints, load_weights, newest, run_of
from model.transformer import Transformer


@dataclass(frozen=True)
class Trained:
    """model: in evaluation mode, on the CPU; call it with tokens (B, T) for logits (B, T, V)."""

    folder: RunFolder
    settings: Settings
    model: Transformer
    _data: TextDataModule | TaskDataModule = field(repr=False)  # of which the tokenizer alone may be known

    @cached_property
    def data(self) -> TextDataModule | TaskDataModule:
        """What it was trained on, made ready to read. Raises ValueError where that is gone, or is another now."""
        check_files(self.folder)
        self._data.prepare()
        _check_hashes(self.folder, self._data, "corpus_hash", "tokenizer_hash")
        return self._data

    @property
    def tokenizer(self) -> TextTokenizer:
        """Raises ValueError for a model of a task, whose tokens stand for no text."""
        if not isinstance(self._data, TextDataModule):
            raise ValueError(f"data={self._data.name} is a task: it has no tokenizer; see data.task for its tokens")
        return self._data.tokenizer

    def encode(self, text: str) -> torch.Tensor:
        """A text as the model was trained to read it, after the token that opens a document: int64 (1, T). Raises
        ValueError for one that the tokenizer can't encode."""
        ((ids, _),) = self.tokenizer.encode([Document("the text", text)])
        return torch.from_numpy(ids)[None]

    def decode(self, tokens: torch.Tensor) -> str:
        """The text of tokens (T,), without separators."""
        return self.tokenizer.decode(tokens.tolist())


def is_trained(folder: RunFolder, settings: Settings) -> bool:
    """Whether a run has been trained to its end: its last checkpoint is there, and what is known of its training."""
    checkpoint = newest(folder.checkpoints)
    return checkpoint is not None and checkpoint_step(checkpoint) == settings.steps and "training" in folder.results


def check_files(folder: RunFolder) -> None:
    """Raises ValueError where the local files that a run's settings name are not those that it was trained on: others
    are none of its business, and are not read."""
    settings = folder.settings
    if input_hash(settings.data, settings.tokenizer) == folder.results.get("identity", {}).get("files"):
        return
    named = [
        f"{group}.{key}={value}"
        for group, values in (("data", corpus_of(settings.data) or {}), ("tokenizer", settings.tokenizer))
        for key, value in values.items()
        if key.endswith("path") and value
    ]
    raise ValueError(
        f"{folder.path} was trained on files that are not here, or are others now: {', '.join(named)}: put them there "
        "(a relative path counts from the folder in which the command is given), or train anew"
        if named
        else f"{folder.path} was trained on other data than data={settings.data['name']} is now: train anew"
    )


def last_weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The transformer's weights at the end of its training. Raises ValueError, with the remedy, where they are not
    there, or are another run's."""
    settings, results = folder.settings, folder.results
    folder.check_owner()
    if not is_trained(folder, settings):
        gone = "has no checkpoint" if not checkpoints(folder.checkpoints) else "has not been trained to its end"
        forced = ", with force=true where it says that it is finished already" if gone == "has no checkpoint" else ""
        raise ValueError(f"{folder.path} {gone}: give the run's own command again{forced}")
    path = newest(folder.checkpoints)
    if run_of(path) not in (None, results.get("config_hash")):
        raise ValueError(f"{path} is another run's: train {folder.path} anew, by its own command with force=true")
    return load_weights(path)


def load(run: Path | str, **elsewhere: Any) -> Trained:
    """The model of a finished run's folder, and its tokenizer. elsewhere: settings of where it reads from, such as
    cache_dir.

    A run of an earlier version, which kept no tokenizer, needs its `data` for that. Raises ValueError where the run has
    not been trained to its end, or what is read for it is not what it was trained with.
    """
    folder = RunFolder(run)
    settings = replace(folder.settings, **elsewhere)
    weights = last_weights(folder)
    data = data_module(settings)
    if isinstance(data, TextDataModule) and (tokenizer := folder.tokenizer):
        data.know(tokenizer)
    else:
        check_files(folder)
    _check_hashes(folder, data, "tokenizer_hash")
    model = build_transformer(settings, data.vocab_size, data.separators)
    model.load_state_dict(weights)
    return Trained(folder, settings, model.eval(), data)


def _check_hashes(folder: RunFolder, data: TextDataModule | TaskDataModule, *keys: str) -> None:
    """Raises ValueError where data are not those that a run was trained on, by these fields of its results."""
    for key in keys:
        if folder.results.get(key) != getattr(data, key):
            raise ValueError(f"{folder.path} was trained on other data than data={data.name} is now ({key})")
