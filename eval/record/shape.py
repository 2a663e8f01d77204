"""What a run's files hold, as far as their readers go by it: each is held against it when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from eval.record.files import DamagedError, read_json

SCHEMA = 1
EXACT = with_config(ConfigDict(extra="allow", strict=True))  # no "1" for 1; what else stands there is no reader's


@EXACT
class Status(TypedDict):
    """status.json. run: the hash of the run that the status is of; scored: what it was scored by last."""

    state: Literal["running", "finished", "failed", "interrupted"]
    time: NotRequired[str]
    error: NotRequired[str]
    run: NotRequired[str]
    scored: NotRequired[str]
    diverged: NotRequired[bool]


@EXACT
class Place(TypedDict):
    """What every row says."""

    extension: str
    context_length: int
    length_ratio: float
    split: str


@EXACT
class NoFigures(Place):
    status: Literal["undefined", "diverged"]
    reason: str


@EXACT
class Figures(Place):
    """A row of perplexity."""

    protocol: str
    status: Literal["ok"]
    targets_id: str
    precision: str
    nats: float
    perplexity: float | None
    bits_per_byte: float | None
    tokens: int


@EXACT
class ExactMatch(Place):
    """A row of a task."""

    task: str
    length: int
    status: Literal["ok"]
    exact_match: float
    low: float
    high: float
    level: float
    token_accuracy: float
    examples: int


@EXACT
class Retrieved(Place):
    """A row of retrieval."""

    needle: str
    depth: float
    status: Literal["ok"]
    targets_id: str
    precision: str
    gain: float
    nats_without: float
    nats_found: float
    exact_match: float
    tokens: int
    windows: int


@EXACT
class NotRetrieved(NoFigures):
    needle: str
    depth: float
    targets_id: str


@EXACT
class Evaluation(TypedDict):
    """What is kept of one evaluation."""

    rows: list[Figures | NoFigures]
    retrieval: NotRequired[list[Retrieved | NotRetrieved]]
    probes: NotRequired[dict[str, list[dict[str, Any]]]]
    probe_settings: NotRequired[dict[str, dict[str, Any]]]
    tasks: NotRequired[list[ExactMatch | NoFigures]]


@EXACT
class Training(TypedDict):
    tokens: int
    steps: int
    seconds: float
    tokens_per_second: float | None
    loss: float | None
    val_loss: float | None
    peak_memory: float


@EXACT
class Parameters(TypedDict):
    total: int
    encoding: int


@EXACT
class Tuning(TypedDict):
    seed: int
    val_loss: dict[str, float | None]


@EXACT
class Results(Evaluation):
    """results.json, of a run that may not have been trained yet."""

    schema: Literal[1]
    identity: NotRequired[dict[str, str]]
    config_hash: NotRequired[str]
    evaluation: NotRequired[str]
    others: NotRequired[dict[str, Evaluation]]
    tuning: NotRequired[Tuning]


@EXACT
class Trained(Results):
    """results.json of a run that has been trained."""

    run_id: str
    encoding: str
    corpus_hash: str
    tokenizer_hash: str
    commit: str | None
    machine: dict[str, Any]
    versions: dict[str, Any]
    parameters: Parameters
    sees: NotRequired[list[int | None]]
    shifts: NotRequired[int]
    training: Training
    curve_hash: NotRequired[str]
    tokenizer_file: NotRequired[str]
    weights_hash: NotRequired[str]


SHAPES = {kind: TypeAdapter(kind) for kind in (Status, Results, Trained)}


def read_as(kind: type, path: Path) -> dict[str, Any]:
    """What a JSON file of this kind holds. Raises DamagedError where it is not whole, or of another shape."""
    content = read_json(path)
    kind = Trained if kind is Results and "training" in content else kind
    check(kind, content, path)
    return content


def check(kind: type, content: Mapping[str, Any], path: Path) -> None:
    """Raises DamagedError, naming the first field that is not as the kind has it."""
    try:
        SHAPES[kind].validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise DamagedError(path, f"is damaged ({place}: {first['msg']})") from None
