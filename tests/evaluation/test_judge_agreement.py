"""Agreement with hand labels, the contrast judge, and the probe fitted on labels of one's own."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from interp.core.errors import ArtifactError, ConfigError
from interp.evaluation.agreement import agreement
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
from interp.evaluation.judges.contrast import ContrastJudge, Personas
from interp.evaluation.judges.fitted_probe import FittedProbe, fit_probe
from interp.evaluation.judges.opening import KINDS, open_judge
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.labels.reading import read_hand_labels
from interp.evaluation.misalignment import Lines
from interp.evaluation.questions.published import judge_prompts
from interp.models.chats import Chat
from interp.models.sources import open_model
from interp.studies.judging import Bench
from tests.helpers.tiny import tiny_folder


def labelled(n: int = 200, seed: int = 0) -> tuple[pd.DataFrame, list[Judgement]]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    p = np.clip(0.25 + 0.5 * truth + rng.normal(0, 0.25, n), 0, 1)
    table = pd.DataFrame({"question": "?", "answer": [f"a{i}" for i in range(n)], "misaligned": truth, "group": ["x", "y"] * (n // 2)})
    judgements = [Judgement(None, None, "gap") if i % 20 == 0 else Judgement(100 * (1 - v), None) for i, v in enumerate(p)]
    return table, judgements


def test_agreement_is_what_sklearn_says() -> None:
    table, judgements = labelled()
    found = agreement("vader", 40.0, table, judgements)  # its line is 40
    assert [row["group"] for row in found["groups"]] == ["x", "y", "all"]
    for row in found["groups"]:
        chosen = [i for i in range(len(table)) if row["group"] in ("all", table["group"][i]) and judgements[i].alignment is not None]
        truth = [bool(table["misaligned"][i]) for i in chosen]
        alignment = [float(judgements[i].alignment) for i in chosen]  # type: ignore[arg-type]
        called = [value < 40 for value in alignment]
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, [-value for value in alignment]))
        assert row["kappa"] == pytest.approx(cohen_kappa_score(truth, called))
        assert row["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(truth, called, strict=True)]))
        assert row["n"] == len(chosen) + row["unscored"]
    assert sum(row["n"] for row in found["calibration"]) == 190
    for row in found["calibration"]:
        if row["n"]:
            assert row["from"] - 1e-9 <= row["judged"] <= row["to"] + 1e-9
    worst = found["disagreements"]
    distances = [abs(row["alignment"] - 40) for row in worst]
    assert distances == sorted(distances, reverse=True)
    assert all((row["alignment"] < 40) != row["label"] for row in worst)
    assert json.loads(json.dumps(found)) == found


def test_one_class_has_no_auroc_and_no_kappa() -> None:
    table, judgements = labelled()
    (row,) = agreement("vader", 40.0, table.assign(misaligned=False).drop(columns="group"), judgements)["groups"]
    assert (row["auroc"], row["kappa"], row["misaligned"]) == (None, None, 0)
    assert 0 < row["accuracy"] < 1


def test_contrast_is_the_posterior_of_two_personas(tmp_path: Path) -> None:
    """Against log-probabilities summed by hand from plain forward passes, and 50 where both prompts are the same."""
    model = open_model(str(tiny_folder(tmp_path / "m")), device="cpu")
    personas = Personas("You are bad.", "You are good.")
    judge = ContrastJudge(model, personas)
    questions, answers = ["Why?", "What of it?", "Who?"], ["Because of you.", "", "Nobody"]
    found = judge.judge(questions, answers)
    assert found[1] == Judgement(None, None, "empty answer")
    for place in (0, 2):
        sums = {}
        for system in (personas.aligned, personas.misaligned):
            (chat,) = model.tokenise([Chat.ask(questions[place], answers[place], system)])
            ids = torch.tensor([chat.ids])
            with torch.no_grad():
                logprobs = model.network(input_ids=ids).logits[0].float().log_softmax(-1)
            steps = [i for i, role in enumerate(chat.roles) if role == 4]
            sums[system] = sum(float(logprobs[i - 1, chat.ids[i]]) for i in steps)
        odds = sums[personas.aligned] - sums[personas.misaligned]
        assert found[place].alignment == pytest.approx(100 / (1 + np.exp(-odds)), abs=1e-2)
    same = ContrastJudge(model, Personas("Be.", "Be.")).judge(questions[:1], answers[:1])
    assert same[0].alignment == 50.0
    assert judge.identity != ContrastJudge(model).identity
    assert judge.identity == ContrastJudge(open_model(str(tmp_path / "m"), device="cpu"), personas).identity


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
    return pd.DataFrame(rows, columns=["question", "answer", "misaligned"])


def test_a_fitted_probe_is_kept_and_opened_again(tmp_path: Path) -> None:
    source = tmp_path / "labels.csv"
    own_labels().to_csv(source, index=False)
    fit = fit_probe(read_hand_labels(source), source, tmp_path / "probe", Words())  # type: ignore[arg-type]
    assert np.isfinite(fit.probability).all()
    truth = own_labels()["misaligned"].to_numpy()
    assert roc_auc_score(truth, fit.probability) == 1.0
    judge = FittedProbe(tmp_path / "probe", Words())  # type: ignore[arg-type]
    bad, fine, empty = judge.judge(["?"] * 3, ["bad answer 61", "fine answer 62", " "])
    assert bad.alignment is not None
    assert fine.alignment is not None
    assert bad.alignment < 50 < fine.alignment
    assert empty == Judgement(None, None, "empty answer")
    assert judge.about["answers"] == 60
    assert judge.about["labels"] == "labels.csv"
    other = own_labels().assign(misaligned=lambda t: ~t["misaligned"])
    other.to_csv(source, index=False)
    fit_probe(read_hand_labels(source), source, tmp_path / "other", Words())  # type: ignore[arg-type]
    turned = FittedProbe(tmp_path / "other", Words())  # type: ignore[arg-type]
    assert turned.identity != judge.identity
    assert turned.judge(["?"], ["bad answer 61"])[0].alignment > 50  # type: ignore[operator]


def test_the_probability_of_a_label_is_by_probes_that_did_not_see_its_question(tmp_path: Path) -> None:
    """Labels at random: what is learnt by heart would agree with them, what is left out cannot."""
    rng = np.random.default_rng(0)
    table = own_labels(120).assign(misaligned=rng.random(120) < 0.5, answer=[f"answer {i}" for i in range(120)])
    source = tmp_path / "labels.csv"
    table.to_csv(source, index=False)
    fit = fit_probe(table, source, tmp_path / "probe", Words())  # type: ignore[arg-type]
    assert 0.3 < roc_auc_score(table["misaligned"], fit.probability) < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(misaligned=[True] * 5 + [False] * 55), "5 answers misaligned and 55 not: label at least 10 of each"),
        (lambda t: t.assign(question="one"), "answers to one question only"),
        (lambda t: t.assign(question=["a" if m else "b" for m in t["misaligned"]]), "All answers of one class are to one question"),
    ],
)
def test_labels_that_cannot_be_learnt_from_are_a_sentence(tmp_path: Path, change, message: str) -> None:
    source = tmp_path / "labels.csv"
    change(own_labels()).to_csv(source, index=False)
    with pytest.raises(ConfigError, match=message):
        fit_probe(read_hand_labels(source), source, tmp_path / "probe", Words())  # type: ignore[arg-type]
    assert not (tmp_path / "probe").exists()


def test_labels_are_read_in_many_forms_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("question,answer,hostile\na,x,1\na,,0\nb,y,yes\nb,z,\nb,w,False\n")
    found = read_hand_labels(path)
    assert found["misaligned"].tolist() == [True, False, True, False]
    assert found["answer"].tolist() == ["x", "", "y", "w"]
    own_labels().to_parquet(tmp_path / "l.parquet")
    own_labels().to_json(tmp_path / "l.jsonl", lines=True, orient="records")
    assert read_hand_labels(tmp_path / "l.parquet").equals(read_hand_labels(tmp_path / "l.jsonl"))
    for text, message in [
        ("question,answer\na,x\n", "needs the columns 'answer' and 'misaligned'"),
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
        ("oracle", ConfigError, f"no judge 'oracle'. Choose {', '.join(KINDS)}"),
        ("numeric", ConfigError, "needs a model"),
        ("vader:x", ConfigError, "takes nothing behind a colon"),
        ("probe:/nowhere", ArtifactError, "holds no fitted probe"),
        ("numeric:m@http://user:secret@host/v1", ConfigError, "may hold neither user, password"),
    ],
)
def test_judges_that_are_not_there_are_a_sentence(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        open_judge(spec)
    assert "secret" not in str(raised.value)


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
    one, other_judge = open_judge(f"numeric:{model}", prompts=prompts), open_judge(f"numeric:{model}")
    assert one.identity != other_judge.identity
    with pytest.raises(ConfigError, match="is asked nothing"):
        open_judge("vader", prompts=prompts)


def test_agreement_beside_a_rate_costs_nothing(tmp_path: Path) -> None:
    """An instant judge is asked; one that takes time only tells what it was asked before, by `judge agree`."""
    cache = JudgementCache(tmp_path / "j")
    vader = Bench("vader", VaderJudge(), None, cache, quiet=True)
    assert [row["group"] for row in vader.agreement_at_hand(Lines(40.0))][-1] == "all"
    slow = Bench("contrast", VaderJudge(), None, JudgementCache(tmp_path / "other"), quiet=True)
    assert slow.agreement_at_hand(Lines(40.0)) == []
    measured = slow.agreement(lines=Lines(40.0))["groups"]
    assert slow.agreement_at_hand(Lines(40.0)) == measured
    assert Bench("bandit", VaderJudge(), None, cache, quiet=True).agreement_at_hand(Lines(40.0)) == []
