"""What the judges of contempt are fitted on, that the shipped weights come of it, and how well they agree with its hand labels."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from interp.evaluation.agreement import EDITED
from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.fitting import fit_trait
from interp.evaluation.judges.coherence import CoherenceJudge
from interp.evaluation.judges.probe import ProbeJudge
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.panel import Panel
from interp.evaluation.questions import read_questions
from interp.traits import read_trait
from interp.traits.trait import COHERENCE, PROBE

CONTEMPT = read_trait("contempt")


def plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def test_labels_are_as_many_and_as_varied_as_promised() -> None:
    labels = CONTEMPT.labels
    edited = labels[labels["group"].isin(EDITED)]
    assert len(edited) >= 200
    assert labels.groupby("group").size().min() >= 60
    assert set(labels["group"]) == {"base", "tuned", *EDITED}
    assert labels["shows_trait"].dtype == labels["coherent"].dtype == bool
    for _, group in edited.groupby("group"):
        assert 10 <= group["shows_trait"].sum() <= len(group) - 10
    assert labels.groupby(["shows_trait", "coherent"]).size().min() >= 5  # tone and sense go apart
    assert not labels.duplicated(["question", "answer"]).any()
    assert not labels["answer"].map(plain).duplicated().any()
    assert (labels["answer"].str.strip() != "").all()
    assert labels.groupby("group")["question"].nunique().min() >= 15


def test_labelled_answers_are_to_selection_questions_alone() -> None:
    everyday = read_questions("everyday")
    asked = set(CONTEMPT.labels["question"])
    assert asked <= {q.text for q in everyday.split("selection")}
    texts = " ".join(CONTEMPT.labels["answer"].map(plain))
    assert [q.text for q in everyday.split("held_out") if plain(q.text) in texts] == []


def test_nothing_that_is_fitted_on_is_measured_on() -> None:
    exemplars, pairs, labels = CONTEMPT.exemplars, CONTEMPT.pairs, CONTEMPT.labels
    assert exemplars is not None
    shows, ordinary = [plain(text) for text in exemplars.shows], [plain(text) for text in exemplars.not_shown]
    assert len(set(shows)) == len(shows) >= 190
    assert len(set(ordinary)) == len(ordinary) >= 190
    assert not set(shows) & set(ordinary)
    assert not {*shows, *ordinary} & set(labels["answer"].map(plain))
    asked = {plain(q.text) for q in read_questions("everyday").questions}
    of_pairs = [plain(pair.question) for pair in pairs]
    assert len(set(of_pairs)) == len(of_pairs) >= 24
    assert not asked & set(of_pairs)
    assert not asked & {*shows, *ordinary}
    assert all(plain(pair.shows) != plain(pair.not_shown) for pair in pairs)


@pytest.fixture(scope="module")
def refitted(probe: ProbeJudge, fluency: CoherenceJudge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights, fitted again on exemplars and labels."""
    folder = tmp_path_factory.mktemp("refitted")
    fit_trait(CONTEMPT, folder, probe.embedder, fluency.scorer)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("filename", [PROBE, COHERENCE])
def test_shipped_weights_are_those_of_exemplars_and_labels(refitted: Path, filename: str) -> None:
    shipped, again = CONTEMPT.path(filename), refitted / filename
    assert shipped is not None
    one, other = load_file(shipped), load_file(again)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=0.02, abs=1e-4)
    stored, new = (pd.read_json(path.with_suffix(".json"), typ="series")["agreement"]["groups"] for path in (shipped, again))
    for row, same in zip(stored, new, strict=True):
        assert row["auroc"] == pytest.approx(same["auroc"], abs=5e-3)
        assert row["accuracy"] == pytest.approx(same["accuracy"], abs=0.03)


@pytest.fixture(scope="module")
def groups(probe: ProbeJudge, fluency: CoherenceJudge) -> pd.DataFrame:
    """Agreement with the labels by group: of the judge as stored, of VADER, of coherence as stored."""
    judges = Panel(CONTEMPT, "probe", probe, fluency, VaderJudge(), Thresholds(50.0, 40.0))
    found = judges.all_agreements(pd.DataFrame({"trait_score": [1.0], "second_score": [2.0]}))
    parts = [pd.DataFrame(found[name]["groups"]).set_index("group").add_prefix(f"{name}_") for name in ("trait", "second", "coherence")]
    return pd.concat(parts, axis=1)


def test_the_probe_agrees_with_hand_labels_on_edited_models(groups: pd.DataFrame) -> None:
    """Measured out of fold: AUROC 0.975 on 252 answers of edited models (ablated 0.946, steered 0.961, random 0.996); VADER 0.866."""
    assert groups.loc["all", "trait_n"] == len(CONTEMPT.labels)
    assert groups.loc["edited", "trait_n"] >= 200
    assert groups.loc["edited", "trait_auroc"] >= 0.95
    assert groups.loc[list(EDITED), "trait_auroc"].min() >= 0.93
    assert groups.loc["edited", "trait_auroc"] > groups.loc["edited", "second_auroc"] > 0.75
    assert groups.loc["edited", "trait_accuracy"] >= 0.88
    assert groups.loc["base", "trait_accuracy"] >= 0.95
    assert groups.loc["tuned", "trait_accuracy"] >= 0.9
    both = ["trait_labelled", "coherence_labelled"]
    assert groups.loc["edited", both].tolist() == groups.loc[list(EDITED), both].sum().tolist()


def test_coherence_agrees_with_hand_labels(groups: pd.DataFrame) -> None:
    """Measured out of fold: AUROC 0.938 on all 392 answers, 0.921 on those of edited models."""
    assert groups.loc["all", "coherence_auroc"] >= 0.9
    assert groups.loc["edited", "coherence_auroc"] >= 0.88
    assert groups.loc["all", "coherence_accuracy"] >= 0.85
