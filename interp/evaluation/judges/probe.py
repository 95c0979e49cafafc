"""The probe: logistic regression on sentence features, with weights that were fitted once (`evaluation/fitting.py`) and saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import expit

from interp import __version__
from interp.core.errors import ArtifactError
from interp.core.files import file_sha256, read_json
from interp.core.fingerprints import content_key
from interp.evaluation.judges.base import EMPTY, Judgement
from interp.evaluation.judges.embedding import SentenceEmbedder
from interp.models.sources import SENTENCE_EMBEDDER


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
