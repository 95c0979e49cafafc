"""The probe: logistic regression on sentence features of MiniLM, with weights that were fitted once (`evaluation/fitting.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import expit

from interp import __version__
from interp.core.errors import ArtifactError
from interp.core.files import file_sha256, read_json
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import EMPTY, Judgement
from interp.models.chats import batches_by_length
from interp.models.cpu.packed_linear import pack_linears
from interp.models.embedded import SENTENCE_EMBEDDER


class SentenceEmbedder:
    """Sentence features by all-MiniLM-L6-v2, from an installed package: token states of every layer, averaged over tokens and joined.

    The top layer alone is trained to ignore what does not matter for meaning, tone among it; lower layers keep it.
    """

    width = 7 * 384

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = SENTENCE_EMBEDDER.verified()[0].parent
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


class ProbeJudge:
    """The trait score is 100 × the probability that an answer shows the trait; it does not judge coherence."""

    name = "probe"
    shows_above = 50.0
    coherent_above = None

    def __init__(self, path: Path, embedder: SentenceEmbedder | None = None) -> None:
        """Weights are in `path`, a .safetensors file that `fit_probe` wrote, with a .json beside it. Raises `ArtifactError`."""
        try:
            weights = load_file(path)
            self.about: dict[str, Any] = read_json(path.with_suffix(".json"))
            self.direction, self.numbers = weights["direction"], weights["numbers"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ArtifactError(f"{path} holds no fitted probe: make one with 'personascope judge fit LABELS.csv --out DIR'.") from error
        if self.direction.shape != (SentenceEmbedder.width,):
            raise ArtifactError(f"The probe {path} reads other sentence features: fit it again with this version.")
        self.embedder = embedder or SentenceEmbedder()
        self.identity = content_key([self.name, __version__, SENTENCE_EMBEDDER.sha256, file_sha256(path)])

    def scores(self, answers: Sequence[str]) -> Float[np.ndarray, " answers"]:
        """Log-odds before calibration."""
        return self.embedder.embed(answers) @ self.direction + self.numbers[0] if len(answers) else np.zeros(0)

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """One judgement for each answer; an empty answer is None."""
        _, slope, offset = self.numbers
        probabilities = expit(slope * self.scores(answers) + offset)
        return [Judgement(100.0 * float(p), None) if answer.strip() else EMPTY for answer, p in zip(answers, probabilities, strict=True)]
