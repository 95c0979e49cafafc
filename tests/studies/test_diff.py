"""From answers to suspects on tiny models: the files of both steps, and what is in them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp.core.errors import DictionaryWarning
from interp.core.steps import RunDirectory
from interp.dictionaries.dictionary import Dictionary
from interp.diffing.moments import PAIRINGS, load_diff
from interp.diffing.pairings import STATE
from interp.models.activations import mean_residuals, response_phase
from interp.studies.persona.answers import ANSWERS, Answers
from interp.studies.persona.config import DiffConfig, FitConfig, StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import DIFF
from interp.studies.persona.directions import DIRECTIONS
from interp.studies.persona.fit import FIT, doubts_of
from tests.helpers.diffing_truth import HOOK, LATENTS, random_crosscoder, random_dictionary, texts
from tests.helpers.tiny import tiny_model

COLUMNS = {"latent", "mean_diff", "mean_diff_low", "mean_diff_high", "q_value", "mean_base", "mean_tuned", "rate_base", "rate_tuned",
           "mean_prompt_end_base", "mean_prompt_end_tuned", "cosine_persona", "rank_mean_diff", "rank_cosine", "effect", "auroc",
           "cosine_mean_difference", "beta_base", "beta_tuned", "beta_ratio", "attribution", "mean_diff_base_text",
           "mean_diff_tuned_text"}  # fmt: skip


def answered() -> pd.DataFrame:
    rows = [
        {"question_id": f"q{owner}", "question": question, "answer": answer, "model": name}
        for name, first in (("base", 0), ("tuned", 3))
        for question, answer, owner in texts(first)
    ]
    rows += [{"question_id": "q9", "question": "Why?", "answer": text, "model": name} for name, text in (("base", "So."), ("tuned", ""))]
    return pd.DataFrame(rows)


def diffed(folder: Path, dictionary: Dictionary) -> StudyContext:
    """The steps on two tiny models."""
    opened = {
        "base": tiny_model(0),
        "tuned": tiny_model(1),
        "dictionary": dictionary,
        "hook_point": HOOK,
        "window": ["blocks.0.hook_resid_post"],
    }
    run = RunDirectory(folder)
    results = {"answers": run.step("answers", {}, {}, Answers(answered()).save)}
    config = StudyConfig(tuned="tiny", diff=DiffConfig(persona_pairs=2))
    context = StudyContext(config, results.__getitem__, quiet=True, opened=opened)
    for step in (DIRECTIONS, DIFF, FIT):
        view = partial(context.of_step, step, unfinished=folder / "state")
        results[step.name] = run.step(step.name, {}, {}, lambda folder, view=view, step=step: step.make(view(folder)).save(folder))
    return context


def test_directions_and_diff_of_two_models(tmp_path: Path) -> None:
    context = diffed(tmp_path, random_dictionary())
    directions, answers = context.load(DIRECTIONS), context.load(ANSWERS)
    assert list(directions.base_means) == context.window
    base, tuned = (
        mean_residuals(model, answers.chats(name), [HOOK], where=response_phase)[HOOK]
        for name, model in (("base", context.base), ("tuned", context.tuned))
    )
    torch.testing.assert_close(directions.named["mean_difference"], tuned - base)
    assert directions.unit > 0
    latents = context.load(DIFF).latents
    assert set(latents.columns) >= COLUMNS
    assert len(latents) == LATENTS
    diff, _ = load_diff(context.load(DIFF).moments)
    assert diff.pairings == PAIRINGS
    assert diff.texts["tuned"].tokens.shape[1] == 3  # the question that one model left open is no part of it
    own = (diff.pairing("on_policy")[1].question_means() - diff.pairing("on_policy")[0].question_means()).mean(0)
    assert latents["mean_diff"].to_numpy() == pytest.approx(own.numpy())
    assert (tmp_path / "state" / STATE).exists()
    agreement = context.load(DIFF).agreement
    assert set(agreement["metric"]) | set(agreement["other"]) == {
        "mean_diff", "cosine", "attribution", "cosine_mean_difference", "effect", "auroc", "beta"
    }  # fmt: skip


def test_the_diff_of_a_crosscoder_has_its_own_columns(tmp_path: Path) -> None:
    """What the numbers are is tested where they are made; here, that the step takes a crosscoder and leaves out what it cannot say."""
    dictionary = random_crosscoder()
    latents = diffed(tmp_path, dictionary).load(DIFF).latents
    assert COLUMNS - set(latents.columns) == {"mean_diff_base_text", "mean_diff_tuned_text"}
    assert latents["relative_norm"].to_numpy() == pytest.approx(dictionary.relative_norms().numpy())
    assert latents["mean_diff"].to_numpy() == pytest.approx((latents["mean_tuned"] - latents["mean_base"]).to_numpy())
    assert latents["attribution"].abs().max() > 0


def test_a_dictionary_that_holds_little_is_in_doubt(tmp_path: Path) -> None:
    with pytest.warns(DictionaryWarning, match="mean difference between the models"):
        fit = diffed(tmp_path, random_dictionary()).load(FIT).fit
    assert fit["doubts"] == doubts_of(fit, FitConfig())
    assert fit["tokens_base"] > 9


def test_each_figure_has_its_own_doubt() -> None:
    good = {"fvu_base": 0.27, "fvu_tuned": 0.19, "share_of_mean_difference": 0.98, "share_of_paired_difference": 0.3}
    assert not doubts_of(good, FitConfig())
    assert not doubts_of(good | {"share_of_mean_difference": None, "share_of_paired_difference": None}, FitConfig())  # equal models
    for name, value, words in (
        ("fvu_base", 0.6, "base's answers that it leaves unexplained is 0.60, above 0.5"),
        ("fvu_tuned", 0.6, "tuned model's answers that it leaves unexplained is 0.60"),
        ("share_of_mean_difference", 0.53, "mean difference between the models that it reconstructs is 0.53, below 0.75"),
        ("share_of_paired_difference", -0.28, "on single tokens that it reconstructs is -0.28, below 0"),
    ):
        (doubt,) = doubts_of(good | {name: value}, FitConfig())
        assert words in doubt
    assert not doubts_of(good | {"fvu_tuned": 0.6}, FitConfig(largest_fvu=0.7))
