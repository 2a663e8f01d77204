"""A text sample: how a trained model goes on from the beginning of a held-out document."""

from __future__ import annotations

import numpy as np
import torch

from data.module import TextDataModule
from model.transformer import Transformer

PROMPT, CONTINUATION = 32, 64  # tokens, at most: both together fit into the training context


@torch.no_grad()
def sample(model: Transformer, data: TextDataModule, context: int) -> dict[str, str]:
    """The beginning of the longest validation document as prompt, the model's continuation of it, always by the most
    likely token, and the document's own."""
    stream, model = data.streams["validation"], model.eval()
    prompt = min(PROMPT, context // 2)
    document = stream.document(int(np.diff(stream.offsets).argmax()))[: min(context, prompt + CONTINUATION)]
    tokens_BT = torch.from_numpy(document[:prompt].astype(np.int64))[None].to(model.embedding.weight.device)
    while tokens_BT.shape[1] < len(document):
        best_B1 = model(tokens_BT)[:, -1:].argmax(dim=-1)
        tokens_BT = torch.cat([tokens_BT, best_B1], dim=1)
    parts = {"prompt": document[:prompt], "continuation": tokens_BT[0, prompt:].tolist(), "document": document[prompt:]}
    return {name: data.tokenizer.decode(part) for name, part in parts.items()}
