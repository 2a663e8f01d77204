"""The data modules: everything a run reads, from the settings of `conf/data` and `conf/tokenizer`.

`TextDataModule` reads windows of a corpus, `TaskDataModule` generates a task's examples, `MixDataModule` does both;
`build_data` chooses.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from conf.schema import CorpusSettings, MixSettings, Settings, TaskSettings, as_of_the_mix, is_mix, of_the_mix
from conf.typed import digest, split
from data.corpus import SPLITS, build_corpus, source_class
from data.prepare import Prepared, prepare
from data.recipe import build_recipe
from data.separators import separators
from data.stream import TokenStream
from data.task import ANSWER, SEPARATOR, Task, draw, uniform
from data.tokenizer import TextTokenizer
from data.windows import EndlessSampler, TrainingWindows, gather_windows, non_overlapping_windows


class WindowDataModule(L.LightningDataModule):
    """Batches of token windows, int64 (B, context + 1): inputs `[:, :-1]`, targets `[:, 1:]`.

    - `context`: tokens of context in training; `batch_size`: windows a batch and rank.
    - `seed`: of the training windows, which depend on nothing else.
    - `start_sample`: how many training windows were read before the trainer's first step, by the runs that a second
      stage starts from. Those of its steps so far (times its ranks and accumulation) come on top, so that a resumed run
      goes on with the next window.

    The training loader never ends: bound it by the trainer's `max_steps`, with `use_distributed_sampler=False`.
    """

    task: Task | None = None  # that can be asked
    task_name: str | None = None  # by which its results are known
    tokenizer: TextTokenizer | None = None  # of a corpus of text

    def __init__(self, context: int, batch_size: int, seed: int, num_workers: int, start_sample: int):
        super().__init__()
        if context < 1 or batch_size < 1:
            raise ValueError(f"context={context} and batch_size={batch_size} must be at least 1")
        self.context, self.batch_size, self.seed = context, batch_size, seed
        self.num_workers, self.start_sample = num_workers, start_sample

    def prepare(self) -> "WindowDataModule":
        """Reads what there is to read; returns itself."""
        return self

    def train_windows(self) -> Dataset:
        """The endless sequence of training windows."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader:
        """Endless batches, (batch_size, context + 1), from `start_sample` on."""
        rank, world, start = 0, 1, self.start_sample
        if self.trainer is not None:
            rank, world = self.trainer.global_rank, self.trainer.world_size
            steps = self.trainer.global_step * self.trainer.accumulate_grad_batches
            start += steps * self.batch_size * world
        return self._loader(self.train_windows(), EndlessSampler(start, rank, world))

    def _loader(self, dataset: Dataset, sampler: EndlessSampler | None = None) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_already_a_batch,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


class TextDataModule(WindowDataModule):
    """Windows of a corpus.

    - `data`: the keys of a `conf/data` file; those that are not named here go to the corpus' source.
    - `tokenizer`: the keys of a `conf/tokenizer` file.
    - `seed`: of the training windows' order (see `data/windows.py`).

    Raises ValueError, on construction or in `prepare`, for settings and texts that cannot be used.
    """

    def __init__(
        self,
        data: Mapping[str, object],
        tokenizer: Mapping[str, object],
        context: int,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | Path = ".cache",
        start_sample: int = 0,
    ):
        super().__init__(context, batch_size, seed, num_workers, start_sample)
        self.settings, of_source = split(CorpusSettings, data, "data")
        self.name = self.settings.name or self.settings.source
        self._corpus, self._recipe = build_corpus(self.settings.source, of_source), build_recipe(tokenizer)
        self.cache_dir = cache_dir
        self._prepared: Prepared | None = None
        self._known: TextTokenizer | None = None

    def know(self, tokenizer: Path) -> None:
        """Takes the tokenizer of a tokenizer.json until the corpus is prepared: enough to read and write text by.
        Raises ValueError where the file is none."""
        self._known = TextTokenizer.load(tokenizer, self._recipe.separator)

    def prepare(self) -> "TextDataModule":
        """Open the prepared corpus, building it where it is missing; returns itself."""
        if self._prepared is None:
            caps = self.settings.max_documents, self.settings.max_tokens
            self._prepared = prepare(self._corpus, self._recipe, self.cache_dir, *caps)
        return self

    def prepare_data(self) -> None:
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        self.prepare()

    @property
    def streams(self) -> dict[str, TokenStream]:
        """The token streams of "train", "validation" and "test"."""
        return self.prepare()._prepared.streams

    @property
    def tokenizer(self) -> TextTokenizer:
        known = self._known if self._prepared is None else None
        return known or self.prepare()._prepared.tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id, the separator's included."""
        return self.tokenizer.vocab_size

    @property
    def corpus_hash(self) -> str:
        """SHA-256 of all documents' texts, split by split."""
        return self.prepare()._prepared.meta["corpus_hash"]

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of the tokenizer's JSON."""
        return self.tokenizer.hash

    @property
    def separators(self) -> dict[str, tuple[int, ...]]:
        """Ids of the tokens that end a line or a sentence."""
        return separators(self.tokenizer)

    def describe(self) -> str:
        """A line on the splits, and one on how much of the training split fits the context: a warning below a half."""
        splits = self.streams.values()
        documents = "/".join(str(stream.num_documents) for stream in splits)
        tokens = "/".join(f"{len(stream) / 1e6:.3g}M" for stream in splits)
        sizes = [meta["bytes"] for meta in self.prepare()._prepared.meta["splits"].values()]
        shares = "/".join(f"{100 * size / sum(sizes):.3g}" for size in sizes)
        held = (
            f"{self.name}: {documents} documents, {tokens} tokens, {shares} % of the text (train/validation/test), "
            f"{self.streams['test'].bytes_per_token:.2f} bytes a test token, vocabulary {self.vocab_size}"
        )
        windows = self.text_windows()
        read = f"{100 * windows.readable:.3g} % of the training text can be read at a context of {self.context} tokens"
        if self.settings.min_tokens is not None:
            read += f", in documents of more than data.min_tokens={self.settings.min_tokens}"
        if windows.readable < 0.5:
            lower = (self.settings.min_tokens or 0) > self.context
            remedy = "lower data.min_tokens" if lower else "shorten the context, or set data.cross_documents=true"
            read = (
                f"warning: only {read} ({windows.num_documents:,} of {self.streams['train'].num_documents:,} documents "
                f"are longer): {remedy}"
            )
        return f"{held}\n{read}"

    def train_windows(self) -> Dataset:
        """The endless sequence of training windows."""
        return self.text_windows()

    def text_windows(self) -> TrainingWindows:
        """Those of text."""
        chosen = self.settings.cross_documents, self.settings.min_tokens
        return TrainingWindows(self.streams["train"], self.context, self.seed, *chosen)

    def val_dataloader(self) -> DataLoader:
        """At most `validation_windows` windows side by side, evenly spread over the validation split.

        Raises ValueError if no validation document is longer than `context`.
        """
        stream = self.streams["validation"]
        windows = non_overlapping_windows(stream, self.context, self.settings.cross_documents, self.settings.min_tokens)
        starts = windows.starts[windows.scored == self.context]
        if len(starts) == 0:
            raise ValueError(
                f"no validation document is longer than context={self.context} tokens: shorten the context, or set "
                "data.cross_documents=true"
            )
        count = min(self.settings.validation_windows or len(starts), len(starts))
        return self._loader(FixedWindows(stream, starts[np.arange(count) * len(starts) // count], self.context + 1))


class FixedWindows(Dataset):
    """The windows of `width` tokens at given starts, int64 (width,) each."""

    def __init__(self, stream: TokenStream, starts: np.ndarray, width: int):
        self.stream, self.starts, self.width = stream, starts, width

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        """A batch at once, int64 (B, width)."""
        return gather_windows(self.stream, self.starts[indices], self.width)


class TaskDataModule(WindowDataModule):
    """Windows of a task's examples: one a window, filled up with separators; a token that is read but not predicted
    (all but the answers) stands in it as its complement, ~id (see `LanguageModel`).

    - `data`: the keys of a `conf/data` file; those that are not named here go to the task's source.

    Training window n is a pure function of the seed and n, its length drawn evenly from 1..`longest`.
    Raises ValueError, on construction, for settings that cannot be used.
    """

    def __init__(
        self,
        data: Mapping[str, object],
        context: int,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        start_sample: int = 0,
    ):
        super().__init__(context, batch_size, seed, num_workers, start_sample)
        self.settings, of_source = split(TaskSettings, data, "data")
        self.name = self.task_name = self.settings.name
        self.task = build_corpus(self.settings.source, of_source)
        self.longest = self.task.longest(context)

    def examples(self, split: str, length: int) -> np.ndarray:
        """The examples of a length by which a run is scored, the same for every run: int64 (N, T)."""
        return np.stack([self.task.example([SPLITS.index(split), n], length) for n in range(self.settings.examples)])

    @property
    def streams(self) -> dict[str, TokenStream]:
        """Examples of the longest trained length as documents, without bytes."""
        return {split: example_stream(self.examples(split, self.longest)) for split in SPLITS}

    @property
    def vocab_size(self) -> int:
        return self.task.vocab_size

    @property
    def corpus_hash(self) -> str:
        return self.task.hash

    @property
    def tokenizer_hash(self) -> str:
        return self.task.hash

    @property
    def separators(self) -> dict[str, tuple[int, ...]]:
        """What is asked is one line, the answer another."""
        return {"line": (ANSWER,), "sentence": (ANSWER,)}

    def describe(self) -> str:
        """One line: the lengths trained on, and the vocabulary."""
        return f"{self.name}: trained at lengths 1 to {self.longest}, vocabulary {self.vocab_size}"

    def train_windows(self) -> "TaskWindows":
        return TaskWindows(self.task, self.longest, self.context, [SPLITS.index("train"), self.seed])

    def val_dataloader(self) -> DataLoader:
        windows = TaskWindows(self.task, self.longest, self.context, [SPLITS.index("validation")])
        return self._loader(Subset(windows, range(self.settings.validation_windows)))


class TaskWindows(Dataset):
    """Window n is an example of length 1..`longest`, both drawn from [*seed, n]; int64 (context + 1,) each."""

    def __init__(self, task: Task, longest: int, context: int, seed: list[int]):
        self.task, self.longest, self.context, self.seed = task, longest, context, seed

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.__getitems__([n])[0]

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """A batch at once, int64 (B, context + 1)."""
        windows = np.full((len(indices), self.context + 1), ~SEPARATOR)
        for window, n in zip(windows, indices, strict=True):
            length = 1 + int(draw(np.random.PCG64(np.random.SeedSequence([*self.seed, n])), 1, self.longest)[0])
            tokens = self.task.example([*self.seed, n], length)
            window[: len(tokens)] = np.where(self.task.scored(length), tokens, ~tokens)
        return torch.from_numpy(windows)


class MixDataModule(TextDataModule):
    """Windows of a corpus, some of which are examples of a task in their place, in ids after the text's.

    - `data`: the keys of `conf/data/mix.yaml`; all others as of `TextDataModule`.

    What is held out is text: the streams, and so the validation loss. `task` and `examples` are what can be asked.
    """

    def __init__(self, data: Mapping[str, object], tokenizer: Mapping[str, object], *args, **loading):
        self.mix, others = split(MixSettings, data, "data")
        if others:
            key = next(iter(others))
            raise ValueError(
                f"data.{key}: there is no such setting of a mix; one of the task is +data.changed.task.{key}=VALUE"
            )
        with of_the_mix("text"):
            super().__init__(self.mix.settings["text"], tokenizer, *args, **loading)
        with of_the_mix("task"):
            self._examples = TaskDataModule(self.mix.settings["task"], self.context, self.batch_size, self.seed)
        self.name, self.task_name = self.mix.name, self._examples.name
        self.task, self.longest = self._examples.task, self._examples.longest

    @property
    def first_id(self) -> int:
        """Of the task."""
        return self.tokenizer.vocab_size

    @property
    def vocab_size(self) -> int:
        return self.first_id + self.task.vocab_size

    @property
    def corpus_hash(self) -> str:
        """Of the corpus' and the task's."""
        return digest([super().corpus_hash, self.task.hash])

    @property
    def tokenizer_hash(self) -> str:
        """Of the tokenizer's and the task's."""
        return digest([super().tokenizer_hash, self.task.hash])

    @property
    def separators(self) -> dict[str, tuple[int, ...]]:
        own = self._examples.separators
        return {kind: (*ids, *(self.first_id + each for each in own[kind])) for kind, ids in super().separators.items()}

    def examples(self, split: str, length: int) -> np.ndarray:
        """As of a `TaskDataModule`, in the ids of the mix."""
        return self.first_id + self._examples.examples(split, length)

    def describe(self) -> str:
        share = f"{100 * self.mix.share:.3g} % of the training windows are examples"
        of_text = as_of_the_mix("text", super().describe())
        return f"{of_text}\n{share} of {self.task_name}, at lengths 1 to {self.longest}"

    def prepare(self) -> "MixDataModule":
        with of_the_mix("text"):
            return super().prepare()

    def text_windows(self) -> TrainingWindows:
        with of_the_mix("text"):
            return super().text_windows()

    def val_dataloader(self) -> DataLoader:
        """Of text alone."""
        with of_the_mix("text"):
            return super().val_dataloader()

    def train_windows(self) -> "MixedWindows":
        task = self._examples.train_windows()
        return MixedWindows(self.text_windows(), task, self.mix.share, self.first_id, [len(SPLITS), self.seed])


class MixedWindows(Dataset):
    """Window n is that of the task, whose ids begin at `first_id`, with a chance of `share` that is drawn from
    [*seed, n], and otherwise that of the text; int64 (context + 1,) each."""

    def __init__(self, text: TrainingWindows, task: TaskWindows, share: float, first_id: int, seed: list[int]):
        self.text, self.task, self.share, self.first_id, self.seed = text, task, share, first_id, seed

    def is_example(self, n: int) -> bool:
        """Whether a window is one of the task."""
        return bool(uniform(np.random.PCG64(np.random.SeedSequence([*self.seed, n])), 1)[0] < self.share)

    def __getitem__(self, n: int) -> torch.Tensor:
        return self.__getitems__([n])[0]

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor:
        """A batch at once, int64 (B, context + 1)."""
        of_task = torch.tensor([self.is_example(n) for n in indices])
        windows = torch.empty(len(indices), self.text.context + 1, dtype=torch.int64)
        windows[~of_task] = self.text.__getitems__([n for n, task in zip(indices, of_task, strict=True) if not task])
        examples = self.task.__getitems__([n for n, task in zip(indices, of_task, strict=True) if task])
        windows[of_task] = torch.where(examples < 0, examples - self.first_id, examples + self.first_id)
        return windows


def example_stream(examples_NT: np.ndarray) -> TokenStream:
    """Examples as the documents of a token stream."""
    count, width = examples_NT.shape
    names = tuple(f"example {number}" for number in range(count))
    sizes = np.zeros(count * width, dtype=np.uint16)
    return TokenStream(examples_NT.ravel(), sizes, np.arange(count + 1) * width, names, SEPARATOR)


def build_data(settings: Settings) -> TextDataModule | TaskDataModule:
    """The prepared data module of a run. Raises ValueError for settings and texts that can't be used."""
    return data_module(settings).prepare()


def data_module(settings: Settings) -> TextDataModule | TaskDataModule:
    """The data module of a run, its batch shared by the run's devices; nothing is read yet.

    Raises ValueError for settings of data that can't be, or a tokenizer that is chosen for a task.
    """
    loading = {
        "context": settings.context,
        "batch_size": settings.training.batch_size // settings.shares,
        "seed": settings.seed,
        "num_workers": settings.num_workers,
        "start_sample": math.ceil(settings.stage.tokens / settings.context) if settings.stage else 0,
    }
    data, tokenizer = settings.data, settings.tokenizer
    if is_mix(data):
        return MixDataModule(data, tokenizer, **loading, cache_dir=settings.cache_dir)
    if not issubclass(source_class(data["source"]), Task):
        return TextDataModule(data, tokenizer, **loading, cache_dir=settings.cache_dir)
    if tokenizer["name"] != "none":
        raise ValueError(
            f"tokenizer={tokenizer['name']}: data={data['name']} has a vocabulary of its own; leave it out"
        )
    return TaskDataModule(data, **loading)


def _already_a_batch(batch: torch.Tensor) -> torch.Tensor:
    return batch
