"""The settings of a run, typed: Hydra composes the yaml files of this folder against them, and refuses a wrong key or
type by its full name. The yaml files hold the values and say what they mean; what can't be is refused here, when the
object is made, by a ValueError that names the setting. Light to import: nothing but OmegaConf.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

CONF = Path(__file__).parent
ROOT = CONF.parent

SCHEDULES = ("cosine", "linear", "constant")
SPLITS = ("validation", "test")  # held out
CONTROLS = ("unigram", "bigram")  # n-grams of order 1, 2
PRECISIONS = ("auto", "32", "32-true", "bf16", "bf16-mixed", "bf16-true", "64", "64-true")


def options(group: str) -> list[str]:
    """What can be chosen of a group, sorted: the names of its yaml files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def modules(folder: str) -> list[str]:
    """What there is of a kind that is a Python file each, sorted: the modules of a folder such as data/sources."""
    return sorted(path.stem for path in (ROOT / folder).glob("[!_]*.py"))


@dataclass
class ModelSettings:
    """conf/model: the sizes of the transformer, which checks them itself."""

    name: str
    dim: int
    num_layers: int
    num_heads: int
    mlp: str
    mlp_ratio: float
    dropout: float


@dataclass
class TrainingSettings:
    """`training` in conf/train.yaml: what a model is trained on, and how."""

    tokens: int
    batch_size: int
    accumulate: int
    lr: float
    min_lr: float
    warmup: float
    schedule: str
    weight_decay: float
    betas: list[float]
    clip: float
    encoding_lr: float
    log_every: int
    validate_every: float
    checkpoint_every: float

    def __post_init__(self):
        for name in ("tokens", "batch_size", "accumulate", "log_every"):
            _check(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "must be at least 1")
        for name in ("lr", "min_lr", "warmup", "weight_decay", "clip", "encoding_lr"):
            _check(math.isfinite(getattr(self, name)), f"training.{name}", getattr(self, name), "must be finite")
        _check(self.lr > 0, "training.lr", self.lr, "must be positive")
        _check(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "must not be negative")
        _check(self.encoding_lr >= 0, "training.encoding_lr", self.encoding_lr, "must not be negative")
        _check(self.clip >= 0, "training.clip", self.clip, "must not be negative; 0 does not clip")
        for name in ("min_lr", "warmup"):
            _check(
                0 <= getattr(self, name) <= 1, f"training.{name}", getattr(self, name), "a share, must lie in [0, 1]"
            )
        for name in ("validate_every", "checkpoint_every"):
            share = getattr(self, name)
            _check(0 < share <= 1, f"training.{name}", share, "a share of the run, must lie in (0, 1]")
        _check(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "training.betas",
            self.betas,
            "must be two numbers in [0, 1)",
        )
        _check_among("training.schedule", self.schedule, SCHEDULES)
        _check(
            self.batch_size % self.accumulate == 0,
            "training.batch_size",
            self.batch_size,
            f"is not divisible by training.accumulate={self.accumulate}: choose a multiple of it",
        )

    def steps(self, context: int) -> int:
        """Optimizer steps: the tokens over those of a step, rounded up. context: tokens a window."""
        return math.ceil(self.tokens / (self.batch_size * context))


@dataclass
class ProbeSettings:
    """`eval.probe`: windows of every probe, and the repeat probe's span (tokens)."""

    windows: int
    longest: Any  # a number or None: floats would name whole multiples anew
    span: int | None


@dataclass
class EvaluationSettings:
    """conf/eval: how a trained model is scored. Context lengths are multiples of the training context."""

    lengths: list[Any]  # numbers, whole ones as such: they are part of what names a run
    protocols: list[str]
    split: str
    targets: int
    windows: int
    tokens: int | None
    stride: int
    cross_documents: bool
    batch_tokens: int
    precision: str
    extensions: list[str]
    extension_settings: dict[str, Any]
    controls: list[str]
    probes: list[str]
    probe: ProbeSettings

    def __post_init__(self):
        _check_among("eval.split", self.split, SPLITS)
        _check_among("eval.precision", self.precision, ("32", "bf16"))
        for name in ("targets", "windows", "tokens", "stride", "batch_tokens"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"eval.{name}", value, "must be at least 1")
        for name, known in {
            "protocols": modules("eval/measure/protocols"),
            "probes": modules("eval/measure/probes"),
            "controls": CONTROLS,
            "extensions": [*options("extension"), "all"],
        }.items():
            for value in getattr(self, name):
                _check(value in known, f"eval.{name}", repr(value), f"must be among {', '.join(known)}")
        for name in self.extension_settings:
            _check_among("eval.extension_settings", name, options("extension"))
        for multiple in self.lengths:
            _check(_is_number(multiple), "eval.lengths", self.lengths, "must be finite numbers, such as [1, 2.5]")
        longest = self.probe.longest
        _check(
            longest is None or _is_number(longest), "eval.probe.longest", longest, "must be a finite number, or null"
        )
        if self.probes:
            _check(self.probe.windows >= 2, "eval.probe.windows", self.probe.windows, "must be at least 2")

    def context_lengths(self, context: int) -> list[int]:
        """The lengths to score, in tokens, ascending, for a training context of so many."""
        lengths = sorted({round(multiple * context) for multiple in self.lengths})
        _check(
            bool(lengths) and lengths[0] >= 2,
            "eval.lengths",
            list(self.lengths),
            f"give multiples of the training context {context} that come to at least 2 tokens",
        )
        return lengths

    def probe_lengths(self, context: int) -> list[int]:
        """Those of `context_lengths` at which probes run."""
        longest, lengths = self.probe.longest, self.context_lengths(context)
        chosen = [length for length in lengths if longest is None or length <= longest * context]
        _check(
            bool(chosen),
            "eval.probe.longest",
            longest,
            f"the context lengths of eval.lengths, {lengths} tokens, are all longer; raise it, or set eval.probes=[]",
        )
        return chosen

    def span(self, context: int) -> int:
        """Tokens of the span that the repeat probe repeats: it must fit twice into the shortest length."""
        shortest = self.probe_lengths(context)[0]
        span = self.probe.span
        if span is None:
            span = max(2, min(context // 8, shortest // 2))
        _check(
            2 <= span <= shortest // 2,
            "eval.probe.span",
            span,
            "needs at least 2 tokens (the first isn't scored), and to fit twice into the shortest context of "
            f"{shortest} tokens",
        )
        return span


@dataclass
class CorpusSettings:
    """The keys of conf/data that all corpora of text have; the others are the source's own."""

    source: str
    name: str | None = None
    cross_documents: bool = False
    validation_windows: int | None = 64
    max_documents: int | None = None
    max_tokens: int | None = None

    def __post_init__(self):
        windows = self.validation_windows
        _check(windows is None or windows >= 1, "data.validation_windows", windows, "must be at least 1, or null")
        for name in ("max_documents", "max_tokens"):
            cap = getattr(self, name)
            problem = "leaves nothing to learn from: give 2 or more, or null for no cap"
            _check(cap is None or cap >= 2, f"data.{name}", cap, problem)


@dataclass
class TaskSettings:
    """The keys of conf/data that all tasks have; the others are the source's own."""

    source: str
    name: str
    examples: int
    validation_windows: int

    def __post_init__(self):
        for name in ("examples", "validation_windows"):
            _check(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "must be at least 1")


@dataclass
class CompareSettings:
    """conf/compare: how the encodings of a sweep are compared."""

    reference: str | None
    level: float

    def __post_init__(self):
        _check(0 < self.level < 1, "compare.level", self.level, "must lie in (0, 1), such as 0.95")


@dataclass
class TrainerSettings:
    """conf/trainer: devices, precision, compilation."""

    name: str
    accelerator: str
    devices: int
    strategy: str
    num_nodes: int
    precision: str
    compile: bool
    threads: int | None

    def __post_init__(self):
        for name in ("devices", "num_nodes", "threads"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"trainer.{name}", value, "must be at least 1")
        _check(
            not self.precision.startswith("16"),  # its gradients are scaled, and clipped before they are scaled back
            "trainer.precision",
            self.precision,
            "float16 is not supported; use bf16-mixed or 32-true",
        )
        _check_among("trainer.precision", self.precision, PRECISIONS)


@dataclass
class LoggerSettings:
    """conf/logger: W&B, or nothing beside the files."""

    name: str
    project: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class TuningSettings:
    """`tuning` in conf/experiment/fair.yaml: the grid of learning rates, and the seed of their trials."""

    lr: list[float]
    seed: int

    def __post_init__(self):
        _check(
            bool(self.lr) and all(0 < rate < math.inf for rate in self.lr),
            "tuning.lr",
            self.lr,
            "must be a list of learning rates, such as [1e-3, 3e-3]",
        )


@dataclass
class Settings:
    """conf/train.yaml: the whole of a run. encoding, data and tokenizer have settings of their own, which the classes
    that they name hold against their signatures."""

    encoding: Any
    model: ModelSettings
    data: Any
    tokenizer: Any
    eval: EvaluationSettings
    compare: CompareSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    seed: int
    context: int
    training: TrainingSettings
    tuning: Any  # TuningSettings or None: OmegaConf can't assign to a group that is null
    sweep: str | None
    runs: str
    run_id: str
    cache_dir: str
    num_workers: int

    def __post_init__(self):
        _check(self.seed >= 0, "seed", self.seed, "must not be negative")
        _check(self.num_workers >= 0, "num_workers", self.num_workers, "must not be negative")
        _check(self.context >= 2, "context", self.context, "must be at least 2 tokens")
        if self.tuning is not None and not isinstance(self.tuning, TuningSettings):
            self.tuning = typed(TuningSettings, self.tuning, "tuning")
        check_names(self.run_id, self.sweep)
        shares = self.shares
        _check(
            self.training.batch_size % shares == 0,
            "training.batch_size",
            self.training.batch_size,
            f"can't be shared by {shares} (accumulate x devices x nodes): choose a multiple of it",
        )
        self.eval.context_lengths(self.context)
        if self.eval.probes:
            self.eval.span(self.context)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.training.steps(self.context)

    @property
    def shares(self) -> int:
        """Parts that an optimizer step's windows are divided into: micro-batches x devices x nodes."""
        return self.training.accumulate * self.trainer.devices * self.trainer.num_nodes


@dataclass
class ScoringSettings:
    """conf/eval.yaml: a finished run, scored again."""

    eval: EvaluationSettings
    run: str | None
    cache_dir: str | None
    num_workers: int | None
    extension: Any = None


def check_names(run_id: str, sweep: str | None) -> None:
    """Raises ValueError where the name of a run or a sweep would lead out of the runs' folder."""
    for key, name in (("run_id", run_id), ("sweep", sweep or "")):
        parts = PurePath(name).parts
        within = ".." not in parts and not PurePath(name).is_absolute() and (key == "sweep" or len(parts) == 1)
        _check(within, key, repr(name), "must stay within the runs' folder; choose a plain name")


def typed(cls: type, values: Any, name: str = "") -> Any:
    """The object of a class of this file with these plain values, such as a run's config.json: nothing in them is
    resolved.

    Raises ValueError, naming the setting, for a wrong key, a wrong type or a value that can't be.
    """
    if "${" in json.dumps(values, default=str):
        raise ValueError(f"{name or 'the settings'}: an interpolation, ${{...}}, among values that are read back")
    _check(isinstance(values, Mapping), name or "the settings", values, "must be a group of settings")
    with _naming_settings(name):
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), values))


def composed_settings(config: DictConfig, cls: type = Settings) -> Any:
    """The settings, of this class, that Hydra has composed for a command.

    Raises ValueError, naming the setting, for a value that is missing or can't be, and for a key that was added by "+"
    where there is no such setting, which Hydra lets pass.
    """
    with _naming_settings():
        values = OmegaConf.to_container(config, resolve=True)
    return typed(cls, values)


@contextmanager
def _naming_settings(group: str = "") -> Iterator[None]:
    """Turns OmegaConf's errors into ValueErrors that name the setting. group: that it is a config of."""
    try:
        yield
    except OmegaConfBaseException as error:
        key = ".".join(part for part in (group, error.full_key) if part)
        problem = "needs a value" if isinstance(error, MissingMandatoryValue) else str(error).splitlines()[0]
        raise ValueError(f"{key}: {problem}") from None


def split(cls: type, values: Mapping[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    """`typed` of those values that the class has, and the others. name: of the group that the values stand in."""
    own = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
    return typed(cls, own, name), {key: value for key, value in values.items() if key not in own}


def plain(settings: Any) -> Any:
    """Settings as dicts, lists and plain values."""
    return asdict(settings)


def register() -> None:
    """Makes the schema known to Hydra, whose defaults lists name it."""
    ConfigStore.instance().store("schema", Settings)
    ConfigStore.instance().store("scoring", ScoringSettings)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(holds: bool, name: str, value: Any, problem: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value}: {problem}")


def _check_among(name: str, value: str, known: Any) -> None:
    *others, last = known
    _check(value in known, name, repr(value), f"must be {', '.join(others)} or {last}")
