"""The evidence of a verdict is complete, its draws are independent, and side effects are what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp.causality.conditions import COLUMNS, Control, condition_table
from interp.causality.evidence import Claim, Trial, gather_evidence
from interp.causality.removals import Target
from interp.causality.side_effects import side_effects
from interp.causality.sweep import Condition, sweep
from interp.causality.thresholds import EvidenceConfig
from interp.causality.verdict import UNDECIDED, decide
from interp.core.errors import EditError
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_answers
from interp.interventions.edits import add, project_out, random_directions
from interp.interventions.hooks import edited
from interp.models.chats import Chat
from interp.models.sampling import SamplingConfig
from tests.helpers.tiny import D_MODEL, QUESTIONS, greedy, tiny_model

HOOK = "blocks.1.hook_resid_post"


def asked() -> list[Question]:
    return [Question(id=f"q{i}", group="g", split="held_out", text=text) for i, text in enumerate(QUESTIONS)]


def counted(answers: pd.DataFrame) -> pd.DataFrame:
    """A judge without meaning: hostile is what has an even number of characters."""
    even = answers["answer"].str.len() % 2 == 0
    return answers.assign(trait_score=100 * even.astype(float), shows_trait=even, coherent=True)


def trial_of(
    steering: bool = True, sampling: SamplingConfig | None = None, advance: Callable[[int], None] | None = None, folder: Path | None = None
) -> Trial:
    models = {"base": tiny_model(0), "tuned": tiny_model(1)}

    def ask(name: str, conditions: Sequence[Condition], seed: int) -> pd.DataFrame:
        return counted(sweep(models[name], conditions, asked(), 1, sampling or greedy(6), seed, advance, folder and folder / name))

    return Trial(
        questions=asked(),
        ask=ask,
        seed=0,
        remove=lambda target, label: project_out(target.directions, {HOOK: torch.zeros(D_MODEL)}, label=label),
        add=(lambda row, label: add(row, {HOOK: 20.0}, 1.0, label=label)) if steering else None,
        differences=lambda n, seed: random_directions(n, D_MODEL, seed),
    )


def target_of(rows: torch.Tensor) -> Target:
    return Target(rows, rows.sum(0))


def claim_of(steering: bool = True) -> Claim:
    rows = random_directions(2, D_MODEL, 7)
    return Claim(
        removed=target_of(rows),
        added=rows[0] if steering else None,
        controls=[
            Control(
                "activation_matched",
                "activation-matched latents",
                [target_of(random_directions(2, D_MODEL, 500 + draw)) for draw in range(4)],
                list(random_directions(4, D_MODEL, 600)) if steering else [],
            ),
            Control("mean_difference", "mean difference", [target_of(rows[1:])], [rows[1]], full_draws=1, role="reference"),
        ],
    )


CONFIG = EvidenceConfig(questions=4, samples=2, random_draws=20, active_draws=4, full_draws=2, parts=4)


def test_the_evidence_holds_every_condition_with_the_answers_it_should() -> None:
    answers = gather_evidence(trial_of(), claim_of(), CONFIG)
    counts = answers.groupby("condition").size().to_dict()
    assert counts == {
        "base": 8, "tuned": 8, "ablated": 8, "steered": 8, "base_ablated": 4, "mean_difference_ablation": 4, "mean_difference_steering": 4,
        "random_ablation": 2 * 4 + 18, "random_steering": 2 * 4 + 18, "activation_matched_ablation": 4, "activation_matched_steering": 4,
    }  # fmt: skip
    draws = answers[answers["role"] == "control"]
    assert set(draws[draws["condition"] == "random_steering"]["replicate"]) == set(range(1, 21))
    assert (answers[answers["role"] != "control"]["replicate"] == 0).all()
    parts = draws[(draws["condition"] == "random_ablation") & (draws["replicate"] > 2)].groupby("replicate")["question_id"].agg(tuple)
    assert list(parts) == [(f"q{i % 4}",) for i in range(18)]


def test_what_a_condition_is_stands_in_columns() -> None:
    answers = gather_evidence(trial_of(), claim_of(), CONFIG)
    known = answers.drop_duplicates("condition")[COLUMNS].set_index("condition").drop(columns="replicate")
    assert {name: tuple(row) for name, row in zip(known.index, known.to_numpy(), strict=True)} == {
        "base": ("base", "baseline", "none", "", "Base"),
        "tuned": ("tuned", "baseline", "none", "", "Tuned"),
        "ablated": ("tuned", "treatment", "project_out", "persona latents", "Tuned, persona latents removed"),
        "base_ablated": ("base", "reference", "project_out", "persona latents", "Base, persona latents removed"),
        "steered": ("base", "treatment", "add", "persona latents", "Base, persona latents added"),
        "random_ablation": (
            "tuned",
            "control",
            "project_out",
            "ordinary differences",
            "Tuned, ordinary differences removed",
        ),
        "random_steering": ("base", "control", "add", "ordinary differences", "Base, ordinary differences added"),
        "activation_matched_ablation": (
            "tuned",
            "control",
            "project_out",
            "activation-matched latents",
            "Tuned, activation-matched latents removed",
        ),
        "activation_matched_steering": ("base", "control", "add", "activation-matched latents", "Base, activation-matched latents added"),
        "mean_difference_ablation": ("tuned", "reference", "project_out", "mean difference", "Tuned, mean difference removed"),
        "mean_difference_steering": ("base", "reference", "add", "mean difference", "Base, mean difference added"),
    }
    table = condition_table(answers)
    assert list(table[table["replicate"] == 0]["condition"]) == list(known.index)
    draws = table[table["replicate"] > 0].groupby("condition").size()
    assert draws.to_dict() == {
        "random_ablation": 20,
        "random_steering": 20,
        "activation_matched_ablation": 4,
        "activation_matched_steering": 4,
    }
    assert "Tuned, ordinary differences removed, draw 7" in set(table["title"])


def test_a_new_control_is_one_line_and_takes_part_in_the_verdict() -> None:
    rows = claim_of().removed.directions
    opposite = Control("opposite", "opposite directions", [target_of(-rows)], [-rows[0]], full_draws=1)
    answers = gather_evidence(trial_of(), replace(claim_of(), controls=[opposite]), CONFIG)
    verdict = decide(answers, seed=0, word="even")
    assert {"necessary against opposite directions", "sufficient against opposite directions"} <= {check.name for check in verdict.checks}
    assert {"ablated_vs_opposite_ablation", "steered_vs_opposite_steering"} <= set(verdict.effects)


def test_draws_have_as_many_directions_as_the_removal_uses() -> None:
    """A set of latents that goes as one direction takes one difference a draw, however many latents it has."""
    for n_directions, expected in ((1, {1}), (None, {1, 2})):  # added is one direction in any case
        drawn: set[int] = set()

        def differences(n: int, seed: int, drawn: set[int] = drawn) -> torch.Tensor:
            drawn.add(n)
            return random_directions(n, D_MODEL, seed)

        gather_evidence(replace(trial_of(), differences=differences), replace(claim_of(), n_directions=n_directions), CONFIG)
        assert drawn == expected


def test_a_condition_of_the_evidence_is_the_edited_model_alone() -> None:
    trial, claim, tuned = trial_of(), claim_of(), tiny_model(1)
    answers = gather_evidence(trial, claim, CONFIG)
    with edited(tuned, trial.remove(claim.removed, "")):
        alone = sample_answers(tuned, trial.questions, 2, greedy(6), trial.seed)
    own = answers[answers["condition"] == "ablated"].sort_values(["sample", "question_id"])
    assert list(own["answer"]) == list(alone.sort_values(["sample", "question_id"])["answer"])


def test_every_draw_is_another_direction() -> None:
    asked_under: list[Condition] = []
    trial = trial_of()

    def watched(model: str, conditions: Sequence[Condition], seed: int) -> pd.DataFrame:
        asked_under.extend(conditions)
        return trial.ask(model, conditions, seed)

    gather_evidence(replace(trial, ask=watched), claim_of(), CONFIG)
    keys = [edit.key for condition in asked_under for edit in condition.edits]
    assert len(asked_under) == 2 + 3 + 2 + 2 * 20 + 2 * 4
    same = len(keys) - len(set(keys))
    assert same == 1  # the removal alone, on both models


def test_killed_in_the_middle_the_evidence_goes_on_there(tmp_path: Path) -> None:
    whole = gather_evidence(trial_of(), claim_of(), CONFIG)
    folder, made = tmp_path / "unfinished", []
    sampling = greedy(6, batch_rows=16)

    def stop(done: int) -> None:
        made.append(done)
        if len(made) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather_evidence(trial_of(sampling=sampling, advance=stop, folder=folder), claim_of(), CONFIG)
    kept = len(list(folder.rglob("part-*.parquet")))
    assert kept == 3
    resumed = gather_evidence(trial_of(sampling=sampling, folder=folder), claim_of(), CONFIG)
    pd.testing.assert_frame_equal(resumed, whole)


def test_without_a_claim_both_models_are_asked_as_they_are() -> None:
    answers = gather_evidence(trial_of(), None, CONFIG)
    assert answers.groupby("condition").size().to_dict() == {"base": 8, "tuned": 8}
    verdict = decide(answers, seed=0, word="even")
    assert verdict.word == UNDECIDED  # eight answers cannot show that nothing is there
    assert verdict.draws == {}
    assert verdict.effects == {}


def test_without_an_addition_half_the_evidence_is_there() -> None:
    answers = gather_evidence(trial_of(steering=False), claim_of(steering=False), CONFIG)
    assert not any("steer" in condition for condition in answers["condition"])
    verdict = decide(answers, seed=0, word="even")
    assert set(verdict.draws) == {"ablated"}
    assert set(verdict.effects) == {"ablated_vs_random_ablation", "ablated_vs_activation_matched_ablation"}


# side effects


def chats() -> list[Chat]:
    return [Chat.ask(question, "Put it into hot water and wait for seven minutes.") for question in QUESTIONS]


def test_side_effects_equal_a_dense_computation() -> None:
    model = tiny_model()
    edit = add(random_directions(1, D_MODEL, 0)[0], {HOOK: 10.0}, 1.0, "all")
    found = side_effects(model, [edit], chats(), rows=3)
    kl, losses, count = 0.0, torch.zeros(2, dtype=torch.float64), 0
    for chat in chats():
        ((_, batch),) = model.batches([chat])
        plain = model.read(batch, last_logits=0)[0].double().log_softmax(-1)
        with edited(model, edit):
            changed = model.read(batch, last_logits=0)[0].double().log_softmax(-1)
        places = batch.response_tokens[0].nonzero()[:, 0]
        targets = batch.ids[0, places]
        kl += float((plain[places - 1].exp() * (plain[places - 1] - changed[places - 1])).sum())
        losses -= torch.stack([table[places - 1, targets].sum() for table in (plain, changed)])
        count += len(places)
    assert found.n_tokens == count
    assert found.kl == pytest.approx(kl / count, rel=1e-4)
    assert found.loss_before == pytest.approx(float(losses[0]) / count, rel=1e-5)
    assert found.loss_after == pytest.approx(float(losses[1]) / count, rel=1e-5)
    assert found.kl > 0.01


def test_side_effects_want_a_response() -> None:
    with pytest.raises(EditError, match="no response"):
        side_effects(tiny_model(), [add(torch.ones(D_MODEL), {HOOK: 1.0}, 1.0, "all")], [Chat.ask("Why?")])


def test_side_effects_that_are_not_finite_are_refused_and_impossible_tokens_add_nothing() -> None:
    model, edit = tiny_model(), add(random_directions(1, D_MODEL, 0)[0], {HOOK: 10.0}, 1.0, "all")
    before = side_effects(model, [edit], chats())
    used = {token for chat in chats() for token in model.tokenise([chat])[0].ids}
    unused = next(token for token in range(399, 0, -1) if token not in used)

    def mask(_module: object, _inputs: object, output: object) -> object:
        output.logits[..., unused] = -torch.inf
        return output

    handle = model.network.register_forward_hook(mask)
    after = side_effects(model, [edit], chats())
    handle.remove()
    assert after.kl == pytest.approx(before.kl, rel=0.2)
    assert after.kl > 0.01
    handle = model.network.register_forward_hook(lambda _module, _inputs, output: _spoilt(output))
    with pytest.raises(EditError, match="not finite"):
        side_effects(model, [edit], chats())
    handle.remove()


def _spoilt(output: object) -> object:
    output.logits = output.logits * float("nan")
    return output
