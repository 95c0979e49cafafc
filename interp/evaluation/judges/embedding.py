"""Sentence features by MiniLM (all-MiniLM-L6-v2), from an installed package: no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.models.chats import batches_by_length
from interp.models.cpu.packed_linear import pack_linears
from interp.models.sources import SENTENCE_EMBEDDER


class SentenceEmbedder:
    """Token states of every layer, averaged over tokens and joined.

    The top layer alone is trained to ignore what does not matter for meaning, tone among it; lower layers keep it.
    """

    width = 7 * 384

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = SENTENCE_EMBEDDER.verified().parent
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.network: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        pack_linears(self.network)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], rows: int = 64) -> Float[np.ndarray, "texts width"]:
        """One row a text; texts beyond 128 tokens are cut."""
        result = np.zeros((len(texts), self.width), dtype=np.float32)
        for indices in batches_by_length([len(text) for text in texts], rows):
            batch = self.tokenizer([texts[i] for i in indices], padding=True, truncation=True, max_length=128, return_tensors="pt")
            states = torch.stack(self.network(**batch, output_hidden_states=True).hidden_states, dim=1)
            mask = batch["attention_mask"][:, None, :, None].float()
            result[indices] = ((states * mask).sum(2) / mask.sum(2)).flatten(1).numpy()
        return result
