"""The bank: what every encoding of the catalogue comes to in the standard setting, kept in one file, so that one's own
can be put beside all of them without training them.

The standard setting is conf/experiment/standard.yaml; what may differ between its runs is FREE. For one seed all start
from the same weights of the backbone and see the same windows, so that a run made elsewhere later is paired with the
bank's by seed and window. eval/compare/bank_file.py keeps it; its entries become the same `Run`s as those of folders.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from conf.compose import composed_each
from conf.schema import ROOT, Settings, fewest_layers, options
from conf.source import source_hash
from conf.typed import plain
from eval.compare.bank_file import WINDOW, BankError, Contents, Entry, read_bank
from eval.compare.comparison import HEADLINE, Comparison, compare_runs
from eval.compare.runs import Run, differing, flatten, read_runs
from eval.compare.show import listed, show_length, show_percent, show_perplexity
from eval.measure.rows import row_key
from eval.record.folder import RunFolder
from eval.record.identity import NOT_IDENTITY, settings_of

VERSION = 1  # of the standard setting; another one has a bank of its own
BANK = ROOT / "results" / f"standard-v{VERSION}.parquet"
EXPERIMENT = "experiment=standard"
SEEDS = (0, 1, 2, 3, 4)  # with three, and so many comparisons, next to nothing is separable
EXTENDED = ("rope",)  # encodings that are scored under every extension
MACHINE = ("trainer.name", "trainer.accelerator", "trainer.threads")  # where a run is carried out
SCORED_MORE = (
    "eval.extensions",
    "eval.extension_settings",
    "eval.batch_tokens",
)  # what leaves the other rows as they are
FREE = (*NOT_IDENTITY, "training.keep", "encoding", "seed", *MACHINE, *SCORED_MORE)
KNOWN = "there already"
KEPT = ("schema", "run_id", "encoding", "seed", "context", "identity", "config_hash", "corpus", "corpus_hash")
KEPT += ("tokenizer_hash", "weights_hash", "commit", "machine", "versions", "parameters", "training", "evaluation")


@functools.cache
def standard() -> Settings:
    return settings_of(EXPERIMENT)


@functools.cache
def evaluation_key() -> str:
    return standard().eval.targets_key(standard().context)


@functools.cache
def catalogue() -> dict[str, dict[str, Any]]:
    """The settings, by name, of every encoding that the standard setting's model has layers enough for."""
    found = composed_each("encoding", options("encoding"))
    return {name: each for name, each in found.items() if fewest_layers(each) <= standard().model.num_layers}


def whole() -> int:
    """How many runs a bank without gaps holds."""
    return len(SEEDS) * len(catalogue())


def stated(settings: Settings) -> dict[str, Any]:
    """What makes a setting the standard one, flat."""
    free = tuple(f"{name}." for name in FREE)
    return {key: value for key, value in flatten(plain(settings)).items() if not f"{key}.".startswith(free)}


def departures(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """ "training.tokens is 60000, not 1500000", for each that differs."""
    return [f"{key} is {found.get(key)}, not {wanted.get(key)}" for key in differing([found, wanted])]


def open_bank(path: Path) -> Contents:
    """The bank of a file; an empty one where there is none. Raises BankError where it can't be read, or is of another
    version of the standard setting. A setting that is newer than the file is not held against it."""
    wanted = stated(standard())
    if not path.exists():
        return Contents(VERSION, wanted)
    contents = read_bank(path)
    if contents.version != VERSION:
        raise BankError(path, f"is of version {contents.version} of the standard setting, this program's is {VERSION}")
    if found := departures(contents.settings, {key: wanted.get(key) for key in contents.settings}):
        raise BankError(path, f"was made in another setting than {EXPERIMENT} is now ({found[0]})")
    return contents


def check_standard(run: RunFolder, settings: Settings) -> None:
    """Raises ValueError, naming the setting, where a run was trained in another one than the standard."""
    found, wanted = stated(settings), stated(standard())
    if differ := [each for each in departures(found, wanted) if not each.startswith("eval.")]:
        raise ValueError(
            f"{run.path} is no run of the standard setting: {'; '.join(differ)}: train it by {EXPERIMENT} "
            f"encoding={settings.encoding['name']} seed={settings.seed}"
        )


def check_scored(run: RunFolder, settings: Settings, results: Mapping[str, Any]) -> None:
    """Raises ValueError where results lack rows of the standard setting."""
    if results.get("evaluation") != evaluation_key():
        differ = departures(stated(settings), stated(standard())) or ["it was scored again with other settings"]
        differ = "; ".join(differ)
        raise ValueError(
            f"{run.path} was not scored in the standard setting: {differ}: give its command with {EXPERIMENT}"
        )
    evaluation, context = standard().eval, standard().context
    plain_rows = [row for row in results["rows"] if row["extension"] == "none" and "control" not in row]
    there = {(row.get("protocol"), row["context_length"]) for row in plain_rows}
    for length in evaluation.context_lengths(context):
        for protocol in evaluation.protocols:
            if (protocol, length) not in there:
                raise ValueError(
                    f"{run.path} has no row of {protocol} at {length} tokens: give its command with {EXPERIMENT}"
                )


def entry_of(run: RunFolder) -> tuple[Entry, Contents]:
    """The entry that a finished run of the catalogue becomes, and a bank of its floors alone.

    Raises ValueError, in a sentence, where it is none of the standard setting, or damaged.
    """
    settings = run.settings
    if not run.finished:
        raise ValueError(f"{run.path} is not finished ({run.status['state']}): give the run's own command again")
    check_standard(run, settings)
    run.check()
    results = run.shown_as(evaluation_key())
    check_scored(run, settings, results)
    _check_catalogue(run, settings, results)
    evaluation, lengths = standard().eval, standard().eval.context_lengths(standard().context)
    rows = [
        row
        for row in results["rows"]
        if row.get("protocol") in evaluation.protocols and row["context_length"] in lengths and "position" not in row
    ]
    own = [row for row in rows if "control" not in row]
    floors = [row for row in rows if "control" in row]
    kept = {name: results[name] for name in KEPT if name in results} | {"rows": own}
    entry = Entry(settings.encoding, settings.seed, run.status.get("time", ""), kept, _windows(run, own))
    return entry, Contents(VERSION, stated(standard()), (), floors, _windows(run, floors))


def _check_catalogue(run: RunFolder, settings: Settings, results: Mapping[str, Any]) -> None:
    """Raises ValueError where its encoding is not as the catalogue has it now."""
    name, beside = settings.encoding["name"], f"put it beside the bank: python -m scripts.bank compare {run.path}"
    if name not in catalogue():
        raise ValueError(f"{run.path}: conf/encoding has no {name}; {beside}")
    if differ := departures(flatten(settings.encoding), flatten(catalogue()[name])):
        raise ValueError(f"{run.path}: {name} is not as conf/encoding has it (encoding.{differ[0]}); {beside}")
    if results.get("identity", {}).get("source") != source_hash(catalogue()[name]):
        raise ValueError(f"{run.path} was trained with another source of {name} than is here: give its command again")


def _windows(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    windows = run.windows_of(rows)
    window = windows.groupby("key", sort=False).cumcount()
    return windows.assign(control=windows["control"].fillna("").astype(str), window=window)[WINDOW].reset_index(
        drop=True
    )


def add(contents: Contents, entry: Entry, floors: Contents, replacing: bool = False) -> tuple[Contents, str]:
    """The bank with one more run, and what became of it: "added", "renewed" (in the place of one that was stale),
    "extended" (by rows of the same weights), KNOWN, or KNOWN and why the one that is there is kept.

    replacing: whether it takes the place of one that was made elsewhere.
    Raises ValueError where it was trained or scored on other text.
    """
    here = {each.name: each for each in contents.entries if each.seed == entry.seed}.get(entry.name)
    _check_same_text(contents, entry)
    others = [each for each in contents.entries if each is not here]
    known = contents if contents.floors else replace(floors, entries=contents.entries)
    if here is None or here.key != entry.key:
        return replace(known, entries=[*others, entry]), "renewed" if here else "added"
    if here.results.get("weights_hash") == entry.results.get("weights_hash"):
        merged = _merged(here, entry)
        word = "extended" if len(merged.results["rows"]) > len(here.results["rows"]) else KNOWN
        return replace(known, entries=[*others, merged]), word
    if replacing:
        return replace(known, entries=[*others, entry]), "replaced"
    made = f"made on {made_on(here.results)}; this one on {made_on(entry.results)}"
    return contents, f"{KNOWN}, {made}: kept; replace=true takes this one instead"


def _check_same_text(contents: Contents, entry: Entry) -> None:
    for other in contents.entries:
        for name in ("corpus_hash", "tokenizer_hash"):
            if other.results[name] != entry.results[name]:
                raise ValueError(f"{entry.name}, seed {entry.seed}: its {name} is not the bank's: it saw another text")
        targets = {_place(row): row["targets_id"] for row in other.results["rows"] if "targets_id" in row}
        for row in entry.results["rows"]:
            if targets.get(_place(row), row.get("targets_id")) != row.get("targets_id"):
                raise ValueError(f"{entry.name}, seed {entry.seed}: it was scored on other tokens than the bank's")
        return  # all of the bank's have the same


def _place(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["protocol"], row["context_length"]


def _merged(old: Entry, new: Entry) -> Entry:
    """The rows of both, where both have one the new one's."""
    rows = {row_key(row): row for row in [*old.results["rows"], *new.results["rows"]]}
    again = {(*_place(row), row["extension"]) for row in new.results["rows"]}
    places = zip(*(old.windows[name] for name in ("protocol", "context_length", "extension")), strict=True)
    windows = pd.concat([old.windows[[place not in again for place in places]], new.windows], ignore_index=True)
    return replace(new, results=new.results | {"rows": list(rows.values())}, windows=windows)


def why_stale(entry: Entry) -> str | None:
    """What has changed of its encoding since the run was made."""
    if entry.name not in catalogue():
        return "the catalogue has it no more"
    if differ := differing([flatten(entry.encoding), flatten(catalogue()[entry.name])]):
        return f"its settings have changed ({', '.join(differ)})"
    if entry.results["identity"]["source"] != source_hash(catalogue()[entry.name]):
        return "its source has changed"
    return None


@dataclass(frozen=True)
class Gaps:
    """What a bank lacks. missing: (encoding, seed) without a run, or with one that is stale; stale: why, by encoding;
    unscored: (encoding, seed) of EXTENDED without all extensions as they are now."""

    missing: Sequence[tuple[str, int]]
    stale: Mapping[str, str]
    unscored: Sequence[tuple[str, int]] = field(default_factory=list)


def gaps(contents: Contents, seeds: Iterable[int] = SEEDS, encodings: Collection[str] = ()) -> Gaps:
    """encodings: those to look for; none: all. Raises ValueError for a name that the catalogue doesn't have."""
    if unknown := sorted({*encodings} - catalogue().keys()):
        raise ValueError(f"encodings={','.join(unknown)}: conf/encoding has no such file")
    known = [(entry, why_stale(entry)) for entry in contents.entries]
    stale = {entry.name: why for entry, why in known if why}
    good = {(entry.name, entry.seed): entry for entry, why in known if not why}
    wanted = [(name, seed) for seed in seeds for name in catalogue() if not encodings or name in encodings]
    extended = [(name, seed) for name, seed in wanted if name in EXTENDED]
    lacking = [each for each in extended if each not in good or not _all_extensions(good[each])]
    return Gaps([each for each in wanted if each not in good], stale, lacking)


@functools.cache
def _extensions() -> frozenset[tuple]:
    """What a row says of each extension that there is now."""
    from eval.measure.extended import extension_configs, extension_identity

    found = [
        (each, extension_identity(each)) for each in extension_configs(replace(standard().eval, extensions=["all"]))
    ]
    return frozenset(
        (config["name"], *map(own.get, ("extension_settings", "extension_source"))) for config, own in found
    )


def _all_extensions(entry: Entry) -> bool:
    names = ("extension", "extension_settings", "extension_source")
    return _extensions() <= {tuple(map(row.get, names)) for row in entry.results["rows"]}


def bank_runs(contents: Contents, path: Path, mark: str = "") -> list[Run]:
    """The bank's runs as those of folders. The floors stand with the first. mark: what their names end in."""
    runs = []
    for entry in contents.entries:
        name = entry.results["run_id"] + mark
        settings = replace(standard(), encoding=dict(entry.encoding), seed=entry.seed, run_id=entry.results["run_id"])
        flat = flatten(plain(settings)) | {"source": entry.results["identity"]["source"][:6]}
        known = {"folder": RunFolder(path / name), "label": entry.name, "state": "finished", "time": entry.time}
        first = not runs
        results = {**entry.results, "rows": [*entry.results["rows"], *(contents.floors if first else [])]}
        windows = pd.concat([entry.windows, contents.floor_windows]) if first else entry.windows
        frame = _as_folders_have(windows, results["evaluation"])
        runs.append(Run(**known, settings=settings, flat=flat, results=results, windows=frame))
    return runs


def _as_folders_have(windows: pd.DataFrame, evaluation: str) -> pd.DataFrame:
    """Windows as `RunFolder.windows` has them, as far as a comparison asks."""
    control = windows["control"].astype(object).where(windows["control"] != "")
    place = ["protocol", "extension", "context_length", "control"]
    each = windows[place].drop_duplicates().itertuples(index=False)
    keys = np.array([f"{evaluation}/{'/'.join(map(str, names)).removesuffix('/')}" for names in each], dtype=object)
    number = windows.groupby(place, sort=False).ngroup()  # in the order in which they appear
    return windows.assign(key=keys[number], control=control, position=float("nan"))


def bank_comparison(contents: Contents, path: Path) -> Comparison:
    """The comparison of all that the bank holds. Raises ValueError where that is nothing."""
    if not contents.entries:
        raise ValueError(f"{path} holds no run yet: python -m scripts.bank fill")
    comparison = compare_runs(path.with_suffix(""), bank_runs(contents, path))
    return replace(comparison, remarks=list(_bank_remarks(contents)))


def _bank_remarks(contents: Contents) -> Iterator[str]:
    found = gaps(contents)
    for name, why in found.stale.items():
        yield f"Stale: {name}, for {why} since its runs were made."
    if found.missing:
        yield f"{len(found.missing)} of {whole()} runs are not in the bank yet."
    if len(machines := Counter(made_on(entry.results) for entry in contents.entries)) > 1:
        yield f"Made on {listed(f'{machine} ({count})' for machine, count in machines.most_common())}."


def made_on(results: Mapping[str, Any]) -> str:
    """ "AMD EPYC, torch 2.13.0+cpu"."""
    machine = results.get("machine") or {}
    device = machine.get("device", "a device that is not recorded")
    device = machine.get("processor") or device if device == "cpu" else device
    return f"{device}, torch {(results.get('versions') or {}).get('torch', 'of an unknown version')}"


def beside(contents: Contents, bank: Path, path: Path, level: float | None = None) -> Comparison:
    """A run of one's own, or a sweep's, against the whole bank, paired by seed and window; the remarks say how each of
    them falls at each length, then how far this machine is from the bank's.

    Runs of an encoding as the bank has it are no rivals to it: they check the machine.
    Raises ValueError where they are not of the standard setting, or the bank is empty.
    """
    if not contents.entries:
        raise ValueError(f"{bank} holds no run yet to compare with: python -m scripts.bank fill")
    entries = {(entry.name, entry.seed): entry for entry in contents.entries}
    banked = bank_runs(contents, bank, mark=" (bank)")
    own, checks = [], []
    for run in read_runs(path, evaluation=evaluation_key()):
        if run.problem is None:
            check_standard(run.folder, run.settings)
            check_scored(run.folder, run.settings, run.results)
        same = [each for each in banked if run.settings and each.label == run.encoding]
        if run.problem is None and same and not _apart(run, same[0]):
            checks.append(run)
        else:
            own.append(replace(run, label=_own_label(run, same), results=_without_floors(run.results)))
    labels = list(dict.fromkeys(run.label for run in own if run.problem is None))
    place = path / "bank"
    comparison = compare_runs(
        place, [*banked, *own], reference=labels[0] if labels else None, level=level, against=labels
    )
    said = [sentence for label in labels for sentence in standing(comparison, label)]
    said += _machines(own, checks, contents) if own or checks else []
    said += [sentence for run in checks for sentence in _check(run, entries, contents)]
    return replace(comparison, remarks=said)


def _apart(run: Run, banked: Run) -> list[str]:
    """The settings of its encoding, or its source, in which a run differs from the bank's of the same name."""
    return differing([run.flat, banked.flat], ("encoding", "source"))


def _own_label(run: Run, same: Sequence[Run]) -> str:
    """What it is called by itself; where the bank has its encoding otherwise, by what differs, and else as being here:
    what becomes of it is not the bank's."""
    if not same:
        return run.label
    parts = [f"{key.removeprefix('encoding.')}={run.flat.get(key)}" for key in _apart(run, same[0])]
    return f"{run.encoding} ({', '.join(parts) or 'here'})"


def _without_floors(results: Mapping[str, Any]) -> dict[str, Any]:
    """The bank has them."""
    return {**results, "rows": [row for row in results["rows"] if "control" not in row]}


def standing(comparison: Comparison, label: str) -> Iterator[str]:
    """How a label falls against all others, a sentence a length, by the headline's protocol."""
    if comparison.objection:
        return
    rows = comparison.differences.query("reference == @label and extension == 'none' and protocol == @HEADLINE")
    for length in standard().eval.context_lengths(standard().context):
        here = rows[rows["context_length"] == length]
        at = f"At {show_length(length, standard().context)}"
        own = here[here["label"] == label]
        if own.empty:
            yield f"{at}, {label} has no figure."
            continue
        # `verdict` is of the other, with this one as the reference
        words = {"worse": "better than", "not separable": "not separable from", "better": "worse than"}
        found = {said: here["label"][here["verdict"] == verdict].tolist() for verdict, said in words.items()}
        parts = [f"{said} {listed(names)}" for said, names in found.items() if names]
        alone = here["label"][here["verdict"].isna() & (here["label"] != label)]
        parts += [f"without a seed in common with {listed(alone)}"] if len(alone) else []
        figure = show_perplexity(own["perplexity"].iloc[0])
        yield f"{at}, {label} ({figure}) is {'; '.join(parts) or 'alone'}."


def _machines(own: Sequence[Run], checks: Sequence[Run], contents: Contents) -> Iterator[str]:
    """Where the runs were made, unless all were made alike."""
    here = Counter(made_on(run.results) for run in [*own, *checks] if run.problem is None)
    there = Counter(made_on(entry.results) for entry in contents.entries)
    if {*here} == {*there} and len(there) == 1:
        return
    advice = "" if checks else "; what that alone does, a check run in the sweep shows: encoding=rope seed=0"
    banked = listed(f"{each} ({count} runs)" for each, count in there.most_common())
    yield f"Made on {listed(here)}; the bank's on {banked}{advice}."


def _check(run: Run, entries: Mapping[tuple[str, int], Entry], contents: Contents) -> Iterator[str]:
    """How far a run is from the bank's of the same encoding and seed at each length, beside how far the bank's seeds
    are from each other."""
    name = f"{run.encoding}, seed {run.seed}"
    if (entry := entries.get((run.encoding, run.seed))) is None:
        yield f"{name} is no check of this machine, for the bank has that encoding with other seeds."
        return
    if run.results.get("weights_hash") == entry.results.get("weights_hash"):
        yield f"Check run {name}: the weights are the bank's to the last bit."
        return
    here, there = _perplexities(run.results), _perplexities(entry.results)
    seeds = [_perplexities(each.results) for each in contents.entries if each.name == run.encoding]
    parts = []
    for length in sorted(here.keys() & there.keys()):
        change = show_percent(100 * (here[length] / there[length] - 1))
        spread = [each[length] for each in seeds if length in each]
        span = show_percent(100 * (max(spread) / min(spread) - 1)).lstrip("+")
        apart = f"; the bank's {len(spread)} seeds span {span}" * (len(spread) > 1)
        figures = f"{show_perplexity(here[length])} here, {show_perplexity(there[length])} in the bank"
        parts.append(f"at {show_length(length, standard().context)} {figures} ({change}{apart})")
    yield f"Check run {name}: {', '.join(parts)}."


def _perplexities(results: Mapping[str, Any]) -> dict[int, float]:
    """By length, of the headline's protocol."""
    return {
        row["context_length"]: row["perplexity"]
        for row in results["rows"]
        if row.get("protocol") == HEADLINE and row["extension"] == "none" and "control" not in row
        if row["status"] == "ok" and row["perplexity"] is not None
    }
