"""The schema of the settings: what it refuses and by which name, what it reads back, what names a run.

python -m pytest tests/test_schema.py
"""

import os
import re
import resource
import subprocess
import sys

import pytest

from conf.schema import ROOT, Settings
from conf.typed import plain, typed
from eval.record.identity import settings_of

FAIR = "experiment=fair"
REFUSED = [  # the command, and what its refusal says
    *((f"training.{key}=0", f"training.{key}=0: must be at least 1") for key in ("tokens", "batch_size", "accumulate")),
    *((f"training.{key}=-1", f"training.{key}=-1") for key in ("tokens", "batch_size", "accumulate", "log_every")),
    ("training.log_every=0", "training.log_every=0"),
    ("data.max_tokens=1", "data.max_tokens=1: leaves nothing to learn from"),
    ("data.max_documents=2.5", "data.max_documents"),
    ("data.min_tokens=0", "data.min_tokens=0: must be at least 1"),
    ("data.min_tokens=9 data.cross_documents=true", "data.min_tokens=9: chooses documents"),
    ("training.context_schedule=skyladder", "training.context_schedule: must be a group of settings; give them one by"),
    ("training.context_schedule=null", "training.context_schedule=null: needs a value"),
    ("data=copy data.examples=0", "data.examples=0: must be at least 1"),
    ("trainer.accelerator=tpu", "trainer.accelerator='tpu': must be auto, cpu, gpu or cuda"),
    *(
        (f"training.{key}={value}", f"training.{key}={shown}: must be finite")
        for key in ("lr", "min_lr", "warmup", "weight_decay", "clip", "encoding_lr")
        for value, shown in (("inf", "inf"), ("-inf", "-inf"), ("nan", "nan"), ("1e400", "inf"))
    ),
    ("training.lr=0", "training.lr=0.0: must be positive"),
    ("training.lr=-1e-3", "training.lr=-0.001: must be positive"),
    ("training.weight_decay=-0.1", "training.weight_decay=-0.1: must not be negative"),
    ("training.encoding_lr=-1", "training.encoding_lr=-1.0: must not be negative"),
    ("training.clip=-1", "training.clip=-1.0: must not be negative"),
    ("training.min_lr=-0.1", "training.min_lr=-0.1: a share"),
    ("training.min_lr=1.1", "training.min_lr=1.1: a share"),
    ("training.warmup=-0.1", "training.warmup=-0.1: a share"),
    ("training.warmup=1.5", "training.warmup=1.5: a share"),
    *(
        (f"training.{key}={value}", f"training.{key}={float(value)}: a share of the run")
        for key in ("validate_every", "checkpoint_every")
        for value in ("0", "-0.5", "1.5", "nan", "inf")
    ),
    *(
        (f"training.betas={value}", "training.betas=")
        for value in ("[]", "[0.9]", "[0.9,0.95,0.99]", "[0.9,1]", "[-0.1,0.9]", "[nan,0.9]")
    ),
    ("training.schedule=step", "training.schedule='step': must be cosine, linear or constant"),
    ("training.schedule=''", "training.schedule=''"),
    ("training.accumulate=3", "training.batch_size=8: is not divisible by training.accumulate=3"),
    ("training.batch_size=6 training.accumulate=2 trainer.devices=2", "training.batch_size=6: can't be shared by 4"),
    ("training.batch_size=6 trainer.devices=2 trainer.num_nodes=2", "training.batch_size=6: can't be shared by 4"),
    ("eval.split=train", "eval.split='train': must be validation or test"),
    ("eval.split=valid", "eval.split='valid': must be validation or test"),
    ("eval.precision=16", "eval.precision='16': must be 32 or bf16"),
    ("eval.precision=bf16-mixed", "eval.precision='bf16-mixed'"),
    *(
        (f"eval.{key}={value}", f"eval.{key}={value}: must be at least 1")
        for key in ("targets", "windows", "tokens", "stride", "batch_tokens")
        for value in (0, -1)
    ),
    ("eval.protocols=[fixed]", "eval.protocols='fixed': must be among fixed_targets, non_overlapping, "),
    ("eval.protocols=[sliding,'']", "eval.protocols=''"),
    ("eval.probes=[bais]", "eval.probes='bais': must be among attention, bias"),
    ("eval.retrieval=[pear]", "eval.retrieval='pear': must be among span, pair"),
    ("eval.depths=[0.5,1.5]", "eval.depths=[0.5, 1.5]: must be shares of the window, in [0, 1]"),
    ("eval.depths=[]", "eval.depths=[]: give depths, or set 'eval.retrieval=[]'"),
    ("eval.controls=[trigram]", "eval.controls='trigram': must be among unigram, bigram"),
    ("eval.extensions=[yarm]", "eval.extensions='yarm': must be among abf, "),
    ("eval.extensions=[none,yarm]", "eval.extensions='yarm'"),
    ("+eval.extension_settings.yarm.tune=true", "eval.extension_settings='yarm'"),
    *(
        (f"eval.lengths={value}", "eval.lengths=")
        for value in ("[]", "[abc]", "[null]", "[true]", "[.nan]", "[.inf]", "[1,[2]]", "[0]", "[-1]", "[0.001,1]")
    ),
    ("eval.lengths=[0.01,1] context=128", "eval.lengths=[0.01, 1]: give multiples of the training context 128"),
    *((f"eval.probe.longest={value}", "eval.probe.longest=") for value in ("abc", "true", ".nan", ".inf", "[4]", "0")),
    ("eval.probe.longest=2 eval.lengths=[4,8]", "eval.probe.longest=2: the context lengths of eval.lengths"),
    ("eval.probe.windows=1", "eval.probe.windows=1: must be at least 2"),
    *((f"eval.probe.span={value}", f"eval.probe.span={value}: needs at least 2") for value in (-1, 0, 1, 65)),
    ("eval.lengths=[0.5,1] eval.probe.span=33", "eval.probe.span=33: needs at least 2 tokens"),
    ("context=3", "eval.probe.span=2: needs at least 2 tokens"),
    *(
        (f"trainer.{key}={v}", f"trainer.{key}={v}: must")
        for key in ("devices", "num_nodes", "threads")
        for v in (0, -1)
    ),
    ("trainer.precision=16", "trainer.precision=16: float16 is not supported"),
    ("trainer.precision=16-mixed", "trainer.precision=16-mixed: float16 is not supported"),
    ("trainer.precision=fp32", "trainer.precision='fp32': must be auto, "),
    *((f"compare.level={value}", f"compare.level={float(value)}: ") for value in ("0", "1", "95", "-0.5", "nan")),
    *((f"{FAIR} tuning.lr={value}", "tuning.lr=") for value in ("[]", "[0]", "[1e-3,-1]", "[inf]", "[1e-3,nan]")),
    *((f"{FAIR} tuning.lr={value}", "tuning.lr") for value in ("abc", "1e-3", "null", "[abc]", "[null]")),
    *(
        (f"{FAIR} {key}={value}", f"{key}=")
        for key in ("tuning.lr", "training.betas", "logger.tags", "eval.protocols")
        for value in ("[[0.1],[0.2]]", "[{a:1},{b:2}]")
    ),
    *((f"{key}={'9' * 5000}", f"{key}: a number of more than 4300 digits") for key in ("seed", "encoding", "sweep")),
    *((f"{key}={'9' * 400}", f"{key}=9") for key in ("context", "training.lr", "eval.probe.longest")),
    (f"{FAIR} tuning.seed=abc", "tuning.seed=abc: must be a whole number"),
    (f"{FAIR} tuning.seed=1.5", "tuning.seed=1.5: must be a whole number"),
    (f"{FAIR} +tuning.rates=[1]", "tuning.rates: "),
    ("tuning=3", "tuning=3: must be a group of settings"),
    *(
        (f"+{key}=1", f"{key}: there is no such setting; ")
        for key in ("training.lrr", "model.width", "eval.prob", "trainer.gpus", "sed", "foo")
    ),
    ("+eval.probe.win=2", "eval.probe.win: there is no such setting; did you mean eval.probe.windows?"),
    ("+training.dropuot=0.1", "training.dropuot: there is no such setting; did you mean model.dropout?"),
    ("extension=yarn", "extension=yarn: is for a second stage: give the run that it starts from too, init=RUN; "),
    ("logger.mode=x", "logger.mode: there is no such setting; "),
    ("encoding=rop", "encoding='rop': there is no such option; did you mean rope, irope?"),
    ("experiment=compair", "experiment='compair': there is no such option; did you mean compare?"),
    ("~training.warmup", "training.warmup: can't be left out; give it another value"),
    ("~eval.probe", "eval.probe: can't be left out"),
    ("~tokenizer", "tokenizer: needs a value"),
    ("~model", "model: needs a value"),
    ("~encoding", "encoding: needs a value"),
    ("~encoding.name", "encoding.name: needs a value"),
    ("~data.name", "data.name: needs a value"),
    ("data=copy ~data.name", "data.name: needs a value"),
    ("~foo", "Could not delete from config. 'foo' does not exist."),
    ("encoding=rope,alibi", "Ambiguous value for argument 'encoding=rope,alibi' "),
    ("training.lr=[", "training.lr=[: "),
    *((f"{key}={value}", f"{key}={value}: must be below 2**63") for key, value in (("seed", 2**63), ("seed", 10**19))),
    (f"{FAIR} tuning.seed={2**63}", f"tuning.seed={2**63}: must be below 2**63"),
    ("data=text", "data.path: needs a value"),
    ("encoding.base=${nowhere}", "encoding.base: Interpolation key 'nowhere' not found"),
    ("seed=-1", "seed=-1: must not be negative"),
    ("num_workers=-1", "num_workers=-1: must not be negative"),
    *((f"context={value}", f"context={value}: must be at least 2 tokens") for value in (1, 0, -8)),
    *((f"run_id={value}", f"run_id='{value}': ") for value in ("../x", "a/b", "/a", "..")),
    ("run_id=''", "run_id='': must stay within the runs' folder"),
    *((f"sweep={value}", f"sweep='{value}': ") for value in ("../x", "/a", "a/../../b", "..")),
    ("encoding.name=../x", "encoding.name='../x': must be a word"),
    ("data.name=5", "data.name=5: must be a word"),
    *(
        (f"{key}={'x' * 300}", f"{key}={'x' * 32}...: too long")
        for key in ("runs", "sweep", "run_id", "cache_dir", "logger.dir")
    ),
    *((f"{key}='a\0b'", f"{key}='a\\x00b': must be the name of") for key in ("runs", "sweep", "run_id", "cache_dir")),
    *(
        (f"{key}={value}", f"{key}={value.title() if value == 'true' else float(value)}: must be a word")
        for key in ("sweep", "runs")
        for value in ("true", "1e3")
    ),
    *(
        (f"{key}={value}", f"{key}={value}: must be true or false")
        for key in ("force", "trainer.compile")
        for value in (-1, 0, 1, 7)
    ),
    ("trainer.strategy=ddp_spwan", "trainer.strategy='ddp_spwan': must be auto, ddp or fsdp"),
    *(
        (f"{group}=null", f"{group}=null: must be the name of a file of conf/{group}")
        for group in ("encoding", "model", "data", "tokenizer", "eval")
    ),
    *(
        (f"{group}=3", f"{group}=3: must be the name of a file of conf/{group}")
        for group in ("encoding", "model", "data", "tokenizer")
    ),
    ("training=5", "training: must be a group of settings"),
    ("training.tokens='${oc.env:HOME}'", f"training.tokens={os.environ['HOME']}: must be a whole number"),
]


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_what_cannot_be_is_refused_by_the_name_of_its_setting(command, message):
    with pytest.raises(ValueError) as error:
        settings_of(*command.split(" "))
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1


TAKEN = [
    "training.lr=1",
    "training.min_lr=0 training.warmup=1",
    "training.min_lr=1 training.warmup=0",
    "training.clip=0 training.weight_decay=0 training.encoding_lr=0",
    "training.validate_every=1 training.checkpoint_every=1e-9",
    "training.betas=[0,0]",
    "eval.tokens=null trainer.threads=null eval.probe.longest=null eval.probe.span=null",
    "eval.lengths=[0.5,1,2.5]",
    "eval.probe.longest=1.5",
    "eval.probe.span=64",
    # Of what isn't measured.
    "eval.probes=[] eval.retrieval=[] eval.probe.windows=1 eval.probe.span=1000 eval.probe.longest=0.1",
    "eval.probes=[] context=2",
    "eval.protocols=[] eval.controls=[]",
    "eval.extensions=[all]",
    "+eval.extension_settings.yarn.tune=true",
    "trainer.precision=32 eval.precision=bf16",
    "training.batch_size=8 training.accumulate=2 trainer.devices=2 trainer.num_nodes=2",
    "compare.level=0.5 compare.reference=null",
    f"{FAIR} tuning.lr=[1] tuning.seed=0",
    "seed=0 num_workers=0",
    "force=no eval.cross_documents=yes trainer.compile=off logger.checkpoint=On",
    "sweep=2026 trainer.precision=32",
    f"seed={2**63 - 1}",
    "seed=1.0 training.tokens=1e6 context=1e2 eval.targets=1e1 eval.tokens=1e3",
    "sweep=demo/tuning run_id=mine",
]


@pytest.mark.parametrize("command", TAKEN)
def test_what_lies_at_the_edge_is_taken(command):
    settings = settings_of(*command.split(" "))
    assert typed(Settings, plain(settings)) == settings


WRONG_TYPES = [
    ("seed=abc", "seed"),
    ("seed=1.5", "seed"),
    ("seed=null", "seed"),
    ("context=1.5e0", "context"),
    ("context=[128]", "context"),
    ("training.tokens=abc", "training.tokens"),
    ("training.tokens=1e-6", "training.tokens"),
    ("training.tokens=1e400", "training.tokens"),
    ("training.lr=fast", "training.lr"),
    ("training.lr=null", "training.lr"),
    ("training.betas=0.9", "training.betas"),
    ("training.betas=[a,b]", "training.betas[0]"),
    ("training=3", "training"),
    ("model.dim=wide", "model.dim"),
    ("model.dropout=null", "model.dropout"),
    ("eval.lengths=2", "eval.lengths"),
    ("eval.targets=few", "eval.targets"),
    ("eval.cross_documents=maybe", "eval.cross_documents"),
    ("eval.protocols=sliding", "eval.protocols"),
    ("eval.extension_settings=3", "eval.extension_settings"),
    ("eval.probe.windows=null", "eval.probe.windows"),
    ("eval.probe.span=2.5", "eval.probe.span"),
    ("trainer.devices=two", "trainer.devices"),
    ("trainer.compile=perhaps", "trainer.compile"),
    ("compare.level=high", "compare.level"),
    ("logger.tags=a", "logger.tags"),
    ("num_workers=null", "num_workers"),
]
WRONG_KEYS = {  # as written, and as far as it is known
    "trainin.lr": "trainin",
    "training.lrr": "training.lrr",
    "model.width": "model.width",
    "eval.prob.windows": "eval.prob",
    "eval.probe.win": "eval.probe.win",
    "eval.lenghts": "eval.lenghts",
    "encoding.bass": "encoding.bass",
    "data.pth": "data.pth",
    "tokenizer.size": "tokenizer.size",
    "trainer.gpus": "trainer.gpus",
    "compare.levels": "compare.levels",
    "logger.mode": "logger.mode",
    "tuning.lr": "tuning.lr",
    "sed": "sed",
}


@pytest.mark.parametrize(("override", "key"), WRONG_TYPES)
def test_a_wrong_type_is_refused_by_the_full_name_of_its_setting(override, key):
    with pytest.raises(ValueError) as error:
        settings_of(override)
    assert re.match(rf"{re.escape(key)}(=.+)?: ", str(error.value)) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("key", WRONG_KEYS)
def test_a_wrong_key_is_refused_by_its_full_name(key):
    with pytest.raises(ValueError) as error:
        settings_of(f"{key}=1")
    assert str(error.value).startswith(f"{WRONG_KEYS[key]}: ") and len(str(error.value).splitlines()) == 1


def test_a_whole_number_has_one_name_however_it_is_written():
    assert settings_of("training.tokens=1e5").run_id == settings_of("training.tokens=100_000").run_id
    assert type(settings_of("training.tokens=1e5").training.tokens) is int


REFUSED_AT_ONCE = {
    "training.tokens=abc": "error: training.tokens=abc: must be a whole number",
    "training.lrr=1": "error: training.lrr: there is no such setting; did you mean training.lr?",
    "+training.lrr=1": "error: training.lrr: there is no such setting; did you mean training.lr?",
    "training.tokens=-1": "error: training.tokens=-1: ",
    "~encoding": "error: encoding: needs a value",
    "encoding=rop": "error: encoding='rop': there is no such option; did you mean rope, irope?",
}
HEAVY = {"torch", "datasets", "lightning", "numpy", "pandas", "tokenizers", "transformers", "wandb"}


def timed(command: list[str]) -> tuple[subprocess.CompletedProcess, float]:
    """A command carried out, and the seconds that it has computed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def importing_torch() -> float:
    """Seconds that this machine computes to import torch."""
    return timed([sys.executable, "-c", "import torch"])[1]


@pytest.mark.parametrize("override", REFUSED_AT_ONCE)
def test_the_program_refuses_at_once_and_imports_nothing_heavy(override, tmp_path, importing_torch):
    done, seconds = timed([sys.executable, "-X", "importtime", "train.py", override, f"runs={tmp_path}"])
    assert done.returncode == 1 and REFUSED_AT_ONCE[override] in done.stderr and "Traceback" not in done.stderr
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "omegaconf" in imported and not imported & HEAVY
    assert seconds < 0.8 * importing_torch  # 1 s where that takes 1.25
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_settings_are_made_without_anything_heavy():
    script = """
import sys
from eval.record.identity import settings_of
print(settings_of("encoding=alibi", "experiment=smoke").run_id)
print(sorted({"torch", "datasets", "lightning", "numpy", "pandas", "tokenizers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    name, heavy = done.stdout.splitlines()
    assert name.startswith("alibi-s0-") and heavy == "[]"
