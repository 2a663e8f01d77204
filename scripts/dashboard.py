"""A saved view of all runs for W&B's web page: perplexity by context length, training and cost, grouped by encoding.

    python -m scripts.dashboard [--project trainshort] [--entity NAME] [--out dashboard.json]

Saved when logged in and W&B answers; otherwise written as a file, with what would have been saved. Offline, `make
dashboard` shows the same curves in the terminal, the headline's first; ctrl+a y lays all runs over each other. With a
picture: docs/wandb.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.mistakes import one_sentence
from conf.schema import CONF
from eval.record.files import write_atomic
from eval.record.tracking import CONTEXT_LENGTH, CURVE, ENCODING, POSITION, TOKENS, TRAIN, choose_mode, metric
from scripts.command import end_with

NAME = "Train short, test long"
EVAL_PROTOCOLS = {
    "fixed_targets": "the same target tokens at every length",
    "non_overlapping": "all tokens of windows",
    "sliding": "a sliding window",
}
COST = {"tokens_per_second": "training tokens/s", "peak_memory": "peak memory, bytes", "seconds": "training, s"}


def build_workspace(entity: str, project: str):
    """The view, a `wandb_workspaces.workspaces.Workspace`. Raises ValueError where that package is missing."""
    try:
        import wandb_workspaces.expr as expr
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise ValueError("wandb-workspaces is missing: pip install -e '.[dashboard]'") from None

    encoding = wr.Config(ENCODING)

    def line(title: str, x: str, y: str, title_x: str, **more: Any) -> wr.LinePlot:
        spread = {"groupby": encoding, "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        return wr.LinePlot(title=title, x=x, y=[y], title_x=title_x, **spread, **more)

    tokens = "tokens trained on"
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(
                name="Perplexity by context length",
                panels=[
                    *(
                        line(
                            f"Perplexity: {what}",
                            CONTEXT_LENGTH,
                            metric(protocol, "perplexity"),
                            "context length, tokens",
                            log_x=True,
                            log_y=True,
                        )
                        for protocol, what in EVAL_PROTOCOLS.items()
                    ),
                    line("Loss by position, nats", POSITION, metric("positions", "nats"), "position, tokens"),
                ],
                is_open=True,
            ),
            ws.Section(
                name="Training",
                panels=[
                    line("Training loss, nats", TOKENS, CURVE["loss"], tokens),
                    line("Validation loss, nats", TOKENS, CURVE["val_loss"], tokens),
                    line("Learning rate", TOKENS, CURVE["lr"], tokens),
                    line("Speed, tokens/s", TOKENS, CURVE["tokens_per_second"], tokens),
                ],
                is_open=True,
            ),
            ws.Section(
                name="Cost",
                panels=[wr.BarPlot(title=title, metrics=[name], groupby=encoding) for name, title in COST.items()],
                is_open=True,
            ),
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(filters=[expr.Metric("JobType") == TRAIN], groupby=[expr.Config(ENCODING)]),
    )


def as_json(workspace) -> dict[str, Any]:
    """What would be saved, as W&B's web page has it."""
    return json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))


def default_project() -> str:
    """The project that runs log to."""
    from omegaconf import OmegaConf

    return OmegaConf.load(CONF / "logger" / "auto.yaml").project


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.dashboard", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--project", default=default_project(), help="W&B's project (%(default)s)")
    parser.add_argument("--entity", help="W&B's user or team (your own)")
    parser.add_argument("--out", default="dashboard.json", help="file that is written when not logged in (%(default)s)")
    options = parser.parse_args(arguments)
    mode, reason = choose_mode()
    if mode == "online":
        import wandb

        try:
            workspace = build_workspace(options.entity or wandb.Api().default_entity, options.project)
            print(workspace.save().url)
            return 0
        except Exception as error:  # W&B has many
            mode, reason = "not saved", one_sentence(error)
    workspace = build_workspace(options.entity or "you", options.project)
    write_atomic(Path(options.out), (json.dumps(as_json(workspace), indent=1) + "\n").encode())
    print(f"W&B: {mode} ({reason}): what would be saved stands in {options.out}; make dashboard shows the curves here")
    return 0


if __name__ == "__main__":
    end_with(main)
