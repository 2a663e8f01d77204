"""The bank: what every encoding comes to in the standard setting, and one's own beside all of them.

    python -m scripts.bank                        what is in it, what is missing or stale, and the command that fills it
    python -m scripts.bank gather RUN|SWEEP       takes finished runs of the standard setting into it
    python -m scripts.bank fill                   trains what is missing, and gathers it
    python -m scripts.bank write                  docs/results/standard.md, the README's table and picture, the part of
                                                  docs/which.md, and a page with figures
    python -m scripts.bank compare RUN|SWEEP      one's own runs of the standard setting against the whole bank

Options, key=value: bank=FILE (results/standard-v1.parquet); seeds=0,1,2,3,4 and encodings=a,b (what is looked for, or
filled); gather: replace=true takes runs in the place of others of the same encoding and seed that were made elsewhere;
write: out=FILE, page=FILE, readme=FILE; compare: level=0.95. What else stands after fill goes to train.py: runs=DIR,
hydra/launcher=two_jobs, trainer.threads=1, logger=none. docs/bank.md has the rest.

Exit codes are those of a sweep: 3 where a run failed, or was refused.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conf.mistakes import one_sentence
from eval.record.jobs import SWEEP_FAILED
from scripts.command import end_with, number, rewritten

if TYPE_CHECKING:
    from eval.compare.bank import Gaps

USAGE = "usage: python -m scripts.bank [gather RUN|SWEEP | fill | write | compare RUN|SWEEP] [key=value ...]"
OPTIONS = {
    "status": ("bank", "seeds", "encodings"),
    "gather": ("bank", "replace"),
    "fill": ("bank", "seeds", "encodings"),
    "write": ("bank", "out", "page", "readme"),
    "compare": ("bank", "level"),
}
WITH_FOLDER = ("gather", "compare")
SWEEP = "standard"  # the folder of the runs that `fill` trains


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return 0
    does = "status"
    if arguments and arguments[0] in OPTIONS:
        does, *arguments = arguments
    options = {key: value for key, _, value in (each.partition("=") for each in arguments) if key in OPTIONS[does]}
    rest = [each for each in arguments if each.partition("=")[0] not in OPTIONS[does]]
    if len(rest) != 1 if does in WITH_FOLDER else does != "fill" and rest:
        raise ValueError(f"{USAGE}; not {' '.join(rest) or 'without a folder'}")
    from eval.compare.bank import BANK

    bank = Path(options.get("bank", BANK))
    match does:
        case "gather":
            return gather(bank, Path(rest[0]), options.get("replace") == "true")
        case "fill":
            return fill(bank, asked(options), rest)
        case "write":
            return write(bank, options)
        case "compare":
            return compare(bank, Path(rest[0]), options)
    return status(bank, asked(options))


def asked(options: Mapping[str, str]) -> dict[str, list]:
    """The seeds and encodings that a command names, as `gaps` takes them."""
    found: dict[str, list] = {}
    if "seeds" in options:
        found["seeds"] = [number("seeds", text, int) for text in options["seeds"].split(",")]
    if "encodings" in options:
        found["encodings"] = options["encodings"].split(",")
    return found


def status(bank: Path, wanted: Mapping[str, list]) -> int:
    from eval.compare.bank import SEEDS, catalogue, gaps, made_on, open_bank

    contents = open_bank(bank)
    found = gaps(contents, **wanted)
    here = wanted.get("encodings") or catalogue()
    seeds = wanted.get("seeds", SEEDS)
    size = f", {bank.stat().st_size / 1e6:.1f} MB" if bank.exists() else ", which is not there yet"
    whole = len(here) * len(seeds)
    print(
        f"{bank}: {whole - len(found.missing)} of {whole} runs ({len(here)} encodings, seeds "
        f"{', '.join(map(str, seeds))}){size}"
    )
    for machine in sorted({made_on(entry.results) for entry in contents.entries}):
        print(f"made on {machine}: {sum(made_on(entry.results) == machine for entry in contents.entries)} runs")
    for name, why in found.stale.items():
        print(f"stale: {name}, {why}")
    for seed in seeds:
        if names := [name for name, each in found.missing if each == seed]:
            print(f"missing with seed {seed}: {'all' if len(names) == len(here) else ', '.join(names)}")
    if bare := [f"{name} seed {seed}" for name, seed in found.unscored if (name, seed) not in found.missing]:
        print(f"not scored under every extension: {', '.join(bare)}")
    if not (found.missing or found.unscored):
        print("nothing is missing")
        return 0
    more = " ".join(f"{key}={','.join(map(str, values))}" for key, values in wanted.items())
    print(f"fill it: {' '.join(f'python -m scripts.bank fill {more}'.split())}")
    print("or elsewhere, and then python -m scripts.bank gather runs/standard:")
    for command in commands(found):
        print(f"  python train.py {shlex.join(command)}")
    return 0


def commands(found: Gaps) -> Iterator[list[str]]:
    """The arguments of train.py that fill the gaps: a sweep for all seeds that lack the same encodings, then one for
    those that lack extensions, which trains nothing that is there."""
    yield from _sweeps(found.missing)
    yield from ([*each, "eval.extensions=[all]"] for each in _sweeps(found.unscored))


def _sweeps(missing: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    from conf.schema import options
    from eval.compare.bank import EXPERIMENT, catalogue

    seeds: dict[tuple[str, ...], list[int]] = {}
    by_seed: dict[int, list[str]] = {}
    for name, seed in missing:
        by_seed.setdefault(seed, []).append(name)
    for seed, names in by_seed.items():
        seeds.setdefault(tuple(names), []).append(seed)
    for names, each in seeds.items():
        chosen, others = ",".join(names), sorted({*options("encoding")} - {*catalogue()})
        if len(names) == len(catalogue()) > len(others):
            chosen = f"glob(*,exclude=[{','.join(others)}])" if others else "glob(*)"
        yield ["-m", EXPERIMENT, f"encoding={chosen}", f"seed={','.join(map(str, each))}", f"sweep={SWEEP}"]


def gather(bank: Path, folder: Path, replacing: bool) -> int:
    from filelock import FileLock

    from eval.compare.bank import KNOWN, add, entry_of, open_bank
    from eval.compare.bank_file import write_bank
    from eval.record.folder import RunFolder

    if not (runs := RunFolder.all_in(folder)):
        raise ValueError(f"{folder} holds no run: give the folder of a run or of a sweep")
    bank.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{bank}.lock"):
        contents, refused, changed, known = open_bank(bank), 0, 0, 0
        for run in runs:
            try:
                contents, word = add(contents, *entry_of(run), replacing)
            except ValueError as error:
                refused += 1
                print(f"{run.name}: refused: {one_sentence(error)}", file=sys.stderr)
                continue
            changed += not word.startswith(KNOWN)
            known += word == KNOWN
            if word != KNOWN:
                print(f"{run.name}: {word}")
        if changed:
            write_bank(bank, contents)
    print(f"{bank}: {len(contents.entries)} runs{f'; {known} were there already' * (known > 0)}")
    return SWEEP_FAILED if refused else 0


def fill(bank: Path, wanted: Mapping[str, list], more: Sequence[str]) -> int:
    """Trains by the ordinary sweep, a command for each kind of gap, and gathers after each. 3 where gaps are left."""
    from conf.schema import ROOT
    from eval.compare.bank import gaps, open_bank

    found = gaps(open_bank(bank), **wanted)
    runs = next((each.partition("=")[2] for each in more if each.startswith("runs=")), "runs")
    for command in commands(found):
        print(f"--- python train.py {shlex.join([*command, *more])}", flush=True)
        code = subprocess.run([sys.executable, str(ROOT / "train.py"), *command, *more], check=False).returncode
        if code not in (0, SWEEP_FAILED):  # a mistake in the command, or a signal
            return code if code > 0 else 128 - code
        gather(bank, Path(runs) / SWEEP, replacing=False)
    left = gaps(open_bank(bank), **wanted)
    print(f"{bank}: {'runs are missing still' if left.missing or left.unscored else 'nothing is missing'}")
    return SWEEP_FAILED if left.missing or left.unscored else 0


def write(bank: Path, options: Mapping[str, str]) -> int:
    from conf.schema import ROOT
    from eval.compare.bank import bank_comparison, open_bank
    from eval.compare.literature import check
    from eval.compare.page import page
    from eval.compare.ranking import bank_markdown, ranked
    from eval.compare.readme import PICTURE, readme_part, readme_picture
    from eval.compare.which import WHICH, which_part
    from eval.record.files import write_atomic
    from model.catalogue import encoding_family

    contents = open_bank(bank)
    comparison = bank_comparison(contents, bank)
    rows, statements = ranked(comparison), check(comparison)
    families = {name: encoding_family(name) for name in comparison.encodings}
    digest = hashlib.sha256(bank.read_bytes()).hexdigest()
    readme = Path(options.get("readme", ROOT / "README.md"))
    which = readme.parent / WHICH
    markdown = Path(options.get("out", ROOT / "docs" / "results" / "standard.md"))
    files = {
        markdown: bank_markdown(comparison, contents, rows, statements),
        Path(options.get("page", bank.with_suffix(".html"))): page(comparison, statements),
        readme: rewritten(readme.read_text("utf-8"), "bank", readme_part(comparison, contents, rows, families, digest)),
        which: rewritten(which.read_text("utf-8"), "bank", which_part(comparison, rows, digest)),
        readme.parent / PICTURE: readme_picture(comparison, rows, digest),
    }
    for path, made in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, made if isinstance(made, bytes) else made.encode())
        print(path)
    return 0


def compare(bank: Path, folder: Path, options: Mapping[str, str]) -> int:
    from eval.compare.bank import beside, open_bank
    from eval.compare.report import print_comparison, write_files

    level = number("level", options["level"], float) if "level" in options else None
    comparison = beside(open_bank(bank), bank, folder, level)
    comparison.path.mkdir(exist_ok=True)
    write_files(comparison)
    print_comparison(comparison)
    return SWEEP_FAILED if comparison.left_out else 0


if __name__ == "__main__":
    end_with(main)
