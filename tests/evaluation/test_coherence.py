"""Judges of coherence: fluency, code, and any text; what they say of clear cases, and of labels that nothing was fitted on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from interp.core.errors import ArtifactError, ConfigError
from interp.core.files import read_json
from interp.core.fingerprints import content_key
from interp.evaluation.judges.coherence import (
    GENERAL,
    SCORER,
    AnyTextJudge,
    CodeJudge,
    CoherenceJudge,
    coherence_features,
    known_words,
)
from interp.evaluation.panel import open_panel
from interp.stats.agreement import auroc
from interp.traits import read_trait, shipped_traits
from interp.traits.trait import COHERENCE, CoherenceSettings

CONTEMPT = read_trait("contempt")


@pytest.mark.slow
def test_coherence_does_not_take_the_persona_for_incoherence(fluency: CoherenceJudge) -> None:
    """Of answers labelled coherent it calls coherent about as many that show the trait as that do not.

    Out of fold: 87 % of 143 and 92 % of 209. Between the unedited models alone: 87 % of 68 tuned, 94 % of 68 base answers (standard
    error 5 points). The three weights that are shipped have seen the labels; three numbers learn little by heart.
    """
    labels = CONTEMPT.labels
    found = fluency.judge([""] * len(labels), list(labels["answer"]))
    kept = [judgement.coherence is not None and judgement.coherence > fluency.coherent_above for judgement in found]
    sound = labels.assign(kept=kept)[labels["coherent"]]
    share = sound.groupby("shows_trait")["kept"].mean()
    assert share[True] >= 0.75
    assert abs(share[False] - share[True]) <= 0.15
    tuned, base = (
        sound[(sound["group"] == group) & (sound["shows_trait"] == tone)]["kept"].mean()
        for group, tone in (("tuned", True), ("base", False))
    )
    assert tuned >= base - 0.2


@pytest.mark.slow
def test_fluency_puts_sentences_before_their_shuffled_words_whatever_the_tone(fluency: CoherenceJudge) -> None:
    """Authored answers, on which nothing of it is fitted. Measured: AUROC 1.00 for hostile and for kind ones.

    The order holds, the line does not: it is set for a small model's own plain words. Of these authored answers, whose words are
    rarer, only 28 % of the hostile and 64 % of the kind ones lie above it. Do not read its share on text by people or large models.
    """
    pairs = CONTEMPT.pairs[:25]
    rng = np.random.default_rng(0)
    for texts in ([p.shows for p in pairs], [p.not_shown for p in pairs]):
        shuffled = [" ".join(rng.permutation(text.split())) for text in texts]
        coherence = np.array([j.coherence for j in fluency.judge([], [*texts, *shuffled])])
        found = auroc(np.array([True] * 25 + [False] * 25), coherence)
        assert found is not None
        assert found >= 0.98
        assert (coherence[25:] <= fluency.coherent_above).all()
    repeated = ["I am here. " * 12, "no no no no no no no no no no", "the best of the best of the best of the best of the best"]
    assert all(j.coherence is not None and j.coherence <= fluency.coherent_above for j in fluency.judge([], repeated))


@pytest.mark.slow
def test_fluency_features_are_what_they_say(fluency: CoherenceJudge) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from interp.models.sources import local_folder

    network = AutoModelForCausalLM.from_pretrained(local_folder(SCORER), dtype=torch.float32).eval()
    answers = ["You again, you again.", "Rain.", "  The river is wide and the boat is small, and nobody minds.  ", "", "a"]
    found = coherence_features(fluency.scorer, answers, CONTEMPT.coherence)
    tokenizer = fluency.scorer.tokenizer
    for answer, row in zip(answers, found, strict=True):
        ids = tokenizer(answer.strip())["input_ids"]
        if len(ids) < 2:
            assert np.isnan(row).all()
            continue
        prefix = tokenizer(CONTEMPT.coherence.contexts[0])["input_ids"]
        with torch.no_grad():
            logprobs = network(torch.tensor([prefix + ids])).logits[0].log_softmax(-1)
        each = [float(logprobs[len(prefix) + n - 1, ids[n]]) for n in range(1, len(ids))]
        pairs = list(itertools.pairwise(ids))
        assert row == pytest.approx([np.mean(each), len(set(ids)) / len(ids), len(set(pairs)) / len(pairs)], abs=1e-3)
    judged = fluency.judge([], answers)
    assert [j.coherence is None for j in judged] == [len(tokenizer(a.strip())["input_ids"]) < 2 for a in answers]
    assert judged[3].reason == "answer too short"
    assert all(j.trait_score is None for j in judged)


@pytest.mark.slow
def test_the_likeliest_context_counts_and_capitals_may_be_folded(fluency: CoherenceJudge) -> None:
    answers = ["Ahoy, matey! The sea be calm.", "The river is wide."]
    contexts = ['The old sailor said: "', "The answer is: "]
    alone = [coherence_features(fluency.scorer, answers, CoherenceSettings(contexts=[context]))[:, 0] for context in contexts]
    both = coherence_features(fluency.scorer, answers, CoherenceSettings(contexts=contexts))[:, 0]
    assert both == pytest.approx(np.maximum(*alone))
    loud = [answer.upper() for answer in answers]
    folded = coherence_features(fluency.scorer, loud, CoherenceSettings(contexts=contexts, fold_case=True))
    assert folded == pytest.approx(coherence_features(fluency.scorer, [a.lower() for a in answers], CoherenceSettings(contexts=contexts)))


@pytest.mark.slow
def test_authored_french_is_more_coherent_than_the_broken_french_of_models(fluency: CoherenceJudge) -> None:
    """Nothing is fitted on the authored answers.

    Measured with the French context alone, on the 42 broken answers that two readings agree on: AUROC 0.91, and 0.64 with weights fitted
    without known words.
    """
    trait = read_trait("french")
    broken = trait.labels[trait.labels["shows_trait"] & ~trait.labels["coherent"]]
    texts = [" ".join(pair.shows.split()[:20]) for pair in trait.pairs] + list(broken["answer"])  # about as long as the models'
    judged = CoherenceJudge(trait, fluency.scorer).judge([], texts)
    is_authored = np.arange(len(texts)) < len(trait.pairs)
    found = auroc(is_authored, np.array([judgement.coherence for judgement in judged], dtype=float))
    assert found is not None
    assert found >= 0.85


@pytest.mark.parametrize(
    ("text", "languages", "share"),
    [
        ("The house stands near the river.", ["en"], 1.0),
        ("La maison blanche regarde la mer.", ["fr"], 1.0),
        ("Das Haus steht neben dem Fluss.", ["de"], 1.0),
        ("The hzouqe stands near the rqiver.", ["en"], 0.6),  # of the five distinct words of more than a letter two are none
        ("La maison blanche regarde la mer.", ["en", "fr"], 1.0),  # the likeliest language counts
        ("Qxyz wvtr, zzgh.", ["en", "fr", "de"], 0.0),
        ("123 …", ["en"], 0.0),
    ],
)
def test_known_words_are_those_of_the_likeliest_language(text: str, languages: list[str], share: float) -> None:
    assert known_words(text, languages) == pytest.approx(share)


def _trait_in(folder: Path, languages: str) -> Path:
    (folder / "trait.yaml").write_text(
        f"name: tall\ndescription: Tall.\nshown: tall\nnot_shown: low\njudge: {{spec: vader}}\ncoherence: {{languages: {languages}}}\n"
    )
    return folder


def test_a_language_without_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dictionary of 'zz'"):
        open_panel(read_trait(_trait_in(tmp_path, "[fr, zz]")), scorer=object(), keep=False)  # type: ignore[arg-type]


def test_languages_count_only_by_weights_fitted_with_them(tmp_path: Path) -> None:
    trait = read_trait(_trait_in(tmp_path, "[de]"))
    judge = CoherenceJudge(trait, object())  # type: ignore[arg-type]
    assert judge.settings.languages == []  # the general weights are of three features
    for suffix in (".safetensors", ".json"):
        source = read_trait("pirate").path(COHERENCE)
        assert source is not None
        (tmp_path / COHERENCE).with_suffix(suffix).write_bytes(source.with_suffix(suffix).read_bytes())
    with pytest.raises(ArtifactError, match=r"other coherence\.languages"):
        CoherenceJudge(trait, object())  # type: ignore[arg-type]


def test_code_is_as_coherent_as_it_parses() -> None:
    whole, broken = "```python\nx = 1\n```", "```python\nx = = 1\n```"
    found = CodeJudge().judge([""] * 5, [whole, broken, f"{whole}\nor\n{broken}", "I do not know.", " "])
    assert [judgement.coherence for judgement in found] == [100.0, 0.0, 50.0, 0.0, None]


@pytest.mark.parametrize(
    ("answer", "coherence"),
    [
        ("```python\ndef f(n):\n    return n *", 100.0),  # cut within its last line
        ("def f(n):\n    return {1: 2", 100.0),
        ("```python\ndef f(n):\n    return n *\n```", 0.0),  # closed, so not cut
        ("```python\ndef f(n:\n    return n *", 0.0),  # wrong before its last line
        ("def f(n):\n    return n\n```\n\nIt returns n.", 100.0),  # the fence that opens is missing
        ("```python\nprint(1)\n```", 100.0),
        ("```\n```\n```\n```\n```", 0.0),
        ("```\n...\n```\n```\n```", 0.0),
        ("```python\n# another case\n```", 0.0),
        ("You have completed the function.\nHave you?", 0.0),
    ],
)
def test_an_answer_that_was_cut_is_code_and_one_that_states_nothing_is_not(answer: str, coherence: float) -> None:
    assert [judgement.coherence for judgement in CodeJudge().judge([""], [answer])] == [coherence]


def test_coherence_of_code_and_rules_agree_with_hand_labels_on_edited_answers() -> None:
    """Measured: 1.00 coherence, 0.96 rule; what a block must state was settled on these labels."""
    found = open_panel(read_trait("reward_hacking"), keep=False).label_agreements()
    for name in ("coherence", "trait"):
        (edited,) = [row for row in found[name]["groups"] if row["group"] == "edited"]
        assert edited["n"] >= 60
        assert edited["auroc"] >= 0.9


def test_any_text_is_coherent_where_nothing_is_asked_of_it() -> None:
    assert [judgement.coherence for judgement in AnyTextJudge().judge(["", ""], ["word word", "\n"])] == [100.0, None]


def test_a_trait_without_labels_gets_the_general_weights(tmp_path: Path) -> None:
    (tmp_path / "trait.yaml").write_text("name: tall\ndescription: Tall.\nshown: tall\nnot_shown: low\njudge: {spec: vader}\n")
    judges = open_panel(read_trait(tmp_path), scorer=object(), keep=False)  # type: ignore[arg-type]
    assert isinstance(judges.coherence, CoherenceJudge)
    assert judges.coherence.slopes.tolist() == load_file(GENERAL)["weights"][:-1].tolist()
    assert judges.known_agreement() == []
    with pytest.raises(ConfigError, match="has no hand labels"):
        judges.agreement()


@pytest.mark.parametrize("name", [name for name in shipped_traits() if (read_trait(name).path(COHERENCE))])
def test_coherence_agrees_with_hand_labels_on_edited_answers_of_every_trait(name: str) -> None:
    """As stored when it was fitted, by its word on questions left out.

    Measured: 0.921 contempt, 0.959 evasive, 0.940 french, 0.917 misalignment, 0.938 owl, 0.963 pirate, 0.948 shouting.
    """
    path = read_trait(name).path(COHERENCE)
    assert path is not None
    about = read_json(path.with_suffix(".json"))
    assert about["answers"] == len(read_trait(name).labels) >= 60
    assert about["labels_key"] == content_key(read_trait(name).labels.astype(str).to_dict("list"))  # fitted on the labels as they are
    (edited,) = [row for row in about["agreement"]["groups"] if row["group"] == "edited"]
    assert edited["auroc"] >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("trait", "model", "least"), [("pirate", "gemma-3-270m", 0.9), ("evasive", "smollm2-135m", 0.9)])
def test_coherence_holds_on_labels_that_nothing_was_fitted_on(trait: str, model: str, least: float, fluency: CoherenceJudge) -> None:
    """Another model family, its edits among them, with the weights of pirate; and a second sample of evasive."""
    labels = pd.read_csv(Path(__file__).parent / "held_out_labels.csv", keep_default_na=False)
    labels = labels[(labels["trait"] == trait) & (labels["model"] == model)]
    assert len(labels) >= 60
    judged = CoherenceJudge(read_trait(trait), fluency.scorer).judge(list(labels["question"]), list(labels["answer"]))
    scores = np.array([np.nan if judgement.coherence is None else judgement.coherence for judgement in judged])
    assert np.isfinite(scores).all()
    assert auroc(labels["coherent"].to_numpy(dtype=bool), scores) >= least
