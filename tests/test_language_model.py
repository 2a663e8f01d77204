"""The learning rate over a run, by its definition: a linear rise, then the chosen decay to `min_lr`; clipping; steps
whose kernels were recorded.

python -m pytest tests/test_language_model.py
"""

import math
from dataclasses import replace

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from eval.record.identity import settings_of
from model.catalogue import encoding_config
from model.encodings import Shape, build_encoding
from model.training.graphs import Recorded
from model.training.language_model import LanguageModel
from model.transformer import Transformer

TRAINING = replace(settings_of().training, warmup=0.1, min_lr=0.2)
STEPS = 100  # ten of them of warm-up

DECAYED = {  # at a share of the steps after the warm-up
    "cosine": lambda done: 0.2 + 0.8 * (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 0.2 + 0.8 * (1 - done),
    "constant": lambda done: 1.0,
}


@pytest.mark.parametrize("schedule", DECAYED)
def test_the_rate_rises_then_decays_as_chosen(schedule):
    rates = [replace(TRAINING, schedule=schedule).rate(step, STEPS) for step in range(STEPS + 1)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([DECAYED[schedule](step / 90) for step in range(91)])


def test_a_run_shorter_than_its_warm_up_has_one_step_of_it():
    assert replace(TRAINING, warmup=0.0).rate(0, 1) == 1.0


@pytest.mark.parametrize("clip", [0.0, 1.0, 100.0])
def test_the_gradients_norm_is_known_as_it_was_before_it_was_clipped(clip):
    module = LanguageModel(torch.nn.Linear(2, 2), replace(TRAINING, clip=clip), STEPS)
    weight, bias = module.parameters()
    weight.grad, bias.grad = torch.tensor([[1.0, 2.0], [2.0, 0.0]]), torch.tensor([4.0, 0.0])
    module.on_before_optimizer_step(None)
    assert float(module.grad_norm) == 5.0
    left = 1.0 if clip == 1.0 else 5.0
    assert torch.cat([weight.grad.flatten(), bias.grad]).norm() == pytest.approx(left, rel=1e-5)


class Replaying(Recorded):
    """What a recorded step is to the trainer, without a device: a loss that has no graph, and gradients beside it."""

    def __call__(self, batch):
        if not torch.is_grad_enabled():
            return self.loss(batch)
        self.batch = batch
        loss, self.gradients = self._loss_and_gradients()
        return loss


def test_a_recorded_step_trains_as_any(monkeypatch):
    batches = torch.randint(29, (6, 4, 17), generator=torch.Generator().manual_seed(0))
    trained, taken = [], []
    for recorded in (False, True):
        encoding = build_encoding(encoding_config("t5"), Shape(dim=16, num_heads=2, num_layers=1, context=16))
        module = LanguageModel(Transformer(29, encoding), replace(TRAINING, clip=0.5), len(batches))
        if recorded:
            monkeypatch.setattr(
                LanguageModel, "on_fit_start", lambda self: setattr(self, "recorded", Replaying(self.mean_loss, self))
            )
            monkeypatch.setattr(Replaying, "backward", lambda *given: taken.append(Recorded.backward(*given)))
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=len(batches),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(batches, batch_size=None))
        assert module.recorded is None  # what it holds is given back
        trained.append(module.transformer.state_dict())
    assert len(taken) == len(batches)
    torch.testing.assert_close(*trained, rtol=0, atol=0)
