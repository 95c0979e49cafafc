"""From measured rates to words, by stated rules. A word is used only if the intervals support it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from interp.causality.conditions import COLUMNS, RANDOM
from interp.causality.effects import Effect, RankTest, paired_effect, rank_test
from interp.causality.thresholds import VerdictThresholds
from interp.evaluation.rates import coherent_rate, trait_rate
from interp.stats.rates import Rate

CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE = "causes", "contributes", "correlates", "no evidence"


@dataclass(frozen=True)
class Check:
    """One rule, in words with its numbers, and whether it holds."""

    name: str
    statement: str
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """A measured condition: trait rate with interval, share of coherent answers."""

    rate: Rate
    coherence: float


@dataclass(frozen=True)
class Verdict:
    """The word, and all that it rests on."""

    word: str
    checks: list[Check]
    outcomes: dict[str, Outcome]
    effects: dict[str, Effect]
    """Treated against pooled control, paired over questions."""
    ranks: dict[str, RankTest]
    """The found directions among single random draws."""


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"


def rate_text(outcome: Outcome) -> str:
    """Rate with its interval."""
    rate = outcome.rate
    return f"{percent(rate.rate)} [{100 * rate.low:.0f}–{100 * rate.high:.0f}]"


def persona_present(base: Outcome, tuned: Outcome, word: str) -> Check:
    """The behaviour is there to be explained."""
    return Check(
        "persona present",
        f"{rate_text(tuned)} of the tuned model's answers are {word}, {rate_text(base)} of the base's; the intervals are apart.",
        tuned.rate.low > base.rate.high,
    )


def necessity_checks(
    outcomes: Mapping[str, Outcome], controls: Mapping[str, str], rank: RankTest, rules: VerdictThresholds, word: str
) -> list[Check]:
    """Removing the latents removes the behaviour, removing anything else does not, and the model still speaks.

    `controls` are the conditions to compare with, and what is removed under them, in words; `word` is the trait's for what shows it.
    """
    base, tuned, ablated = outcomes["base"], outcomes["tuned"], outcomes["ablated"]
    return [
        *(
            Check(
                f"necessary against {words}",
                f"With the latents projected out {rate_text(ablated)} are {word}, with {words} instead {rate_text(outcomes[name])}; "
                "the intervals are apart.",
                ablated.rate.high < outcomes[name].rate.low,
            )
            for name, words in controls.items()
        ),
        _rank_check("necessary beyond single draws", "take out as much", rank, rules),
        Check(
            "controls leave the persona",
            f"With random directions projected out the rate stays at {rate_text(outcomes['random_ablation'])}, "
            f"above {percent(rules.control_rate)} of the tuned model's {rate_text(tuned)}.",
            outcomes["random_ablation"].rate.low > rules.control_rate * tuned.rate.rate,
        ),
        Check(
            "coherence kept",
            f"{percent(ablated.coherence)} of the ablated model's answers are coherent, "
            f"at least {percent(rules.kept_coherence)} of the base's {percent(base.coherence)}.",
            ablated.coherence >= rules.kept_coherence * base.coherence,
        ),
    ]


def sufficiency_checks(
    outcomes: Mapping[str, Outcome],
    controls: Mapping[str, str],
    rank: RankTest | None,
    worst_random: float,
    rules: VerdictThresholds,
    word: str,
) -> list[Check]:
    """Adding the latent to the base brings the behaviour; a control of the same norm does not. `controls` as in `necessity_checks`."""
    if "steered" not in outcomes or rank is None:
        return [Check("sufficient", "No latent was added to the base: none was named, or no dose kept the answers coherent.", False)]
    steered = outcomes["steered"]
    return [
        *(
            Check(
                f"sufficient against {words}",
                f"With the latent added {rate_text(steered)} of the base's answers are {word}, "
                f"with {words} of the same norm {rate_text(outcomes[name])}; the intervals are apart.",
                steered.rate.low > outcomes[name].rate.high,
            )
            for name, words in controls.items()
        ),
        _rank_check("sufficient beyond single draws", "bring as much", rank, rules),
        Check(
            "far beyond any random direction",
            f"The rate is at least {rules.steering_ratio:.0f} times that of the worst random direction that was asked everything, "
            f"{percent(worst_random)}.",
            steered.rate.rate > 0 and steered.rate.rate >= rules.steering_ratio * worst_random,
        ),
        Check(
            "coherent under steering",
            f"{percent(steered.coherence)} of the steered answers are coherent, at least {percent(rules.steered_coherence)}.",
            steered.coherence >= rules.steered_coherence,
        ),
    ]


def _rank_check(name: str, does: str, rank: RankTest, rules: VerdictThresholds) -> Check:
    return Check(
        name,
        f"{rank.at_least_as_strong} of {rank.draws} single random directions {does}: p = {rank.p:.3f}, at most {rules.rank_p:g}.",
        rank.p <= rules.rank_p,
    )


def verdict_word(present: Check, necessary: list[Check], sufficient: list[Check]) -> str:
    """`causes`: necessary and sufficient. `contributes`: one of both. `correlates`: neither, though latents are more active. Else
    `no evidence`.

    `necessary` is empty when no latent is surely more active or none could be removed.
    """
    if not present.holds or not necessary:
        return NO_EVIDENCE
    held = [all(check.holds for check in checks) for checks in (necessary, sufficient)]
    return {2: CAUSES, 1: CONTRIBUTES, 0: CORRELATES}[sum(held)]


def decide(answers: pd.DataFrame, seed: int, word: str, rules: VerdictThresholds | None = None) -> Verdict:
    """The verdict on the answers that `gather_evidence` made; `seed` is that of the permutations, `word` the trait's for what shows it."""
    rules = rules or VerdictThresholds()
    graded = {str(name): own for name, own in answers.groupby("condition", sort=False)}
    outcomes = {name: Outcome(trait_rate(own), coherent_rate(own).rate) for name, own in graded.items()}
    arms = answers.drop_duplicates("condition")[COLUMNS]
    effects, ranks = {}, {}
    controls: dict[str, dict[str, str]] = {}
    for treated in arms[arms["role"] == "treatment"].to_dict("records"):
        name = treated["condition"]
        beside = arms[(arms["role"] == "control") & (arms["model"] == treated["model"]) & (arms["edit"] == treated["edit"])]
        controls[name] = dict(zip(beside["condition"], beside["directions"], strict=True))
        for control in controls[name]:
            effect = paired_effect(graded[name], graded[control], seed)
            if effect is not None:
                effects[f"{name}_vs_{control}"] = effect
        random = next(own for condition, own in graded.items() if condition in controls[name] and condition in RANDOM)
        single = {str(replicate): own for replicate, own in random.groupby("replicate")}
        ranks[name] = rank_test(graded[name], single, "less" if treated["model"] == "tuned" else "more")
    present = persona_present(outcomes["base"], outcomes["tuned"], word)
    necessary = necessity_checks(outcomes, controls["ablated"], ranks["ablated"], rules, word) if "ablated" in controls else []
    worst = worst_draw(graded.get("random_steering"))
    sufficient = sufficiency_checks(outcomes, controls.get("steered", {}), ranks.get("steered"), worst, rules, word)
    return Verdict(verdict_word(present, necessary, sufficient), [present, *necessary, *sufficient], outcomes, effects, ranks)


def worst_draw(control: pd.DataFrame | None) -> float:
    """Highest trait rate among the draws that were asked every question: a few answers alone may all show it by chance."""
    if control is None:
        return 0.0
    everything = control["question_id"].nunique()
    rates = [trait_rate(own).rate for _, own in control.groupby("replicate") if own["question_id"].nunique() == everything]
    return max((rate for rate in rates if rate == rate), default=0.0)  # a draw without a scored answer has none
