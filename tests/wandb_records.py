"""What W&B's offline records hold, read by its own tool."""

import json
import subprocess
import sys
from pathlib import Path


def records(folder: Path) -> dict[str, list]:
    """What an offline run holds, by `wandb leet inspect`: records by their type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180).stdout.splitlines()
    found: dict[str, list] = {}
    for record in map(json.loads, lines):
        found.setdefault(record["type"], []).append(record[record["type"]])
    return found


def history(folder: Path) -> list[dict]:
    """What was logged, entry by entry, without W&B's own fields."""
    entries = [record["item"] for record in records(folder)["history"]]
    return [{name: value for name, value in entry.items() if name[0] != "_"} for entry in entries]


def summary(folder: Path) -> dict:
    """The run's single values at its end."""
    return {k: v for record in records(folder)["summary"] for k, v in record.get("update", {}).items() if k[0] != "_"}


def offline_runs(runs: Path, name: str = "") -> list[Path]:
    """The folders of offline records whose ids begin with a name, oldest first."""
    return sorted((runs / "wandb").glob(f"offline-run-????????_??????-{name}*"))
