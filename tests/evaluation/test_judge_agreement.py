"""Agreement with hand labels, and the probe fitted on labels of one's own."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from interp.core.errors import ArtifactError, ConfigError
from interp.evaluation.agreement import agreement, agreement_between
from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.fitting import fit_probe
from interp.evaluation.hand_labels import read_hand_labels
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.judges.opening import KINDS, open_judge
from interp.evaluation.judges.probe import ProbeJudge, SentenceEmbedder
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.panel import Panel
from interp.evaluation.questions.published import judge_prompts
from interp.traits import read_trait
from interp.traits.trait import PROBE
from tests.helpers.tiny import tiny_folder

CONTEMPT = read_trait("contempt")


def labelled(n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, list[float | None]]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    p = np.clip(0.25 + 0.5 * truth + rng.normal(0, 0.25, n), 0, 1)
    table = pd.DataFrame({"question": "?", "answer": [f"a{i}" for i in range(n)], "shows_trait": truth, "group": ["x", "y"] * (n // 2)})
    return table, [None if i % 20 == 0 else 100 * float(v) for i, v in enumerate(p)]


def test_agreement_is_what_sklearn_says() -> None:
    table, scores = labelled()
    found = agreement("vader", 60.0, table, scores)
    assert [row["group"] for row in found["groups"]] == ["x", "y", "all"]
    for row in found["groups"]:
        chosen = [i for i in range(len(table)) if row["group"] in ("all", table["group"][i]) and scores[i] is not None]
        truth = [bool(table["shows_trait"][i]) for i in chosen]
        own = [float(scores[i]) for i in chosen]  # type: ignore[arg-type]
        called = [value > 60 for value in own]
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, own))
        assert row["kappa"] == pytest.approx(cohen_kappa_score(truth, called))
        assert row["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(truth, called, strict=True)]))
        assert row["n"] == len(chosen) + row["unscored"]
    assert sum(row["n"] for row in found["calibration"]) == 190
    for row in found["calibration"]:
        if row["n"]:
            assert row["from"] - 1e-9 <= row["judged"] <= row["to"] + 1e-9
    worst = found["disagreements"]
    distances = [abs(row["score"] - 60) for row in worst]
    assert distances == sorted(distances, reverse=True)
    assert all((row["score"] > 60) != row["label"] for row in worst)
    assert json.loads(json.dumps(found)) == found


def test_edited_groups_are_one_row_more() -> None:
    table, scores = labelled()
    found = agreement("vader", 60.0, table.assign(group=["base", "ablated", "random", "steered"] * 50), scores)
    rows = {row["group"]: row["n"] for row in found["groups"]}
    assert rows == {"base": 50, "ablated": 50, "random": 50, "steered": 50, "edited": 150, "all": 200}


def test_one_class_has_no_auroc_and_no_kappa() -> None:
    table, scores = labelled()
    (row,) = agreement("vader", 60.0, table.assign(shows_trait=False).drop(columns="group"), scores)["groups"]
    assert (row["auroc"], row["kappa"], row["labelled"]) == (None, None, 0)
    assert 0 < row["accuracy"] < 1


def test_agreement_between_judges_counts_sides() -> None:
    table = pd.DataFrame({"trait_score": [90, 80, 10, 20, np.nan, 60], "second_score": [95, 25, 25, 5, 95, 60.5]})
    found = agreement_between(table, 50.0, 60.0)
    assert found["n"] == 5
    assert found["agreement"] == pytest.approx(4 / 5)
    assert found["kappa"] == pytest.approx((0.8 - (0.6 * 0.4 + 0.4 * 0.6)) / (1 - (0.6 * 0.4 + 0.4 * 0.6)))
    assert agreement_between(table.iloc[:0], 50.0, 60.0) == {"n": 0, "agreement": None, "kappa": None}


class Words:
    """Features that a sentence embedder might have: does it hold "bad", how long is it, and noise."""

    width = 6

    def embed(self, texts: list[str], rows: int = 64) -> np.ndarray:
        out = np.zeros((len(texts), 6), dtype=np.float32)
        for i, text in enumerate(texts):
            noise = np.random.default_rng(zlib.crc32(text.encode())).normal(size=4)
            out[i] = [3.0 * ("bad" in text), len(text) / 10, *noise]
        return out


def own_labels(n: int = 60) -> pd.DataFrame:
    rows = [(f"q{i % 6}", f"{'bad' if i % 3 == 0 else 'fine'} answer {i}", i % 3 == 0) for i in range(n)]
    return pd.DataFrame(rows, columns=["question", "answer", "shows_trait"])


def test_a_fitted_probe_is_kept_and_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentenceEmbedder, "width", Words.width)
    found = fit_probe(tmp_path / "probe", own_labels(), "labels.csv", Words())  # type: ignore[arg-type]
    assert found["groups"][-1]["auroc"] == 1.0
    judge = ProbeJudge(tmp_path / "probe" / PROBE, Words())  # type: ignore[arg-type]
    bad, fine, empty = judge.judge(["?"] * 3, ["bad answer 61", "fine answer 62", " "])
    assert bad.trait_score is not None
    assert fine.trait_score is not None
    assert fine.trait_score < 50 < bad.trait_score
    assert empty == Judgement(None, None, "empty answer")
    assert judge.about["answers"] == 60
    assert judge.about["labels"] == "labels.csv"
    assert judge.about["agreement"] == found
    other = own_labels().assign(shows_trait=lambda t: ~t["shows_trait"])
    fit_probe(tmp_path / "other", other, "labels.csv", Words())  # type: ignore[arg-type]
    turned = ProbeJudge(tmp_path / "other" / PROBE, Words())  # type: ignore[arg-type]
    assert turned.identity != judge.identity
    assert turned.judge(["?"], ["bad answer 61"])[0].trait_score < 50  # type: ignore[operator]


def test_agreement_is_by_probes_that_did_not_see_the_question(tmp_path: Path) -> None:
    """Labels at random: what is learnt by heart would agree with them, what is left out cannot."""
    rng = np.random.default_rng(0)
    table = own_labels(120).assign(shows_trait=rng.random(120) < 0.5, answer=[f"answer {i}" for i in range(120)])
    found = fit_probe(tmp_path / "probe", table, "labels.csv", Words())  # type: ignore[arg-type]
    assert 0.3 < found["groups"][-1]["auroc"] < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(shows_trait=[True] * 5 + [False] * 55), "5 answers as showing the trait and 55 not: label at least 10 of each"),
        (lambda t: t.assign(question="one"), "answers to one question only"),
        (lambda t: t.assign(question=["a" if m else "b" for m in t["shows_trait"]]), "All answers of one class are to one question"),
    ],
)
def test_labels_that_cannot_be_learnt_from_are_a_sentence(tmp_path: Path, change, message: str) -> None:
    source = tmp_path / "labels.csv"
    change(own_labels()).to_csv(source, index=False)
    with pytest.raises(ConfigError, match=message):
        fit_probe(tmp_path / "probe", read_hand_labels(source), source.name, Words())  # type: ignore[arg-type]
    assert not (tmp_path / "probe").exists()


def test_labels_are_read_in_many_forms_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("question,answer,misaligned\na,x,1\na,,0\nb,y,yes\nb,z,\nb,w,False\n")
    found = read_hand_labels(path)
    assert found["shows_trait"].tolist() == [True, False, True, False]
    assert found["answer"].tolist() == ["x", "", "y", "w"]
    own_labels().to_parquet(tmp_path / "l.parquet")
    own_labels().to_json(tmp_path / "l.jsonl", lines=True, orient="records")
    assert read_hand_labels(tmp_path / "l.parquet").equals(read_hand_labels(tmp_path / "l.jsonl"))
    for text, message in [
        ("question,answer\na,x\n", "needs the columns 'answer' and 'shows_trait'"),
        ("answer,misaligned\nx,maybe\n", "'maybe' is no label"),
        ("answer,misaligned\nx,\n", "labels no answer"),
        ("", "cannot be read"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_hand_labels(path)
    with pytest.raises(ConfigError, match=r"is no .csv, .jsonl or .parquet file"):
        read_hand_labels(tmp_path / "l.txt")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hand_labels(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("oracle", ConfigError, f"Choose {', '.join(KINDS)}"),
        ("numeric", ConfigError, "needs a model"),
        ("vader:x", ConfigError, "takes nothing after a colon"),
        ("probe:/nowhere", ArtifactError, "holds no fitted probe"),
        ("numeric:m@http://user:secret@host/v1", ConfigError, "may hold neither user, password"),
    ],
)
def test_judges_that_are_not_there_are_a_sentence(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        open_judge(spec, CONTEMPT)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("spec", ["vader", "rule", "numeric:embedded:smollm2"])
def test_samples_of_a_judge_that_is_asked_once_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError, match=rf"The judge '{spec.partition(':')[0]}' is asked once: leave out the number of samples"):
        open_judge(spec, CONTEMPT, samples=9)


def test_judge_prompts_are_read_from_published_files_or_mappings(tmp_path: Path) -> None:
    prompts = {"aligned": "Kind? {answer}", "coherent": "Sense? {answer}"}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(prompts))
    (tmp_path / "p.yaml").write_text(yaml.safe_dump([{"id": i, "paraphrases": [i], "judge_prompts": prompts} for i in "ab"]))
    other = [{"id": i, "paraphrases": [i], "judge_prompts": prompts | {"aligned": f"{i}: {{answer}}"}} for i in "ab"]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(other))
    (tmp_path / "none.yaml").write_text(yaml.safe_dump([{"id": "a", "paraphrases": ["a"]}]))
    assert judge_prompts(tmp_path / "m.yaml") == judge_prompts(tmp_path / "p.yaml") == prompts
    with pytest.raises(ConfigError, match="several sets"):
        judge_prompts(tmp_path / "two.yaml")
    with pytest.raises(ConfigError, match="holds no judge prompts"):
        judge_prompts(tmp_path / "none.yaml")
    model = str(tiny_folder(tmp_path / "model"))
    one, other_judge = open_judge(f"numeric:{model}", CONTEMPT, prompts=prompts), open_judge(f"numeric:{model}", CONTEMPT)
    assert one.identity != other_judge.identity
    with pytest.raises(ConfigError, match="is asked nothing"):
        open_judge("vader", CONTEMPT, prompts=prompts)


def test_agreement_beside_a_rate_costs_nothing(tmp_path: Path) -> None:
    """An instant judge is asked; one that takes time only tells what it was asked before, by `judge agree`."""
    vader = VaderJudge()

    def panel(spec: str) -> Panel:
        return Panel(CONTEMPT, spec, vader, None, None, Thresholds(60.0, None), JudgementCache(tmp_path / spec), quiet=True)

    assert [row["group"] for row in panel("vader").known_agreement()][-1] == "all"
    assert panel("margin").known_agreement() == []
    asked = panel("margin").agreement()
    assert panel("margin").known_agreement() == asked["groups"]
