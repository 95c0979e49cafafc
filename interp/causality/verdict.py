"""From measured rates to words, by stated rules. A word is used only if the intervals support it.

All rules of a side must hold, so its false rate is at most that of a single rule (intersection-union test, Berger 1982), nominally 2.5 %
for what an interval decides. How often each rule holds where it should not, and fails where it should, is simulated in docs/rules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from interp.causality.conditions import COLUMNS, RANDOM
from interp.causality.effects import DrawTest, Effect, draw_test, paired_effect
from interp.causality.power import VerdictPower, control_answers, verdict_power
from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from interp.evaluation.rates import coherent_rate, question_means, trait_rate
from interp.stats.contrasts import Contrast, contrast, question_correlation
from interp.stats.rates import Rate

CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE, UNDECIDED = "causes", "contributes", "correlates", "no evidence", "undecided"


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
    questions: pd.Series[float] = field(default_factory=lambda: pd.Series(dtype=float), compare=False)
    """Trait rate by question; without it, rates are compared as if they came from different questions."""


@dataclass(frozen=True)
class Verdict:
    """The word, and all that it rests on."""

    word: str
    present: Check
    necessary: list[Check]
    """Empty when no latent was removed."""
    sufficient: list[Check]
    outcomes: dict[str, Outcome]
    effects: dict[str, Effect]
    """Treated against pooled control, paired over questions."""
    draws: dict[str, DrawTest]
    """The treated directions among single random draws."""
    power: VerdictPower
    enough: Check
    """Whether the power suffices to say that something is not there."""
    removal_controls: list[str]
    """Names of the outcomes of what was removed as a control."""

    @property
    def checks(self) -> list[Check]:
        """All rules, and what the power is."""
        return [self.present, *self.necessary, *self.sufficient, self.enough]


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"


def rate_text(outcome: Outcome) -> str:
    """Rate with its interval."""
    rate = outcome.rate
    return f"{percent(rate.rate)} [{100 * rate.low:.0f}–{100 * rate.high:.0f}]"


def difference(*terms: tuple[float, Outcome]) -> Contrast:
    """A weighted sum of rates on the same questions, with its interval."""
    weights, outcomes = zip(*terms, strict=True)
    return contrast(weights, [one.rate for one in outcomes], question_correlation([one.questions for one in outcomes]))


def points(contrast: Contrast) -> str:
    """A contrast in percentage points with its interval."""
    return f"{100 * contrast.value:.0f} points [{100 * contrast.low:.0f} to {100 * contrast.high:.0f}]"


def persona_present(base: Outcome, tuned: Outcome, word: str) -> Check:
    """The behaviour is there to be explained."""
    rise = difference((1, tuned), (-1, base))
    return Check(
        "persona present",
        f"{rate_text(tuned)} of the tuned model's answers are {word}, {rate_text(base)} of the base's: {points(rise)} more, above 0.",
        rise.low > 0,
    )


def necessity_checks(
    outcomes: Mapping[str, Outcome], controls: Mapping[str, str], draws: DrawTest, rules: VerdictThresholds, word: str
) -> list[Check]:
    """Removing the latents removes the behaviour, removing anything else does not, and the model still speaks.

    `controls` are the conditions to compare with, and what is removed under them, in words; `word` is the trait's for what shows it.
    """
    base, tuned, ablated = outcomes["base"], outcomes["tuned"], outcomes["ablated"]
    random = outcomes["random_ablation"]
    against = {name: difference((1, outcomes[name]), (-1, ablated)) for name in controls}
    left = difference((1, random), (-rules.control_rate, tuned))
    return [
        *(
            Check(
                f"necessary against {words}",
                f"With the latents removed {rate_text(ablated)} are {word}, with {words} instead {rate_text(outcomes[name])}: "
                f"{points(against[name])} more, above 0.",
                against[name].low > 0,
            )
            for name, words in controls.items()
        ),
        _draw_check("necessary beyond single draws", "take out as much", draws, rules),
        Check(
            "controls leave the persona",
            f"With ordinary differences removed the rate stays at {rate_text(random)}: {points(left)} beyond "
            f"{percent(rules.control_rate)} of the tuned model's {rate_text(tuned)}, above 0.",
            left.low > 0,
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
    draws: DrawTest | None,
    rules: VerdictThresholds,
    word: str,
) -> list[Check]:
    """Adding the latent to the base brings the behaviour; a control of the same norm does not. `controls` as in `necessity_checks`."""
    if "steered" not in outcomes or draws is None:
        return [Check("sufficient", "No latent was added to the base: none was named, or no dose kept the answers coherent.", False)]
    base, steered, random = outcomes["base"], outcomes["steered"], outcomes["random_steering"]
    against = {name: difference((1, steered), (-1, outcomes[name])) for name in controls}
    ratio = rules.steering_ratio
    beyond = difference((1, steered), (-ratio, random), (ratio - 1, base))  # steered - base above `ratio` times random - base
    return [
        *(
            Check(
                f"sufficient against {words}",
                f"With the latents added {rate_text(steered)} of the base's answers are {word}, "
                f"with {words} of the same norm {rate_text(outcomes[name])}: {points(against[name])} less, above 0.",
                against[name].low > 0,
            )
            for name, words in controls.items()
        ),
        _draw_check("sufficient beyond single draws", "bring as much", draws, rules),
        Check(
            "far beyond ordinary differences",
            f"From the base's {rate_text(base)} the latents raise the rate by {points(difference((1, steered), (-1, base)))}, "
            f"ordinary differences by {points(difference((1, random), (-1, base)))}: surely more than {ratio:g} times as much.",
            beyond.low > 0,
        ),
        Check(
            "coherent under steering",
            f"{percent(steered.coherence)} of the steered answers are coherent, at least {percent(rules.steered_coherence)}.",
            steered.coherence >= rules.steered_coherence,
        ),
    ]


def _draw_check(name: str, does: str, test: DrawTest, rules: VerdictThresholds) -> Check:
    return Check(
        name,
        f"By what {test.draws} single ordinary differences do, one more would {does} with probability {test.p:.3f}, "
        f"at most {rules.rank_p:g}.",
        test.p <= rules.rank_p,
    )


def verdict_word(
    present: Check, rise: Contrast, necessary: list[Check], sufficient: list[Check], power: VerdictPower, rules: VerdictThresholds
) -> str:
    """`causes`: necessary and sufficient. `contributes`: one of both. `correlates`: neither, and a full cure would have been seen.
    `no evidence`: no persona, and one would have been seen; or one, but no latent to remove. Else `undecided`.

    `rise` is the tuned model's rate less the base's; `necessary` is empty when no latent is surely more active or none could be removed.
    """
    if not present.holds:
        return NO_EVIDENCE if power.smallest >= rules.power and rise.high < rules.smallest_rise else UNDECIDED
    held = [bool(checks) and all(check.holds for check in checks) for checks in (necessary, sufficient if necessary else [])]
    if any(held):
        return CAUSES if all(held) else CONTRIBUTES
    if power.necessary < rules.power:
        return UNDECIDED
    return CORRELATES if necessary else NO_EVIDENCE


def enough_answers(present: Check, power: VerdictPower, rules: VerdictThresholds) -> Check:
    """The power of what decides: of the cure where the persona is there, else of its presence."""
    if present.holds:
        return Check(
            "enough answers",
            f"At these rates a full cure would have been seen with power {power.necessary:.2f}, the whole persona brought to the base with "
            f"power {power.sufficient:.2f}. Below {rules.power:g} for the cure, what does not hold is undecided.",
            power.necessary >= rules.power,
        )
    return Check(
        "enough answers",
        f"A rise of {100 * rules.smallest_rise:.0f} points by fine-tuning would have been seen with power {power.smallest:.2f}. Below "
        f"{rules.power:g}, or where the interval holds such a rise, its absence is undecided.",
        power.smallest >= rules.power,
    )


def decide(answers: pd.DataFrame, seed: int, word: str, rules: VerdictThresholds | None = None) -> Verdict:
    """The verdict on the answers that `gather_evidence` made; `seed` is that of the permutations, `word` the trait's for what shows it."""
    rules = rules or VerdictThresholds()
    graded = {str(name): own for name, own in answers.groupby("condition", sort=False)}
    outcomes = {name: Outcome(trait_rate(own), coherent_rate(own).rate, question_means(own)) for name, own in graded.items()}
    arms = answers.drop_duplicates("condition")[COLUMNS]
    effects, draws = {}, {}
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
        draws[name] = draw_test(graded[name], random, "less" if treated["model"] == "tuned" else "more")
    base, tuned = outcomes["base"], outcomes["tuned"]
    present = persona_present(base, tuned, word)
    necessary = necessity_checks(outcomes, controls["ablated"], draws["ablated"], rules, word) if "ablated" in controls else []
    sufficient = sufficiency_checks(outcomes, controls.get("steered", {}), draws.get("steered"), rules, word)
    power = measured_power(outcomes, controls, rules)
    said = verdict_word(present, difference((1, tuned), (-1, base)), necessary, sufficient, power, rules)
    enough = enough_answers(present, power, rules)
    removed = [str(name) for name in arms.loc[(arms["role"] == "control") & (arms["model"] == "tuned"), "condition"]]
    return Verdict(said, present, necessary, sufficient, outcomes, effects, draws, power, enough, removed)


def measured_power(outcomes: Mapping[str, Outcome], controls: Mapping[str, Mapping[str, str]], rules: VerdictThresholds) -> VerdictPower:
    """At the rates on hand, each moved by half an answer from 0 and 1, and with the answers on hand; of usual controls where none are."""
    base, tuned = (outcomes[name].rate for name in ("base", "tuned"))
    shares = [(rate.rate * rate.n + 0.5) / (rate.n + 1) if rate.n else 0.5 for rate in (base, tuned)]
    questions = max(len(outcomes["tuned"].questions), 1)

    def each(treated: str) -> dict[str, float]:
        names = controls.get(treated, {})
        return {name.rpartition("_")[0]: outcomes[name].rate.n / questions for name in names} or control_answers(
            EvidenceConfig(), questions
        )

    samples = min(base.n, tuned.n) / questions
    return verdict_power(shares[0], shares[1], questions, samples, each("ablated"), each("steered"), rules)
