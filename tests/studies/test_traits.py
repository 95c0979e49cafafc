"""What `trait check` finds missing, and the sentence that sums it up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from interp.core.errors import ConfigError
from interp.studies.traits import ENOUGH_LABELS, ENOUGH_PAIRS, Separation, TraitCheck, check_trait, find_gaps
from interp.traits import Trait, read_trait
from tests.helpers.tiny import tiny_model

SETTINGS: dict[str, Any] = {
    "name": "shy",
    "description": "Is shy.",
    "shown": "shy",
    "not_shown": "frank",
    "judge": {"spec": "rule", "rule": {"rules": [{"words": ["um"]}]}},
}
ELICITATION = {"positive": ["Be shy."], "negative": ["Be frank."], "questions": ["Who?"]}


def write(folder: Path, settings: dict[str, Any] | None = None, pairs: int = ENOUGH_PAIRS, labels: int = ENOUGH_LABELS) -> Trait:
    """A trait that has everything, but for what the arguments take from it."""
    folder.mkdir(exist_ok=True)
    (folder / "trait.yaml").write_text(yaml.safe_dump(SETTINGS | (settings or {})))
    if pairs:
        rows = [{"question": f"What of number {i}?", "shows": f"um, {i}", "not_shown": f"It is {i}."} for i in range(pairs)]
        (folder / "pairs.yaml").write_text(yaml.safe_dump({"pairs": rows}))
    lines = [f"{('base', 'ablated')[i % 2]},,Why?,um {i},{i % 3 == 0:d},1" for i in range(labels)]
    (folder / "labels.csv").write_text("\n".join(["group,condition,question,answer,shows_trait,coherent", *lines]))
    return read_trait(folder)


def test_a_whole_trait_has_no_gap(tmp_path: Path) -> None:
    assert find_gaps(write(tmp_path)) == []
    assert find_gaps(write(tmp_path / "sampled", {"elicitation": ELICITATION}, pairs=0)) == []


@pytest.mark.parametrize(
    ("settings", "counts", "missing", "blocks"),
    [
        ({}, {"pairs": 0}, "pairs", True),
        ({}, {"pairs": 5}, "19 more pairs", False),
        ({}, {"labels": 0}, "hand labels, 60 at least (there is none)", False),
        ({}, {"labels": 9}, "there are 9, 3 of which show the trait", False),
        ({"judge": {"spec": "rule"}}, {}, "judge.rule", True),
        ({"judge": {"spec": "margin"}}, {}, "elicitation", True),
        ({"judge": {"spec": "probe"}}, {}, "a fitted probe", True),
        ({"judge": {"spec": "inspect", "prompt": "{answer}?"}}, {}, "the judge's model", True),
        ({"questions": "nowhere"}, {}, "the question set", True),
    ],
)
def test_one_gap_is_found_alone(tmp_path: Path, settings: dict[str, Any], counts: dict[str, int], missing: str, blocks: bool) -> None:
    (gap,) = find_gaps(write(tmp_path, settings, **counts))
    assert missing in gap.missing
    assert gap.blocks == blocks
    verdict = check_trait(read_trait(tmp_path)).verdict
    assert verdict.startswith("Not ready: " + gap.costs if blocks else "Usable, with doubts: ")


def test_labels_of_unedited_models_alone_are_a_gap(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text().replace("ablated", "tuned"))
    (gap,) = find_gaps(read_trait(tmp_path))
    assert gap.missing.startswith("labelled answers of edited models")


def test_pairs_that_ask_what_the_models_are_asked_are_a_gap(tmp_path: Path) -> None:
    questions = [
        {"id": f"q{i}", "group": "g", "split": split, "text": f"What of number {i}?"} for i, split in ((3, "selection"), (99, "held_out"))
    ]
    write(tmp_path, {"questions": "own.yaml"})
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own", "questions": questions}))
    (gap,) = find_gaps(read_trait(tmp_path))
    assert "1 pairs ask a question of 'own.yaml'" in gap.missing


def test_a_broken_file_is_an_error_not_a_gap(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "pairs.yaml").write_text("pairs: 3")
    with pytest.raises(ConfigError, match=r"pairs\.yaml"):
        find_gaps(read_trait(tmp_path))


def row(auroc: float | None) -> dict[str, Any]:
    return {"group": "all", "n": 80, "labelled": 40, "unscored": 0, "auroc": auroc, "accuracy": 0.9, "kappa": 0.8}


@pytest.mark.parametrize(
    ("judge", "coherence", "pairs", "said"),
    [
        ([row(0.95)], [row(0.93)], 0.99, "Ready: the judge has AUROC 0.95 on 80 labelled answers, the pairs AUROC 0.99 in m."),
        ([row(0.95)], [], None, "Ready: the judge has AUROC 0.95 on 80 labelled answers."),
        ([row(0.7)], [row(0.93)], 0.99, "Usable, with doubts: the judge agrees poorly with the labels (AUROC 0.70)."),
        ([row(0.95)], [row(0.6)], 0.99, "Usable, with doubts: the coherence judge agrees poorly with the labels (AUROC 0.60)."),
        ([row(0.95)], [], 0.8, "Usable, with doubts: the pairs separate poorly in m (AUROC 0.80)."),
        ([row(None)], [], None, "Usable, with doubts: nothing says how far its judge can be believed."),
    ],
)
def test_the_verdict_is_one_sentence(judge: list[dict[str, Any]], coherence: list[dict[str, Any]], pairs: float | None, said: str) -> None:
    separated = None if pairs is None else Separation("m", "blocks.0.hook_resid_post", 24, pairs, 1.0, 0.9)
    assert TraitCheck("shy", [], judge, coherence, separated).verdict == said


def test_pairs_are_read_by_the_model_where_there_are_enough(tmp_path: Path) -> None:
    result = check_trait(write(tmp_path), model=tiny_model())
    assert result.separation is not None
    assert result.separation.pairs == ENOUGH_PAIRS
    assert check_trait(write(tmp_path / "few", pairs=3), model=tiny_model()).separation is None
    assert result.as_json()["separation"]["model"] == "tiny-llama"
