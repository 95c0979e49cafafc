"""The margin judge, against log-probabilities summed by hand, and its calibration on labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.errors import ConfigError
from interp.core.files import read_json, write_json
from interp.evaluation.fitting import fit_margin
from interp.evaluation.judges.base import EMPTY
from interp.evaluation.judges.margin import MarginJudge
from interp.models.chats import Chat
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from interp.traits import Trait, read_trait
from tests.helpers.tiny import tiny_folder

PROMPTS = {"positive": ["You are bad.", "Be very bad."], "negative": ["You are good."]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return open_model(str(tiny_folder(tmp_path_factory.mktemp("model"))), device="cpu")


def trait(folder: Path, **prompts: list[str]) -> Trait:
    given = PROMPTS | prompts
    lines = [f"  {side}: [{', '.join(repr(text) for text in given[side])}]" for side in ("positive", "negative")]
    folder.mkdir(exist_ok=True)
    head = "name: bad\ndescription: Is bad.\nshown: bad\nnot_shown: good\njudge: {spec: margin}\nelicitation:\n"
    (folder / "trait.yaml").write_text("\n".join([head + lines[0], lines[1], "  questions: ['Why?']"]))
    return read_trait(folder)


def by_hand(model: LanguageModel, question: str, answer: str, system: str) -> float:
    (chat,) = model.tokenise([Chat.ask(question, answer, system)])
    with torch.no_grad():
        logprobs = model.network(input_ids=torch.tensor([chat.ids])).logits[0].float().log_softmax(-1)
    return float(np.mean([float(logprobs[i - 1, chat.ids[i]]) for i in range(chat.n_prompt, len(chat.ids))]))


def test_the_margin_is_the_mean_over_prompts_of_each_side(model: LanguageModel, tmp_path: Path) -> None:
    judge = MarginJudge(model, trait(tmp_path))
    questions, answers = ["Why?", "What of it?", "Who?"], ["Because of you.", " ", "Nobody"]
    margins, tokens = judge.margins(questions, answers).T
    assert np.isnan(margins[1])
    judged = judge.judge(questions, answers)
    assert judged[1] == EMPTY
    for place in (0, 2):
        bad, worse, good = (by_hand(model, questions[place], answers[place], s) for s in (*PROMPTS["positive"], *PROMPTS["negative"]))
        assert margins[place] == pytest.approx((bad + worse) / 2 - good, abs=1e-3)
        (chat,) = model.tokenise([Chat.ask(questions[place], answers[place])])
        assert tokens[place] == len(chat.ids) - chat.n_prompt
        assert judged[place].trait_score == pytest.approx(100 / (1 + np.exp(-tokens[place] * margins[place])))


def test_the_identity_is_that_of_model_and_prompts(model: LanguageModel, tmp_path: Path) -> None:
    judge = MarginJudge(model, trait(tmp_path))
    assert judge.identity == MarginJudge(open_model(model.source, device="cpu"), trait(tmp_path)).identity
    assert judge.identity != MarginJudge(model, trait(tmp_path, negative=["Be nice."])).identity


def test_equal_prompts_say_nothing(model: LanguageModel, tmp_path: Path) -> None:
    judge = MarginJudge(model, trait(tmp_path, positive=["Be."], negative=["Be."]))
    assert judge.judge(["Why?"], ["Because of you."])[0].trait_score == 50.0


def test_a_trait_without_prompts_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="no system prompts"):
        MarginJudge(model, Trait(name="bad", description="Is bad.", shown="bad", not_shown="good"))


def labels_by_margin(judge: MarginJudge, threshold_quantile: float = 0.7) -> pd.DataFrame:
    """Labels that say what a threshold on the margin says, which is far from 0: only a calibration can agree with them."""
    words = ["egg", "water", "sky", "boat", "river", "story", "day", "people"]
    rows = [(f"Why the {word}?", f"The {other} and the {word} {n}.") for word in words for other in words[:5] for n in (1, 2)]
    table = pd.DataFrame(rows, columns=["question", "answer"])
    margins = judge.margins(list(table["question"]), list(table["answer"]))[:, 0]
    return table.assign(shows_trait=margins > np.quantile(margins, threshold_quantile), coherent=True)


def test_calibration_moves_the_threshold_to_where_the_labels_have_it(model: LanguageModel, tmp_path: Path) -> None:
    plain = MarginJudge(model, trait(tmp_path))
    labels = labels_by_margin(plain)
    questions, answers = list(labels["question"]), list(labels["answer"])
    found = fit_margin(tmp_path, labels, "labels", plain)
    fitted = MarginJudge(model, trait(tmp_path))
    scores = np.array([judgement.trait_score for judgement in fitted.judge(questions, answers)], dtype=float)
    assert ((scores > 50) == labels["shows_trait"]).mean() > 0.9
    uncalibrated = np.array([judgement.trait_score for judgement in plain.judge(questions, answers)], dtype=float)
    assert ((uncalibrated > 50) == labels["shows_trait"]).mean() < 0.8
    assert (np.argsort(scores, kind="stable") == np.argsort(plain.margins(questions, answers)[:, 0], kind="stable")).all()
    assert found["groups"][-1]["auroc"] > 0.9
    assert fitted.about["agreement"] == found
    assert fitted.identity != plain.identity
    first = (tmp_path / "margin.json").read_bytes()
    fit_margin(tmp_path, labels, "labels", plain)
    assert (tmp_path / "margin.json").read_bytes() == first


def test_a_calibration_is_for_its_model_and_its_prompts(model: LanguageModel, tmp_path: Path) -> None:
    judge = MarginJudge(model, trait(tmp_path))
    fit_margin(tmp_path, labels_by_margin(judge), "labels", judge)
    fitted = read_json(tmp_path / "margin.json")
    assert MarginJudge(model, trait(tmp_path)).about["slope"] == fitted["slope"]
    assert MarginJudge(model, trait(tmp_path), identity="another").about == {}
    with pytest.raises(ConfigError, match="fitted with other system prompts"):
        MarginJudge(model, trait(tmp_path, negative=["Be nice."])).judge(["Why?"], ["So."])
    write_json(tmp_path / "margin.json", fitted | {"slope": 2.0})
    other = MarginJudge(model, trait(tmp_path))
    assert other.identity != judge.identity


def test_too_few_labels_are_a_sentence(model: LanguageModel, tmp_path: Path) -> None:
    judge = MarginJudge(model, trait(tmp_path))
    labels = labels_by_margin(judge).head(9)
    with pytest.raises(ConfigError, match="label at least 10 of each"):
        fit_margin(tmp_path, labels, "labels", judge)
    assert not (tmp_path / "margin.json").exists()
