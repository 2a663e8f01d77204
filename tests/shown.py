"""A sweep with everything in it that a report can show, for the tests of the report and of its page."""

import math

from eval.compare.report import write_report
from tests.synthetic import CONTEXT, make_run

HOSTILE = "<img src=x onerror=alert(1)>\"'|&amp;</script>"


def line(loss, by=0.0):
    """A loss that grows by `by` nats with each doubling of the context."""
    return lambda length: loss + by * math.log2(length / CONTEXT)


def probes(gain):
    base = {"context_length": 64, "length_ratio": 2.0, "status": "ok"}
    attention = [
        {**base, "layer": layer, "attention_distance": gain / layer, "attention_entropy": gain} for layer in (1, 2)
    ]
    undefined = [{"context_length": 64, "length_ratio": 2.0, "status": "undefined", "reason": "adds nothing"}]
    return {"attention": attention, "bias": undefined, "novel": [{**base, "score": gain}]}


def make_sweep(path):
    """Its report is written, and one of its runs has failed."""
    for seed in (0, 1):
        rows = {"positions": True, "floor": True, "gain": lambda length, depth, extension: 3 * CONTEXT / length + depth}
        extended = {**rows, "extensions": {"yarn": -0.2}}
        make_run(path, "rope", seed, line(4.0, 0.1), results={"probes": probes(1.0)}, **extended)
        make_run(path, "alibi", seed, line(4.0, 0.0), results={"probes": probes(2.0)}, **rows)
        make_run(path, "sinusoidal", seed, line(4.2, 0.9), **rows)
        make_run(path, "learned", seed, lambda length: 4.1 if length == CONTEXT else None)
    make_run(path, "t5", 0, state="failed", error=f"no loss {HOSTILE}")
    assert write_report(path) == 1
    return path
