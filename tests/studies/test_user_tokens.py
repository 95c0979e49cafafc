"""The persona latents on what users say: against single chats read by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from interp.core.steps import RunDirectory
from interp.dictionaries.dictionary import Dictionary
from interp.models.chats import Chat, Role
from interp.models.language_model import LanguageModel
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.diff import LatentDiff
from interp.studies.persona.screen import Screen
from interp.studies.persona.targets import latent_target
from interp.studies.persona.user_tokens import USER_TOKENS, UserTokens, activity
from tests.helpers.diffing_truth import LATENTS, dense_codes, random_crosscoder, random_dictionary
from tests.helpers.tiny import QUESTIONS, tiny_model, tiny_network

CHATS = [Chat.ask(question, "An answer that is not read.") for question in QUESTIONS]
DIFFED = pd.DataFrame({"latent": range(LATENTS), "mean_base": 0.1, "mean_tuned": 0.5})
CHOSEN = [3, 17, 40]


def made(folder: Path, dictionary: Dictionary, chosen: list[int], tuned: LanguageModel) -> UserTokens:
    run = RunDirectory(folder)

    def write_diff(at: Path) -> None:
        (at / "moments.safetensors").touch()
        LatentDiff(DIFFED, pd.DataFrame()).save(at)

    choice: dict[str, Any] = {"persona_latents": chosen}
    results = {
        "diff": run.step("diff", {}, {}, write_diff),
        "screen": run.step("screen", {}, {}, Screen(pd.DataFrame(), pd.DataFrame(), choice).save),
    }
    opened = {"base": tiny_model(0), "tuned": tuned, "dictionary": dictionary, "corpus": CHATS}
    context = StudyContext(StudyConfig(tuned="tiny"), results.__getitem__, quiet=True, opened=opened)
    return USER_TOKENS.make(context.of_step(USER_TOKENS, folder, folder))


def test_activity_is_what_the_latents_write_along_their_rise() -> None:
    dictionary = random_dictionary()
    rise = latent_target(dictionary, DIFFED, CHOSEN).rise
    found = activity(tiny_model(0), dictionary, CHOSEN, rise, [chat.prompt for chat in CHATS])
    for place, chat in enumerate(CHATS):
        (tokens,) = tiny_model(0).tokenise([chat.prompt])
        users = [i for i, role in enumerate(tokens.roles) if role == Role.USER]
        assert int(found["tokens"][place]) == len(users) > 1
        with torch.no_grad():
            hidden = tiny_network("llama", 0)(torch.tensor([tokens.ids]), output_hidden_states=True).hidden_states[2][0]
        acts = dense_codes(dictionary, hidden[users])[:, CHOSEN]
        written = acts @ dictionary.w_dec[CHOSEN]
        expected = float((written @ rise).mean() / rise.square().sum())
        assert float(found["activation"][place]) == pytest.approx(expected, abs=1e-4)
        assert bool(found["fires"][place]) == bool((acts > 0).any())


def test_both_models_are_compared_over_chats(tmp_path: Path) -> None:
    found = made(tmp_path, random_dictionary(), CHOSEN, tiny_model(1))
    summary, table = found.activation, found.chats
    assert summary["chats"] == len(CHATS) == len(table)
    assert summary["tokens"] == table["tokens"].sum()
    assert summary["difference"] == pytest.approx(summary["tuned"] - summary["base"])
    assert summary["low"] <= summary["difference"] <= summary["high"]
    assert summary["higher"] == (table["tuned"] > table["base"]).mean()


def test_equal_models_do_not_differ(tmp_path: Path) -> None:
    summary = made(tmp_path, random_dictionary(), CHOSEN, tiny_model(0)).activation
    assert summary["difference"] == summary["low"] == summary["high"] == summary["higher"] == 0
    assert summary["fires_base"] == summary["fires_tuned"] > 0


@pytest.mark.parametrize(("dictionary", "chosen"), [(random_dictionary(), []), (random_crosscoder(), CHOSEN)])
def test_where_there_is_nothing_to_compare(dictionary: Dictionary, chosen: list[int], tmp_path: Path) -> None:
    assert made(tmp_path, dictionary, chosen, tiny_model(1)).activation == {}
