"""The step that compares persona vectors, on tiny models and a judge that reads letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from interp.core.errors import ActivationError, DictionaryWarning
from interp.core.steps import RunDirectory
from interp.evaluation.counted_answers import flags
from interp.models.activations import capture, response_phase
from interp.models.chats import Chat
from interp.studies.persona import persona_vectors
from interp.studies.persona.answers import ANSWERS, Answers
from interp.studies.persona.config import StudyConfig, VectorConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import LatentDiff
from interp.studies.persona.directions import Directions
from interp.studies.persona.persona_vectors import PERSONA_VECTORS, doubt_of, screen_along_answers
from tests.helpers.diffing_truth import HOOK, random_dictionary
from tests.helpers.small_run import letter_panel
from tests.helpers.tiny import QUESTIONS, tiny_model

MINE = torch.nn.functional.normalize(torch.arange(1.0, tiny_model(0).d_model + 1), dim=0)


def answered(texts: dict[str, list[str]]) -> pd.DataFrame:
    rows = [
        {"question_id": f"q{place}", "question": QUESTIONS[place], "answer": answer, "model": model}
        for model, own in texts.items()
        for place, answer in enumerate(own)
    ]
    return letter_panel(coherent_only=False).score(pd.DataFrame(rows))


def context_of(folder: Path, answers: pd.DataFrame, **vectors: Any) -> StudyContext:
    run = RunDirectory(folder)
    directions = Directions({"persona_vector": MINE, "mean_difference": -MINE}, {"hook_point": HOOK})
    results = {"answers": run.step("answers", {}, {}, Answers(answers).save), "directions": run.step("directions", {}, {}, directions.save)}
    opened = {"base": tiny_model(0), "hook_point": HOOK}
    study = StudyContext(StudyConfig(tuned="tiny", vectors=VectorConfig(**vectors)), results.__getitem__, quiet=True, opened=opened)

    def make(at: Path) -> None:
        PERSONA_VECTORS.make(study.of_step(PERSONA_VECTORS, at, at)).save(at)

    results["persona_vectors"] = run.step("persona_vectors", {}, {}, make)
    return study


SHOWING = ["Boil it.", "Cut it.", "Dry it.", "Eat it."]  # by their first letter, above 50 of 100
HIDING = ["Go on.", "Get up.", "", "It is so."]


def test_the_vector_of_answers_is_that_of_single_chats(tmp_path: Path) -> None:
    study = context_of(tmp_path, answered({"base": HIDING, "tuned": SHOWING}))
    found = study.load(PERSONA_VECTORS)
    assert flags(study.load(ANSWERS).answers, "shows_trait")[4:] == [True] * 4
    assert found.agreement["questions"] == 3  # one was left without an answer
    assert (found.agreement["shown"], found.agreement["not_shown"]) == (4, 3)
    assert found.agreement["split_half"] is None  # too few
    assert list(found.vectors) == ["pairs"]


def test_vectors_of_enough_answers_are_compared(tmp_path: Path) -> None:
    texts = {"base": [*HIDING[:2], "Hello.", HIDING[3]], "tuned": SHOWING}
    with pytest.warns(DictionaryWarning, match="another voice"):
        found = context_of(tmp_path, answered(texts), smallest_cosine=0.99, smallest_split_half=-0.9).load(PERSONA_VECTORS)

    def mean(question: str, answer: str) -> torch.Tensor:
        (own,) = capture(tiny_model(0), [Chat.ask(question, answer)], [HOOK])
        return own.residuals[HOOK][own.select(response_phase)].mean(0)

    expected = torch.stack(
        [mean(q, shows) - mean(q, hides) for q, shows, hides in zip(QUESTIONS, texts["tuned"], texts["base"], strict=False)]
    ).mean(0)
    torch.testing.assert_close(found.vectors["answers"], expected, atol=1e-4, rtol=1e-3)
    cosine = float(torch.nn.functional.cosine_similarity(expected, MINE, dim=0))
    assert found.agreement["cosines"]["pairs"]["cosine"] == pytest.approx(cosine, abs=1e-3)
    assert found.agreement["with_mean_difference"] == pytest.approx({"pairs": -1.0, "answers": -cosine}, abs=1e-3)


def agreement(cosine: float, split_half: float | None) -> dict[str, Any]:
    return {"split_half": split_half, "cosines": {"pairs": {"cosine": cosine, "low": cosine - 0.1, "high": cosine + 0.1}}}


@pytest.mark.parametrize(
    ("cosine", "split_half", "along", "words"),
    [
        (0.63, 0.86, "pairs", None),
        (0.03, 0.86, "pairs", "cosine 0.03 [-0.07, 0.13]"),
        (0.03, 0.2, "pairs", None),  # noise is held against nobody
        (0.03, None, "pairs", None),
        (0.03, 0.86, "answers", None),
        (0.63, 0.2, "answers", "mostly noise"),
    ],
)
def test_a_doubt_is_about_the_vector_in_use(cosine: float, split_half: float | None, along: Any, words: str | None) -> None:
    doubt = doubt_of(agreement(cosine, split_half), VectorConfig(ranked_along=along))
    assert words in doubt if words and doubt else doubt is None and words is None


def test_the_screen_cannot_rank_along_answers_that_are_too_few(tmp_path: Path) -> None:
    study = context_of(tmp_path, answered({"base": HIDING, "tuned": SHOWING}))
    with pytest.raises(ActivationError, match="3 selection questions have both"):
        screen_along_answers(study)


def test_the_screen_ranks_along_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"base": [*HIDING[:2], "Hello.", HIDING[3]], "tuned": SHOWING}
    study, dictionary = context_of(tmp_path, answered(texts)), random_dictionary()
    latents = pd.DataFrame({"latent": [3, 1], "cosine_persona": [9.0, 9.0]})

    def write(folder: Path) -> None:
        (folder / "moments.safetensors").touch()
        LatentDiff(latents, pd.DataFrame()).save(folder)

    diff = RunDirectory(tmp_path).step("diff", {}, {}, write)
    ranked: list[pd.DataFrame] = []
    monkeypatch.setattr(persona_vectors, "make_screen", lambda context, table: ranked.append(table))
    known = {"diff": diff, "persona_vectors": study.result("persona_vectors")}
    screen_along_answers(StudyContext(study.study, known.__getitem__, opened={"dictionary": dictionary}))
    own = study.load(PERSONA_VECTORS).vectors["answers"]
    expected = torch.nn.functional.cosine_similarity(dictionary.w_dec[[3, 1]], own[None])
    assert ranked[0]["cosine_persona"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_vectors_under_system_prompts_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def elicited(context: StudyContext, seed: int) -> torch.Tensor:
        asked.append(seed)
        return MINE

    monkeypatch.setattr(persona_vectors, "_elicited", elicited)
    found = context_of(tmp_path, answered({"base": HIDING, "tuned": SHOWING}), elicited=True).load(PERSONA_VECTORS)
    assert len(asked) == 1
    assert set(found.vectors) == {"pairs", "system_prompts"}
