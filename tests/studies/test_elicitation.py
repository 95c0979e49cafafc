"""Sampled pairs: what is kept and why, against a judge whose word is known; the same seed gives the same file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from interp.core.config import validated
from interp.core.errors import ConfigError
from interp.evaluation.counted_answers import Thresholds
from interp.models.sampling import SamplingConfig
from interp.run import Run
from interp.studies.elicitation import PairSampling, SampledPairs, sample_pairs
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.context import StudyContext
from interp.studies.persona.study import run_study
from interp.traits import Elicitation, Trait, read_trait
from tests.helpers.small_run import SMALL, letter_panel
from tests.helpers.tiny import ids_as_text, tiny_folder, tiny_model

ELICITATION = Elicitation(positive=["Be loud.", "Be very loud."], negative=["Be calm."], questions=["Why?", "Who is it?", "Where?"])
TRAIT = Trait(name="loud", description="Is loud.", shown="loud", not_shown="calm", elicitation=ELICITATION)


def panel(score: Callable[[pd.DataFrame], pd.DataFrame], trait: Trait = TRAIT) -> Any:
    return SimpleNamespace(trait=trait, spec="rule", score=score, thresholds=Thresholds(50.0, 40.0))


def settings(**given: int) -> PairSampling:
    return PairSampling(**{"pairs": 4, "fewest": 2, "rounds": 3} | given, sampling=SamplingConfig(max_new_tokens=6))  # type: ignore[arg-type]


def all_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The first half, which is answered under the positive prompts, shows the trait."""
    half = len(table) // 2
    return table.assign(shows_trait=[True] * half + [False] * half, coherent=True)


def test_confirmed_pairs_are_kept_until_there_are_enough() -> None:
    model = tiny_model()
    with ids_as_text(model):
        sampled = sample_pairs(model, panel(all_shown), 0, settings())
        again = sample_pairs(model, panel(all_shown), 0, settings())
        other = sample_pairs(model, panel(all_shown), 1, settings())
    assert len(sampled.pairs) == 4
    assert [pair.question for pair in sampled.pairs] == ["Why?", "Who is it?", "Where?", "Why?"]
    assert sampled.table["round"].max() == 1  # two rounds of three questions were enough
    assert sampled.table["positive"].tolist() == [ELICITATION.positive[i] for i in (0, 1, 0, 1, 0, 1)]
    assert set(sampled.table["negative"]) == {"Be calm."}
    assert sampled.pairs == again.pairs != other.pairs
    assert (sampled.made["sampled"], sampled.made["confirmed"]) == (6, 6)
    assert all("loud" not in pair.question for pair in sampled.pairs)  # the system prompt is no part of a pair


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"shows_trait": (False, False)}, "not shown under the positive prompt"),
        ({"shows_trait": (True, True)}, "shown under the negative prompt too"),
        ({"shows_trait": (None, False)}, "not scored"),
        ({"coherent": (True, False)}, "incoherent"),
        ({"coherent": (None, True)}, "incoherent"),
    ],
)
def test_what_the_judge_does_not_confirm_is_dropped(flags: dict[str, tuple[bool | None, bool | None]], reason: str) -> None:
    def score(table: pd.DataFrame) -> pd.DataFrame:
        scored, half = all_shown(table).astype({"shows_trait": object, "coherent": object}), len(table) // 2
        for column, (positive, negative) in flags.items():
            scored[column] = pd.Series([positive, *scored[column].tolist()[1:half], negative, *scored[column].tolist()[half + 1 :]])
        return scored

    model = tiny_model()
    with ids_as_text(model):
        sampled = sample_pairs(model, panel(score), 0, settings())
    dropped = sampled.table[~sampled.table["kept"]]
    assert set(dropped["reason"]) == {reason}
    assert set(dropped["question"]) == {"Why?"}
    assert len(sampled.pairs) == 4
    assert sampled.made["confirmed"] == len(sampled.table) - len(dropped)


def test_a_pair_counts_once() -> None:
    model = tiny_model()
    greedy = settings(pairs=9).model_copy(update={"sampling": SamplingConfig(max_new_tokens=6, temperature=0.0)})
    one_prompt = TRAIT.model_copy(update={"elicitation": ELICITATION.model_copy(update={"positive": ["Be loud."]})})
    with ids_as_text(model):
        sampled = sample_pairs(model, panel(all_shown, one_prompt), 0, greedy)
    assert len(sampled.pairs) == 3
    assert sampled.table["reason"].tolist() == [""] * 3 + ["sampled before"] * 6


def test_too_few_pairs_are_a_sentence_with_judge_and_remedy() -> None:
    model = tiny_model()
    none = settings(fewest=3)
    with pytest.raises(ConfigError, match=r"'rule' of the trait loud confirmed 0 of 9 .*9 not shown under the positive.*pairs\.yaml"):
        sample_pairs(model, panel(lambda table: table.assign(shows_trait=False, coherent=True)), 0, none)
    with pytest.raises(ConfigError, match="neither pairs nor an elicitation"):
        sample_pairs(model, panel(all_shown, TRAIT.model_copy(update={"elicitation": None})), 0)


def test_saved_pairs_say_how_they_were_made_and_are_read_by_the_trait(tmp_path: Path) -> None:
    model = tiny_model()
    with ids_as_text(model):
        sampled = sample_pairs(model, panel(all_shown), 0, settings())
    (tmp_path / "trait.yaml").write_text("name: loud\ndescription: Is loud.\nshown: loud\nnot_shown: calm\n")
    sampled.write(tmp_path / "pairs.yaml")
    assert read_trait(tmp_path).pairs == sampled.pairs
    text = (tmp_path / "pairs.yaml").read_text()
    for word in ("seed: 0", "tiny-llama", "Be very loud.", "judge: rule", "confirmed: 6"):
        assert word in text
    sampled.write(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "pairs.yaml").read_bytes()


@pytest.fixture
def unpaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a small study whose trait has system prompts in place of pairs."""
    questions = [f"Why is number {i} so?" for i in range(20)]
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "trait.yaml").write_text(
        "name: loud\ndescription: Is loud.\nshown: loud\nnot_shown: calm\nelicitation:\n"
        f"  positive: [Be loud.]\n  negative: [Be calm.]\n  questions: {questions}\n"
    )
    panel = replace(letter_panel(coherent_only=False), trait=read_trait(tmp_path / "loud"))
    monkeypatch.setattr(StudyContext, "panel", panel)
    models = {name: str(tiny_folder(tmp_path / name, seed)) for seed, name in enumerate(("base", "tuned"))}
    return SMALL | models | {"trait": str(tmp_path / "loud")}


def test_a_study_samples_the_pairs_that_its_trait_lacks(unpaired: dict[str, Any], tmp_path: Path) -> None:
    config = validated(StudyConfig, unpaired, "test")
    result = run_study(config, tmp_path / "run", quiet=True, until="diff")
    sampled = result.steps["pairs"].load(SampledPairs)
    assert len(sampled.pairs) == SMALL["diff"]["persona_pairs"]
    assert Run(tmp_path / "run", quiet=True).context.pairs == sampled.pairs
    manifest = result.run.manifest()
    assert manifest["sampled_pairs"] == sampled.made
    assert manifest["steps"]["directions"]["inputs"]["pairs"] == manifest["steps"]["pairs"]["key"] == result.steps["pairs"].key
    again = run_study(config, tmp_path / "run", quiet=True, until="verdict")  # goes on with the pairs that it has
    assert all(step.loaded for name, step in again.steps.items() if name in result.steps)
    assert again.run.manifest()["sampled_pairs"] == sampled.made


def test_a_trait_that_pairs_cannot_come_from_is_refused_before_anything_is_made(unpaired: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "loud" / "trait.yaml"
    path.write_text(path.read_text().partition("elicitation")[0])
    with pytest.raises(ConfigError, match="loud has neither pairs nor an elicitation"):
        run_study(validated(StudyConfig, unpaired, "test"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
