"""The training of a transformer as a LightningModule: loss, optimizer, schedule. It knows nothing of positions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from conf.schema import Settings, TrainingSettings
from model.build import Separators, build_transformer
from model.devices import uses_gpu
from model.kernels import compile_training, cross_entropy
from model.training.graphs import Recorded
from model.transformer import Transformer


def pieces(batch_BT: Tensor, width: int) -> Tensor:
    """Windows (B, T + 1) cut into pieces of `width` tokens of context, (B · N, width + 1), every target in one of them;
    the last of a window is filled up with tokens that are read and not predicted.

    >>> pieces(torch.tensor([[10, 11, 12, 13, 14, 15]]), 2).tolist()
    [[10, 11, 12], [12, 13, 14], [14, 15, -1]]
    """
    spare = -(batch_BT.shape[1] - 1) % width
    return F.pad(batch_BT, (0, spare), value=~0).unfold(1, width + 1, width).flatten(0, 1)


class DivergedError(ValueError):
    """Training met a loss, or came to weights, that are NaN or infinite."""


class LanguageModel(L.LightningModule):
    """Trains on windows (B, T + 1) of token ids: each token is predicted from those before it. One that stands there
    as its complement ~id, and so below zero, is read and not predicted.

    steps: optimizer steps of the whole run. schedule: where in the learning rate's schedule it begins, and the steps
    that this spans; None: at its start, and the run's. averages: of the gradients, as AdamW keeps them in its state by
    the number of a parameter; None starts them anew.
    """

    averages: Mapping[int, Mapping[str, Tensor]] | None = None

    def __init__(
        self, transformer: Transformer, training: TrainingSettings, steps: int, schedule: tuple[int, int] | None = None
    ):
        super().__init__()
        self.transformer, self.settings, self.steps = transformer, training, steps
        self.schedule = schedule or (0, steps)
        self.first_bad_step = torch.tensor(-1)  # of this device; no buffer, or DDP would send the first device's to all
        self.grad_norm = torch.tensor(math.nan)  # at the last step, before it was clipped
        self.recorded: Recorded | None = None  # mean_loss, on one GPU

    def on_fit_start(self) -> None:
        self.first_bad_step = self.first_bad_step.to(self.device)
        alone = self.trainer.world_size == self.trainer.accumulate_grad_batches == 1
        if self.device.type == "cuda" and alone and self.transformer.capturable:
            self.recorded = Recorded(self.mean_loss, self.transformer)

    def on_fit_end(self) -> None:
        self.recorded = None  # it holds the memory of a step

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.transformer(tokens_BT)

    def training_step(self, batch_BT: Tensor, batch_index: int) -> Tensor:
        schedule, context = self.settings.context_schedule, batch_BT.shape[1] - 1
        width = schedule.width(self.global_step, self.steps, context)
        if width < context:
            loss = self.growing_loss(batch_BT, width)
        else:
            loss = (self.recorded or self.mean_loss)(batch_BT)
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, self.global_step, self.first_bad_step)
        return loss

    def backward(self, loss: Tensor) -> None:
        if self.recorded:
            self.recorded.backward(loss)
        else:
            loss.backward()

    def mean_loss(self, batch_BT: Tensor) -> Tensor:
        """Nats a predicted token, a scalar."""
        losses, predicted = self.token_losses(batch_BT)
        return losses.sum() / predicted.sum()

    def growing_loss(self, batch_BT: Tensor, width: int) -> Tensor:
        """`mean_loss` at a context of so many tokens, as the schedule has it. Never compiled or recorded: each width
        would be so anew."""
        if self.settings.context_schedule.kind == "warmup":
            losses, predicted = LanguageModel.token_losses(self, pieces(batch_BT, width))
        else:
            losses, predicted = LanguageModel.token_losses(self, batch_BT, width)
        return losses.sum() / predicted.sum()

    def validation_step(self, batch_BT: Tensor, batch_index: int) -> None:
        losses, predicted = self.token_losses(batch_BT)
        self.validation_sum += losses.double().sum()
        self.validation_tokens += predicted.sum()

    def token_losses(self, batch_BT: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each target, nats, (B · T,), float32 (zero where not predicted), and which are predicted.

        width: attention stays within blocks of so many tokens."""
        tokens_BT = torch.where(batch_BT < 0, ~batch_BT, batch_BT)
        predicted = batch_BT[:, 1:].flatten() >= 0
        logits = self.transformer(tokens_BT[:, :-1], width=width)
        with torch.autocast(logits.device.type, enabled=False):
            losses = cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten())
        return losses * predicted, predicted

    def on_validation_epoch_start(self) -> None:
        self.validation_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.validation_tokens = 0

    def on_validation_epoch_end(self) -> None:
        tokens = torch.tensor(float(self.validation_tokens), dtype=torch.float64, device=self.device)
        total, tokens = self.all_gather(self.validation_sum).sum(), self.all_gather(tokens).sum()
        self.log("val/loss", (total / tokens).float(), rank_zero_only=True)

    def check_finite(self) -> None:
        """Raises DivergedError, naming the step. Looks at the device, so call it now and then, not every step."""
        step = int(self.all_gather(self.first_bad_step).max())
        if step < 0:
            return
        encoding = type(self.transformer.encoding).__name__
        advice = (
            self.advice
            if step
            else f"no update was made yet, so the encoding {encoding}, or the model around it, gives scores that are "
            "not finite at its initial weights; change its settings or its formula (no learning rate mends that)"
        )
        raise DivergedError(f"the loss was not finite at step {step}: {advice}")  # on all devices, or none

    @property
    def advice(self) -> str:
        """What to do where training breaks off."""
        return f"lower training.lr={self.settings.lr}, or lengthen training.warmup={self.settings.warmup}"

    def on_before_optimizer_step(self, optimizer) -> None:
        """Clips here, and not through the trainer, which can't clip under mixed precision with a fused optimizer."""
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.settings.clip or math.inf)

    def configure_model(self) -> None:
        """Shards the transformer over the devices where the strategy has a mesh of them (trainer=fsdp)."""
        if self.device_mesh is not None and not isinstance(self.transformer, FSDPModule):
            mesh = self.device_mesh["data_parallel"]
            for block in self.transformer.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(self.transformer, mesh=mesh)

    def configure_optimizers(self):
        """AdamW; weight decay on the backbone's matrices alone; the encoding's parameters at lr · encoding_lr · its own
        `lr_scale`, without decay."""
        settings = self.settings
        of_encoding = set(self.transformer.encoding.parameters())
        backbone = [p for p in self.parameters() if p.requires_grad and p not in of_encoding]
        groups = [
            {"params": [p for p in backbone if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in backbone if p.ndim < 2], "weight_decay": 0.0},
            *(
                {"params": parameters, "weight_decay": 0.0, "lr": settings.lr * settings.encoding_lr * scale}
                for scale, parameters in self.transformer.encoding.parameters_by_lr_scale().items()
            ),
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=settings.lr, betas=tuple(settings.betas), fused=True
        )
        if self.averages is not None:
            own = optimizer.state_dict()
            optimizer.load_state_dict({**own, "state": self.averages})
        first, steps = self.schedule
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: settings.rate(first + step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build_language_model(settings: Settings, vocab_size: int, separators: Separators) -> LanguageModel:
    """The transformer of a run with its loss, optimizer and schedule, compiled where the settings say so."""
    transformer = build_transformer(settings, vocab_size, separators)
    stage = settings.stage
    schedule = (stage.schedule_step, stage.schedule_steps) if settings.training.schedule_from else None
    module = LanguageModel(transformer, settings.training, settings.steps, schedule)
    if settings.trainer.compile:
        # The model and its loss in one graph; scoring, which calls the transformer, stays eager: it runs at any length.
        module.token_losses = compile_training(module.token_losses, uses_gpu(settings.trainer.accelerator))
    return module
