"""The settings of a run, typed: Hydra composes the yaml files of this folder against them, and refuses a wrong key or
type by its full name. The yaml files hold the values and say what they mean; what can't be is refused here, when the
object is made, by a ValueError that names the setting. Light to import: nothing but Hydra.
"""

import importlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from conf.signature import is_number
from conf.typed import Checked, digest, split, typed

CONF = Path(__file__).parent
ROOT = CONF.parent

GROWING = 0.6  # share of the steps in which a context grows, where it does (SkyLadder's)
GROWTH = 8  # tokens by which a context grows at once: few widths, multiples of what kernels like
LONGEST_NAME, LONGEST_PATH = 255, 3000  # bytes; Linux takes 255 and 4095
SEEDS = 2**63  # so many there are: torch takes 64 bits with a sign
SCHEDULES = ("cosine", "linear", "constant")
SPLITS = ("validation", "test")  # held out
CONTROLS = ("unigram", "bigram")  # n-grams of order 1, 2
NEEDLES = ("span", "pair")  # see eval/measure/retrieval.py
CONTEXT_SCHEDULES = ("skyladder", "warmup")
STRATEGIES = ("auto", "ddp", "fsdp")
BLOCK_OPTIONS = ("qk_norm", "sink", "output_gate", "token_shift")  # of `model`: see model.block.BlockOptions
PRECISIONS = ("auto", "32", "32-true", "bf16", "bf16-mixed", "bf16-true", "64", "64-true")


def options(group: str) -> list[str]:
    """What can be chosen of a group, sorted: the names of its yaml files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def fewest_layers(encoding: Mapping[str, Any]) -> int:
    """Layers that a model must have for the settings of an encoding: those of its pattern, where layers differ."""
    return len(encoding.get("pattern", [None]))


def modules(folder: str) -> list[str]:
    """What there is of a kind that is a Python file each, sorted: the modules of a folder such as data/sources."""
    return sorted(path.stem for path in (ROOT / folder).glob("[!_]*.py"))


def member(folder: str, module: str, name: str) -> Any:
    """What every module of such a folder has by one name. Raises ValueError where this one lacks it."""
    found = importlib.import_module(f"{folder.replace('/', '.')}.{module}")
    if not hasattr(found, name):
        raise ValueError(f"{folder}/{module}.py has no {name}, which all modules there must have: define it")
    return getattr(found, name)


PROBES = modules("eval/measure/probes")


@dataclass
class ModelSettings(Checked):
    """conf/model: the sizes of the transformer and the options of its blocks, which check them themselves."""

    name: str
    dim: int
    num_layers: int
    num_heads: int
    mlp: str
    mlp_ratio: float
    dropout: float
    qk_norm: bool = False
    sink: bool = False
    output_gate: str | None = None
    token_shift: str | None = None

    group = "model"

    def __post_init__(self):
        check_label("model", self.name)
        self.check_each("mlp_ratio dropout", math.isfinite, "must be finite")

    @property
    def options(self) -> dict[str, str]:
        """The options of its blocks that are on, each with how it is named: "sink", "output_gate=head"."""
        given = {name: getattr(self, name) for name in BLOCK_OPTIONS}
        return {name: name if value is True else f"{name}={value}" for name, value in given.items() if value}


@dataclass
class ContextSchedule(Checked):
    """`training.context_schedule`: a context that grows while a run trains, on full windows and so as many tokens a
    step; kind is None where it doesn't.

    skyladder: attention stays within blocks of so many tokens, at the positions of the whole window (Zhu et al. 2025,
    "SkyLadder", https://arxiv.org/abs/2503.15450). warmup: windows are cut into pieces of so many tokens, whose
    positions start anew (Li et al. 2022, "The Stability-Efficiency Dilemma", https://arxiv.org/abs/2108.06084).
    """

    kind: str | None = None
    start: int | None = None
    share: float | None = None

    group = "training.context_schedule"

    def __post_init__(self):
        if self.kind is not None:
            self.check_among("kind", CONTEXT_SCHEDULES)
        self.check_each("start", lambda start: start >= 2, "must be at least 2 tokens, or null")
        self.check_each("share", lambda share: 0 < share <= 1, "a share of the run, must lie in (0, 1], or null")
        problem = f"says nothing without a kind: set {self.group}.kind={' or '.join(CONTEXT_SCHEDULES)}"
        self.check_each("start share", lambda value: self.kind is not None, problem)

    @property
    def growing(self) -> float:
        """The share of the steps in which the context grows."""
        return GROWING if self.share is None else self.share

    def first(self, context: int) -> int:
        """Tokens at the first step, for a training context of so many."""
        return max(2, context // 4) if self.start is None else self.start

    def width(self, step: int, steps: int, context: int) -> int:
        """Tokens of context at a step (0, 1, ...) of so many: from `first` on linearly, by whole GROWTH, and all of the
        context once the share of the steps is over. A function of these alone, so that a run that goes on meets what
        one that was never stopped does."""
        until, first = self.growing * steps, self.first(context)
        if self.kind is None or step >= until:
            return context
        return first + int((context - first) * step / until) // GROWTH * GROWTH


@dataclass
class TrainingSettings(Checked):
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
    keep: list[float] = field(default_factory=list)
    schedule_from: str | None = None
    optimizer_from: str | None = None
    context_schedule: ContextSchedule = field(default_factory=ContextSchedule)

    group = "training"

    def __post_init__(self):
        self.check_each("tokens batch_size accumulate log_every", lambda value: value >= 1, "must be at least 1")
        self.check_each("lr min_lr warmup weight_decay clip encoding_lr", math.isfinite, "must be finite")
        self.check("lr", self.lr > 0, "must be positive")
        self.check_each("weight_decay encoding_lr", lambda value: value >= 0, "must not be negative")
        self.check("clip", self.clip >= 0, "must not be negative; 0 does not clip")
        self.check_each("min_lr warmup", lambda share: 0 <= share <= 1, "a share, must lie in [0, 1]")
        shares = "validate_every checkpoint_every"
        self.check_each(shares, lambda share: 0 < share <= 1, "a share of the run, must lie in (0, 1]")
        two = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        self.check("betas", two, "must be two numbers in [0, 1)")
        self.check_among("schedule", SCHEDULES)
        self.check("keep", all(0 < share <= 1 for share in self.keep), "must be shares of the run, in (0, 1]")
        self.check_each("schedule_from optimizer_from", lambda source: source == "parent", "must be parent, or null")
        divides = self.batch_size % self.accumulate == 0
        problem = f"is not divisible by training.accumulate={self.accumulate}: choose a multiple of it"
        self.check("batch_size", divides, problem)

    def steps(self, context: int) -> int:
        """Optimizer steps: the tokens over those of a step, rounded up. context: tokens a window."""
        return math.ceil(self.tokens / (self.batch_size * context))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step of so many, as a share of `lr`: linear warm-up, then decay to `min_lr`."""
        warmup = max(1, round(self.warmup * steps))
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        decayed = (1 + math.cos(math.pi * done)) / 2 if self.schedule == "cosine" else 1 - done
        return self.min_lr + (1 - self.min_lr) * decayed


@dataclass
class ProbeSettings(Checked):
    """`eval.probe`: windows of every probe and of retrieval, and retrieval's span (tokens)."""

    windows: int
    longest: Any  # a number or None: floats would name whole multiples anew
    span: int | None

    group = "eval.probe"

    def __post_init__(self):
        self.check_each("longest", is_number, "must be a number, or null")


@dataclass
class EvaluationSettings(Checked):
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
    retrieval: list[str] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)

    group = "eval"

    def __post_init__(self):
        self.check_among("split", SPLITS)
        self.check_among("precision", ("32", "bf16"))
        counts = "targets windows tokens stride batch_tokens"
        self.check_each(counts, lambda value: value >= 1, "must be at least 1")
        self.check("lengths", all(map(is_number, self.lengths)), "must be finite numbers, such as [1, 2.5]")
        self.check_among("protocols", modules("eval/measure/protocols"))
        self.check_among("probes", PROBES)
        self.check_among("controls", CONTROLS)
        self.check_among("extensions", [*options("extension"), "all"])
        for name, changed in self.extension_settings.items():
            self.check(
                "extension_settings", name in options("extension"), "conf/extension has no such file", repr(name)
            )
            self.check("extension_settings", isinstance(changed, dict), "must be settings by name", {name: changed})
        self.check_among("retrieval", NEEDLES)
        self.check("depths", all(0 <= depth <= 1 for depth in self.depths), "must be shares of the window, in [0, 1]")
        self.check("depths", bool(self.depths or not self.retrieval), "give depths, or set 'eval.retrieval=[]'")
        if self.probes or self.retrieval:
            self.probe.check("windows", self.probe.windows >= 2, "must be at least 2")

    def context_lengths(self, context: int) -> list[int]:
        """The lengths to score, in tokens, ascending, for a training context of so many."""
        lengths = sorted({round(multiple * context) for multiple in self.lengths})
        problem = f"give multiples of the training context {context} that come to at least 2 tokens"
        self.check("lengths", bool(lengths) and lengths[0] >= 2, problem)
        return lengths

    def targets_key(self, context: int) -> str:
        """What chooses the targets, and in which precision they are scored, as a hash: rows of one key stand on the
        same ones, whatever else is asked for."""
        lengths = self.context_lengths(context)
        chosen = [self.split, self.targets, self.windows, self.tokens, self.stride, self.cross_documents]
        chosen += [min(self.targets, lengths[0]), lengths[-1], self.precision]
        return digest(chosen)[:8]

    def probe_lengths(self, context: int) -> list[int]:
        """Those of `context_lengths` at which probes run, and retrieval is measured."""
        longest, lengths = self.probe.longest, self.context_lengths(context)
        chosen = [length for length in lengths if longest is None or length <= longest * context]
        problem = (
            f"the context lengths of eval.lengths, {lengths} tokens, are all longer; raise it, or set "
            "'eval.probes=[]' and 'eval.retrieval=[]'"
        )
        self.probe.check("longest", bool(chosen), problem)
        return chosen

    def span(self, context: int) -> int:
        """Tokens of the span that is looked for: it must fit twice into the shortest length."""
        shortest = self.probe_lengths(context)[0]
        span = self.probe.span
        if span is None:
            span = max(2, min(context // 8, shortest // 2))
        problem = "needs at least 2 tokens (the first isn't scored), and to fit twice into the shortest context of "
        self.probe.check("span", 2 <= span <= shortest // 2, f"{problem}{shortest} tokens", span)
        return span


@dataclass
class CorpusSettings(Checked):
    """The keys of conf/data that all corpora of text have; the others are the source's own."""

    source: str
    name: str | None = None
    cross_documents: bool = False
    validation_windows: int | None = 64
    max_documents: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None

    group = "data"

    def __post_init__(self):
        self.check_each("validation_windows", lambda value: value >= 1, "must be at least 1, or null")
        problem = "leaves nothing to learn from: give 2 or more, or null for no cap"
        self.check_each("max_documents max_tokens", lambda cap: cap >= 2, problem)
        self.check_each("min_tokens", lambda least: least >= 1, "must be at least 1, or null")
        problem = "chooses documents, and data.cross_documents=true reads across them: leave one out"
        self.check("min_tokens", self.min_tokens is None or not self.cross_documents, problem)


@dataclass
class TaskSettings(Checked):
    """The keys of conf/data that all tasks have; the others are the source's own."""

    source: str
    name: str
    examples: int
    validation_windows: int

    group = "data"

    def __post_init__(self):
        self.check_each("examples validation_windows", lambda value: value >= 1, "must be at least 1")


@dataclass
class MixSettings(Checked):
    """The keys of conf/data/mix.yaml. settings: what comes of the others, the data settings of the "text" and of the
    "task"; a run's config.json is whole by them."""

    name: str
    share: float
    text: str
    task: str
    changed: dict[str, Any]
    settings: dict[str, Any]

    group = "data"

    def __post_init__(self):
        problem = "a share of the training windows, must lie in (0, 1); a task alone is data=TASK, a text data=TEXT"
        self.check("share", 0 < self.share < 1, problem)
        for part, cls in {"text": CorpusSettings, "task": TaskSettings}.items():
            own = _part(vars(self), part)
            others = own.get("name") != getattr(self, part) or own != {**own, **self.changed.get(part, {})}
            self.check(part, not others, "data.settings are those of another: leave them out, they come of the rest")
            with of_the_mix(part):
                split(cls, own, "data")


def is_mix(data: Mapping[str, Any]) -> bool:
    """Whether settings of `data` are those of conf/data/mix.yaml."""
    return {"text", "task", "share"} <= data.keys()


def corpus_of(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the text among those of `data`; None for a task."""
    return _part(data, "text") if is_mix(data) else None if "examples" in data else data


def task_of(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings of the task among those of `data`; None for a text."""
    return _part(data, "task") if is_mix(data) else data if "examples" in data else None


def _part(data: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    settings = data["settings"]
    if not (isinstance(settings, Mapping) and isinstance(settings.get(part), Mapping)):
        raise ValueError(
            f"data.settings={settings}: comes of the settings beside it: set data.text, data.task, "
            "or of their files +data.changed.task.KEY=VALUE"
        )
    return settings[part]


def mixed(*, _parent_: DictConfig) -> dict[str, Any]:
    """The `settings` of conf/data/mix.yaml, by what stands beside them. Raises ValueError, naming the setting."""
    changed = OmegaConf.to_container(OmegaConf.create({"given": _parent_.changed}))["given"]
    if not (
        isinstance(changed, dict)
        and changed.keys() <= {"text", "task"}
        and all(isinstance(own, dict) for own in changed.values())
    ):
        raise ValueError(
            f"data.changed={changed}: must be settings of the text and of the task: {{text: {{}}, task: {{}}}}"
        )
    found = {}
    for part, takes in {"text": corpus_of, "task": task_of}.items():
        name = _parent_[part]
        if name not in options("data") or name == "mix" or takes(_of_file(name)) is None:
            fitting = [each for each in options("data") if each != "mix" and takes(_of_file(each)) is not None]
            raise ValueError(f"data.{part}={name}: must be one of {', '.join(fitting)}")
        found[part] = {**_of_file(name), **changed.get(part, {})}
        for key, value in found[part].items():
            if value == "???":
                raise ValueError(f"data.changed.{part}.{key}: needs a value: +data.changed.{part}.{key}=VALUE")
    return found


def _of_file(name: str) -> dict[str, Any]:
    """The data settings of a file of conf/data."""
    file = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    return OmegaConf.to_container(file.get("data", file))


def as_of_the_mix(part: str, sentence: str) -> str:
    """A sentence on the settings of a part of data=mix, "text" or "task", in which they are named as a command sets
    them.

    >>> as_of_the_mix("task", "data.pairs=0: at least 1")
    'data.changed.task.pairs=0: at least 1'
    """
    return re.sub(r"\bdata\.(?!changed\b)(?=\w)", f"data.changed.{part}.", sentence)


@contextmanager
def of_the_mix(part: str) -> Iterator[None]:
    """Inside, errors name settings by `as_of_the_mix`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(as_of_the_mix(part, str(error))) from None


@dataclass
class CompareSettings(Checked):
    """conf/compare: how the encodings of a sweep are compared."""

    reference: str | None
    level: float
    evaluator: str | None = None
    key_gain: float = 0.5
    key_loss: float = 2.0

    group = "compare"

    def __post_init__(self):
        self.check("level", 0 < self.level < 1, "must lie in (0, 1), such as 0.95")
        self.check_each("key_gain key_loss", lambda value: 0 < value < math.inf, "nats, must be above 0")
        check_paths(**{"compare.evaluator": self.evaluator})


@dataclass
class TrainerSettings(Checked):
    """conf/trainer: devices, precision, compilation."""

    name: str
    accelerator: str
    devices: int
    strategy: str
    num_nodes: int
    precision: str
    compile: bool
    threads: int | None

    group = "trainer"

    def __post_init__(self):
        check_label("trainer", self.name)
        self.check_each("devices num_nodes threads", lambda value: value >= 1, "must be at least 1")
        half = self.precision.startswith("16")  # its gradients are scaled, and clipped before they are scaled back
        self.check("precision", not half, "float16 is not supported; use bf16-mixed or 32-true")
        self.check_among("precision", PRECISIONS)
        self.check_among("strategy", STRATEGIES)
        self.check_among("accelerator", ("auto", "cpu", "gpu", "cuda"))


@dataclass
class LoggerSettings(Checked):
    """conf/logger: W&B, or none for files alone. None: W&B's default, or as conf/logger/auto.yaml says."""

    name: str
    project: str | None = None
    entity: str | None = None
    run_group: str | None = None
    display_name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    dir: str | None = None
    checkpoint: bool = False

    group = "logger"

    def __post_init__(self):
        plain = not set(self.project or "") & set("/\\#?%:") and len(self.project or "") <= 128
        check_label("logger", self.name)
        check_paths(**{"logger.dir": self.dir})
        self.check("project", plain, "W&B takes at most 128 characters, and none of / \\ # ? % :")
        self.check("tags", all(1 <= len(tag) <= 64 for tag in self.tags), "W&B takes tags of 1 to 64 characters")


@dataclass
class TuningSettings(Checked):
    """`tuning` in conf/experiment/fair.yaml: the grid of learning rates, and the seed of their trials."""

    lr: list[float]
    seed: int

    group = "tuning"

    def __post_init__(self):
        rates = bool(self.lr) and all(0 < rate < math.inf for rate in self.lr)
        self.check("lr", rates, "must be a list of learning rates, such as [1e-3, 3e-3]")
        self.check("seed", self.seed >= 0, "must not be negative")
        self.check("seed", self.seed < SEEDS, "must be below 2**63")


@dataclass
class StageSettings(Checked):
    """`stage`: what a second stage starts from, as eval/record/inherit.py finds it; nothing in it is set by hand.

    parent: the hash of the run whose weights it starts from; run: the name of that run's folder. step: the parent's
    optimizer steps after which it takes them; steps and tokens: those of all runs until then. schedule_step of
    schedule_steps: where the schedule of the parent's learning rate is then. contexts: those of all runs before, in
    tokens, the oldest first; trained_length: that which the parent was trained for. extended: the extensions that runs
    before were trained with, each with the lengths from which to which it stretched, [{"extension": {...}, "lengths":
    [128, 512]}]. extension: the own one with what it has chosen for itself by `tune`; None where it chooses nothing.
    """

    parent: str
    run: str
    step: int
    steps: int
    tokens: int
    schedule_step: int
    schedule_steps: int
    contexts: list[int]
    trained_length: int
    extended: list[Any] = field(default_factory=list)
    extension: Any = None

    group = "stage"


@dataclass
class ExtendSettings(Checked):
    """`extend` in conf/experiment/extend.yaml: a stage's context, as a multiple of its parent's, and its tokens, as a
    share of its parent's. context: the parent's, in tokens, of an arm from scratch that stages are held against."""

    stretch: float
    share: float
    context: int | None = None

    group = "extend"

    def __post_init__(self):
        self.check("stretch", 1 <= self.stretch < math.inf, "must be at least 1")
        self.check("share", 0 < self.share < math.inf, "must be positive")


@dataclass
class Settings(Checked):
    """conf/train.yaml: the whole of a run. encoding, data and tokenizer have settings of their own, which the classes
    that they name hold against their signatures."""

    encoding: dict[str, Any]
    model: ModelSettings
    data: dict[str, Any]
    tokenizer: dict[str, Any]
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
    force: bool
    init: str | None = None
    init_at: float = 1.0
    encoding_path: str | None = None
    extension: Any = None  # a group or None
    extend: Any = None  # ExtendSettings or None
    stage: Any = None  # StageSettings or None

    def __post_init__(self):
        self.check_each("seed num_workers", lambda value: value >= 0, "must not be negative")
        self.check("seed", self.seed < SEEDS, "must be below 2**63")
        self.check("context", self.context >= 2, "must be at least 2 tokens")
        schedule, name = self.training.context_schedule, self.data.get("name")
        too_long = (schedule.start or 0) > self.context
        schedule.check("start", not too_long, f"must be at most the context, {self.context} tokens")
        apart = schedule.kind is not None and task_of(self.data) is not None
        schedule.check("kind", not apart, f"would take the examples of data={name} apart: leave it out")
        if self.tuning is not None and not isinstance(self.tuning, TuningSettings):
            self.tuning = typed(TuningSettings, self.tuning, "tuning")
        if self.extend is not None and not isinstance(self.extend, ExtendSettings):
            self.extend = typed(ExtendSettings, self.extend, "extend")
        problem = (
            "can't be chosen by trials in experiment=extend, whose arms start from the parent's rate: leave it out"
        )
        self.check("tuning", not (self.extend and self.tuning), problem, "{...}")
        if self.stage is not None and not isinstance(self.stage, StageSettings):
            self.stage = typed(StageSettings, self.stage, "stage")
        self._check_stage()
        known = MixSettings if is_mix(self.data) else TaskSettings if "examples" in self.data else CorpusSettings
        split(known, self.data, "data")
        for group in ("encoding", "data", "tokenizer"):
            check_label(group, getattr(self, group).get("name"))
        check_paths(runs=self.runs, cache_dir=self.cache_dir, encoding_path=self.encoding_path)
        check_names(self.run_id, self.sweep)
        shared = f"{self.shares} (training.accumulate x trainer.devices x trainer.num_nodes)"
        problem = f"can't be shared by {shared}: choose a multiple of it"
        self.training.check("batch_size", self.training.batch_size % self.shares == 0, problem)
        alone = self.trainer.devices * self.trainer.num_nodes == 1  # others might begin with what the first throws away
        self.check("force", alone or not self.force, "a run on several devices can't; remove its folder instead")
        self.eval.context_lengths(self.first_context)
        if self.eval.probes:
            self.eval.span(self.first_context)

    def _check_stage(self) -> None:
        self.check("init_at", 0 < self.init_at <= 1, "a share of the parent's steps, must lie in (0, 1]")
        if self.stage is not None:
            return
        alone = "is for a second stage: give the run that it starts from too, init=RUN"
        if self.extension is not None:
            name = self.extension.get("name") if isinstance(self.extension, dict) else self.extension
            self.check("extension", False, f"{alone}; at test time, 'eval.extensions=[{name}]'", name)
        self.check("init_at", self.init_at == 1, alone)
        for name in ("schedule_from", "optimizer_from"):
            self.training.check(name, getattr(self.training, name) is None, alone)

    @property
    def contexts(self) -> list[int]:
        """The training contexts of all its stages, its own last, tokens."""
        return [*(self.stage.contexts if self.stage else ()), self.context]

    @property
    def first_context(self) -> int:
        """L: the context that the encoding derives its settings from and context lengths are multiples of, tokens: that
        of the first run, where this is a second stage."""
        return self.contexts[0]

    @property
    def trained_length(self) -> int:
        """The length that it is trained for, tokens: the context, or what its extension reaches from there (PoSE)."""
        return (self.extension or {}).get("length") or self.context

    @property
    def extended(self) -> list[dict[str, Any]]:
        """The extensions that it is trained with, the own one last, as `StageSettings.extended` has them."""
        own, stage = self.extension, self.stage
        if not own:
            return stage.extended if stage else []
        lengths = [stage.trained_length, self.trained_length]
        return [*stage.extended, {"extension": stage.extension or own, "lengths": lengths}]

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
    encoding_path: str | None = None
    extension: Any = None  # a group, or None: OmegaConf can't assign to a group that is null

    def __post_init__(self):
        if self.extension is not None and not isinstance(self.extension, dict):
            raise ValueError(f"extension={self.extension!r}: must be a group of settings; choose one by extension=NAME")
        check_paths(run=self.run, cache_dir=self.cache_dir, encoding_path=self.encoding_path)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers}: must not be negative")


def check_label(group: str, name: Any) -> None:
    """Raises ValueError where a group's option has no name, or none that can stand in a folder's name."""
    if name is None:
        raise ValueError(f"{group}.name: needs a value, as in the files of conf/{group}")
    if not (isinstance(name, str) and re.fullmatch(r"[\w.+-]{1,100}", name)):
        raise ValueError(f"{group}.name={name!r}: must be a word of at most 100 letters, digits, and . + - _")


def check_names(run_id: str, sweep: str | None) -> None:
    """Raises ValueError where the name of a run or a sweep would lead out of the runs' folder."""
    for key, name in {"run_id": run_id, "sweep": sweep}.items():
        if name is None:
            continue
        parts = PurePath(name).parts
        if ".." in parts or PurePath(name).is_absolute() or (key == "run_id" and len(parts) != 1):
            raise ValueError(f"{key}={name!r}: must stay within the runs' folder; choose a plain name")
        check_paths(**{key: name})


def check_paths(**paths: str | None) -> None:
    """Raises ValueError, naming the setting, for what no system takes as the name of a file or folder."""
    for key, path in paths.items():
        if path is not None and not (path.isprintable() and path.strip()):
            raise ValueError(f"{key}={path!r}: must be the name of a folder, in characters that can be printed")
        longest = max((len(part.encode()) for part in PurePath(path or "").parts), default=0)
        if longest > LONGEST_NAME or len((path or "").encode()) > LONGEST_PATH:
            raise ValueError(f"{key}={path[:32]}...: too long for a folder; use at most {LONGEST_NAME} bytes a name")


def register() -> None:
    """Makes the schema known to Hydra, whose defaults lists name it; `${groups:}`, for its help; `${mixed:}`, for
    conf/data/mix.yaml."""
    ConfigStore.instance().store("schema", Settings)
    ConfigStore.instance().store("scoring", ScoringSettings)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
    OmegaConf.register_new_resolver("mixed", mixed, replace=True)


def groups(file: str) -> str:
    """The groups that a file of this folder is composed of, a line each, with what can be chosen of them, be it in
    this folder or in one that the command adds."""
    chosen = [entry for entry in OmegaConf.load(CONF / file).defaults if isinstance(entry, DictConfig)]
    names = [name for entry in chosen for name in entry if not name.startswith("override ")]
    loader = GlobalHydra.instance().config_loader()
    return "".join(f"{name}: {', '.join(loader.get_group_options(name))}\n" for name in names)
