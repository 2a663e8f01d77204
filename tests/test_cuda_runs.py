"""Whole trainings on a GPU beside the same on the CPU, in float32: what only shows when the parts work together.

python -m pytest tests/test_cuda_runs.py -m gpu -n 8
"""

import copy
import warnings

import pytest
import torch

from eval.record.folder import RunFolder
from model.attention import SINKS, attention
from model.catalogue import encoding_config
from model.encodings import Shape
from tests import laws
from tests.test_growing import curve
from train import train

pytestmark = pytest.mark.gpu

SMALL = ["experiment=smoke", "training.tokens=20480", "training.log_every=2", "trainer.precision=32-true"]
SETTINGS = {
    "plain": [],
    "all options of a block": [
        "model.qk_norm=true",
        "model.sink=true",
        "model.output_gate=head",
        "model.token_shift=kv",
    ],
    "canon": ["model.token_shift=canon", "model.output_gate=element"],
    "windows": ["encoding=rnope_swa", "model.num_layers=4"],
    "windows and sinks": ["encoding=gpt_oss", "model.num_layers=4", "model.sink=true"],
    "a growing context": ["training.context_schedule.kind=skyladder"],
    "a growing context of pieces": ["encoding=t5", "training.context_schedule.kind=warmup"],
    "an accumulated batch": ["encoding=fox", "training.accumulate=2"],
    "drawn positions": ["encoding=randomized"],
    "a long context": ["encoding=t5", "context=512", "training.batch_size=8"],
    "a long context, folded": ["encoding=alibi", "context=512", "training.batch_size=8"],
    "a task": ["data=recall"],
    "a mix": ["data=mix"],
    "retrieval and probes": ["encoding=fire", "eval.retrieval=[span,pair]", "eval.probes=[attention,bias]"],
    "extensions": ["eval.extensions=[yarn,dynamic_ntk,rerope,self_extend,window,logn]"],
}
STAGES = {
    "longer": ["extension=yarn"],
    "drawn positions": ["extension=pose", "extension.length=256"],
    "the parent's schedule": [
        "extension=random_positions",
        "extension.length=128",
        "init_at=0.5",
        "training.schedule_from=parent",
    ],
    "without positions": ["extension=drop", "training.optimizer_from=parent"],
}
CLOSE = 5e-3  # what twenty to forty steps in float32 leave of the order of sums


def assert_same_on_both(composed, tmp_path, *given, parents=None):
    """The run on the CPU and on the GPU; none of its steps said that it couldn't be recorded."""
    folders = []
    for device in ("cpu", "gpu"):
        where = [f"runs={tmp_path / device}", f"trainer.accelerator={device}"]
        stage = [f"init={parents[device].path}"] if parents else []
        settings = composed(*stage, *given, *where)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*can't be recorded.*")
            train(settings)
        folders.append(RunFolder.of(settings))
    expected, found = folders
    assert found.results["machine"]["device"] != expected.results["machine"]["device"]
    assert curve(found, "loss") == pytest.approx(curve(expected, "loss"), rel=CLOSE)
    assert len(found.results["rows"]) == len(expected.results["rows"])
    for ours, theirs in zip(found.results["rows"], expected.results["rows"], strict=True):
        place = {key: value for key, value in theirs.items() if key in ("protocol", "extension", "context_length")}
        assert ours["nats"] == pytest.approx(theirs["nats"], rel=2 * CLOSE), place
    return dict(zip(("cpu", "gpu"), folders, strict=True))


@pytest.mark.parametrize("case", SETTINGS)
def test_a_run_is_that_on_the_cpu(composed, tmp_path, case):
    assert_same_on_both(composed, tmp_path, *SMALL, *SETTINGS[case])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("parents")


@pytest.mark.parametrize("case", STAGES)
def test_a_stage_is_that_on_the_cpu(composed, tmp_path, runs, case):
    parents = assert_same_on_both(composed, runs, *SMALL, "training.keep=[0.5]")
    more = ["context=64", "training.tokens=10240"] if "init_at=0.5" not in STAGES[case] else []
    assert_same_on_both(composed, tmp_path, *STAGES[case], *more, parents=parents)


def test_a_compiled_run_is_the_run(composed, tmp_path):
    folders = []
    for compiled in (False, True):
        settings = composed(*SMALL, f"trainer.compile={compiled}", f"runs={tmp_path / str(compiled)}")
        train(settings)
        folders.append(RunFolder.of(settings))
    assert curve(folders[1], "loss") == pytest.approx(curve(folders[0], "loss"), rel=CLOSE)


SHAPE = Shape(dim=192, num_heads=6, num_layers=4, context=256, separators=laws.SEPARATORS)


@pytest.mark.parametrize("executor", [executor for executor in SINKS if executor not in ("dense", "blocked")])
@pytest.mark.parametrize("name", ["none", "rope", "alibi", "t5", "fox", "window", "gpt_oss", "rnope_swa"])
def test_a_sink_is_that_on_the_cpu(name, executor):
    """With its gradient, where scores are bent and where a window hides keys."""
    torch.compiler.reset()
    exact = laws.rig(laws.of_config(encoding_config(name)), SHAPE)
    content = laws.Content.random(SHAPE, laws.length_for(exact, 300))
    for layer in range(exact.shape.num_layers):
        if executor == "fused" and laws.hooks(exact, content, layer)[2] is not None:
            continue
        results = []
        for device, dtype, way in (("cpu", torch.float64, "dense"), ("cuda", torch.float32, executor)):
            encoding = copy.deepcopy(exact).to(device, dtype)
            given = content.to(dtype).to(device).map(lambda t: t.detach().requires_grad_())
            sink = torch.linspace(-1, 2, SHAPE.num_heads, dtype=dtype, device=device, requires_grad=True)
            positions = encoding.positions(given.tokens)
            out = attention(given.q, given.k, given.v, encoding, positions, given.x, layer, executor=way, sink=sink)
            results.append([out, *torch.autograd.grad(out.square().sum(), [given.q, given.k, given.v, sink])])
        for index, (theirs, own) in enumerate(zip(*results, strict=True)):
            laws.assert_same(own.double().cpu(), theirs, f"layer {layer}, {index}", 1e-2 if index else 1e-3)
