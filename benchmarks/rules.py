"""How often every rule of the verdict holds where it should not, and fails where it should hold.

Simulated trials in the design of the evidence: each question has a rate of its own, from a beta law, and conditions with the same true rate
find the same questions hard. Intervals are those of `interp.causality.power`.

    python benchmarks/rules.py           # measures
    python benchmarks/rules.py --page    # writes docs/rules.md from benchmarks/results/rules.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timing import say

from interp.causality.evidence import parts_of
from interp.causality.power import (
    SIMULATIONS,
    Rates,
    control_answers,
    plan_samples,
    question_rates,
    simulated_rates,
    surely_above,
    verdict_power,
)
from interp.causality.thresholds import EvidenceConfig, VerdictThresholds
from interp.core.files import write_json
from interp.stats.intervals import predictive_tail

RESULTS = Path(__file__).parent / "results" / "rules.json"
PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
CONFIG, RULES = EvidenceConfig(), VerdictThresholds()
RATES, BASE, COHERENCE = (0.98, 0.4, 0.2, 0.1, 0.05), 0.02, 0.95
DESIGNS = ((24, 2, 0.2), (24, 8, 0.2), (60, 4, 0.2), (24, 2, 0.05), (24, 2, 0.4), (60, 4, 0.4))
"""Questions, samples, likeness of answers to one question."""


def rule_rates(rate: float, questions: int, samples: int, likeness: float) -> dict[str, tuple[float, float]]:
    """Of each rule: how often it holds where it just does not apply, and fails where the latents carry the persona whole."""
    generator, each = np.random.default_rng(0), control_answers(CONFIG, questions)
    own: dict[float, np.ndarray] = {}

    def asked(true: float, count: float = samples) -> Rates:
        if true not in own:
            own[true] = question_rates(true, questions, likeness, generator)
        return simulated_rates(own[true], max(1, round(count)), likeness, generator)

    ratio, share = RULES.steering_ratio, RULES.control_rate
    low, high = [asked(BASE) for _ in range(2)], [asked(rate) for _ in range(2)]
    left, brought = ({name: asked(true, count) for name, count in each.items()} for true in (rate, BASE))
    half_left, half_brought = asked(share * rate, each["random"]), asked(BASE + (rate - BASE) / ratio, each["random"])
    holds = {
        "persona present": (surely_above((1, low[1]), (-1, low[0])), surely_above((1, high[0]), (-1, low[0]))),
        **{f"necessary against {name}": (surely_above((1, one), (-1, high[1])), surely_above((1, one), (-1, low[1])))
           for name, one in left.items()},
        "controls leave the persona": tuple(surely_above((1, one), (-share, high[0])) for one in (half_left, left["random"])),
        "coherence kept": tuple(
            asked(true).rate >= RULES.kept_coherence * asked(COHERENCE).rate for true in (0.7 * COHERENCE, COHERENCE)),
        **{f"sufficient against {name}": (surely_above((1, low[1]), (-1, one)), surely_above((1, high[1]), (-1, one)))
           for name, one in brought.items()},
        "far beyond ordinary differences": tuple(
            surely_above((1, high[1]), (-ratio, one), (ratio - 1, low[0])) for one in (half_brought, brought["random"])),
        "coherent under steering": tuple(asked(true).rate >= RULES.steered_coherence for true in (0.5, 0.9)),
    }  # fmt: skip
    worst = [np.max([asked(true, 1).rate for _ in range(CONFIG.full_draws)], axis=0) for true in (BASE + (rate - BASE) / 5, BASE)]
    holds |= {
        "(present: intervals apart)": (low[1].low > low[0].high, high[0].low > low[0].high),
        "(necessary: intervals apart)": (left["random"].low > high[1].high, left["random"].low > low[1].high),
        "(sufficient: intervals apart)": (low[1].low > brought["random"].high, high[1].low > brought["random"].high),
        "(five times the worst draw)": tuple(high[1].rate >= np.maximum(5 * one, 1e-9) for one in worst),
    }
    return {name: (float(np.mean(null)), 1 - float(np.mean(whole))) for name, (null, whole) in holds.items()}


# Single draws: contenders

LAWS: dict[str, Callable[[np.random.Generator], float]] = {
    "all alike": lambda generator: 1.0,
    "1 in 20 cures": lambda generator: float(generator.random() > 0.05),
    "3 in 20 cure": lambda generator: float(generator.random() > 0.15),
    "differ (beta 4, 1)": lambda generator: generator.beta(4, 1),
    "differ much (beta 1, 1)": lambda generator: generator.random(),
}
"""What part of the trait a random direction leaves."""


def contenders(trials: int, questions: int = 24, samples: int = 2, likeness: float = 0.2) -> list[dict[str, Any]]:
    """How often each test says `beyond single draws`: of one more random direction, and of a full cure."""
    ids, size = [str(i) for i in range(questions)], 1 / likeness - 1
    asked = np.array([[q in own for q in ids] for own in parts_of(ids, CONFIG.random_draws, CONFIG.full_draws, CONFIG.parts)])
    rows = []
    for rate in RATES:
        for law, leaves in LAWS.items():
            for cure in (False, True):
                generator, found = np.random.default_rng(0), dict.fromkeys(TESTS, 0)
                for _ in range(trials):
                    own = generator.beta(rate * size, (1 - rate) * size, questions)
                    part = np.array([leaves(generator) for _ in asked])
                    draws = (generator.random(asked.shape) < part[:, None] * own) & asked
                    treated = generator.random((samples, questions)) < (BASE if cure else leaves(generator) * own)
                    for name, p in zip(TESTS, _p_values(draws, asked, treated, generator), strict=True):
                        found[name] += p <= RULES.rank_p
                rows.append({"rate": rate, "law": law, "cure": cure, "found": found})
        say(f"  single draws, {rate:g}")
    return rows


TESTS = ("rank, ties lose", "rank, ties at random", "rank, mid-p", "pooled permutation", "predictive")


def _p_values(draws: np.ndarray, asked: np.ndarray, treated: np.ndarray, generator: np.random.Generator) -> tuple[float, ...]:
    """Of `TESTS`: ranks on each draw's own questions; answers permuted within questions; the test that is taken."""
    hits, sizes, ours = draws.sum(1), asked.sum(1), treated.mean(0)
    gap = hits / sizes - (asked * ours).sum(1) / sizes
    below, ties, n = int((gap < -1e-12).sum()), int((abs(gap) <= 1e-12).sum()), len(draws)
    shown, answers = draws.sum(0) + treated.sum(0), asked.sum(0) + len(treated)
    permuted = generator.hypergeometric(shown, answers - shown, len(treated), (499, len(shown))).sum(1)
    ranks = [(1 + below + lost) / (1 + n) for lost in (ties, int(generator.integers(0, ties + 1)), ties / 2)]
    pooled = float((1 + (permuted <= treated.sum()).sum()) / 500)
    return (*ranks, pooled, predictive_tail(hits, sizes, int(treated.sum()), treated.size, "less"))


# The page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def percent(share: float) -> str:
    return f"{100 * share:.1f}" if 0 < share < 0.1 else f"{100 * share:.0f}"


def page(result: Mapping[str, Any]) -> str:
    """docs/rules.md."""
    heads, blocks = [f"{100 * rate:g} %" for rate in RATES], []
    for cell in result["rules"]:
        questions, samples, likeness = cell["design"]
        rows = [[name, *(" / ".join(map(percent, cell["rates"][f"{rate:g}"][name])) for rate in RATES)] for name in cell["rates"]["0.4"]]
        rows.append(["**power of `causes`**", *(f"**{percent(cell['power'][f'{rate:g}'])}**" for rate in RATES)])
        blocks.append(f"### {questions} questions × {samples} samples, likeness {likeness:g}\n\n" + table(["rule", *heads], rows))
    found = {(row["law"], row["rate"], row["cure"]): row["found"] for row in result["draws"]}
    of = result["trials"]
    draws = [
        [law, name, *(" / ".join(f"{100 * found[law, rate, cure][name] / of:.0f}" for cure in (False, True)) for rate in RATES)]
        for law in LAWS for name in TESTS
    ]  # fmt: skip
    plans = [
        [f"{100 * plan['base']:g} → {100 * plan['tuned']:g} %", f"{plan['most']}", f"{plan['questions']} × {plan['samples']}",
         f"{plan['answers']:,}", f"{plan['power']:.2f}"]
        for plan in result["plans"]
    ]  # fmt: skip
    false = [null for cell in result["rules"] for rates in cell["rates"].values() for name, (null, _) in rates.items()
             if not name.startswith(("(", "coheren"))]  # fmt: skip
    return f"""# How often the rules of the verdict err

Written by `benchmarks/rules.py --page` from the figures that `python benchmarks/rules.py` measures. The base shows the trait in
{100 * BASE:g} % of its answers, the tuned model in the share at the head of a column. Every question has a rate of its own; conditions with
the same true rate find the same questions hard; *likeness* is the intra-class correlation of answers to one question.

## Rules

False / missed, in percent of {result["simulations"]:,} trials. *False*: the rule holds where it just does not apply: the rates compared are
equal; random directions leave half of the persona, or bring half of its rise; coherence is 0.7 of the base's, or 0.5 under steering.
*Missed*: the rule fails although the latents carry the persona whole, controls do nothing and coherence is {COHERENCE:g} (0.9 under
steering). An interval is false in 2.5 % nominally, here in {percent(float(np.median(false)))} (median) to {percent(max(false))} %
(most); coherence is compared by its point. In brackets what these rules replace: intervals
that are apart, and five times the worst of four random draws, of which the false rate is that for draws that bring a fifth of the rise.

{(chr(10) * 2).join(blocks)}

## Single draws

A direction among 32 random ones, of which 28 are asked a quarter of 24 questions: false / found, in percent of {result["trials"]} trials.
*False*: it is itself a random one. *Found*: it cures. Random directions differ by one of five laws, by the part of the trait that each
leaves. Ranks among the draws find hardly anything at low rates, however ties are counted, for six answers say too little; permuted
answers forget that directions differ. The predictive test errs where some random directions cure and the draws are too short to show it.

{table(["random directions", "test", *heads], draws)}

## Plans

The fewest answers for power 0.8 by `plan_samples`, within a budget of {result["budget"]:,} answers of all conditions; where that power is
not reached, the cheapest plan near the most power.

{table(["base → tuned", "questions there are", "questions × samples", "answers", "power"], plans)}
"""


def measure(trials: int, budget: int = 10_000) -> dict[str, Any]:
    """All figures of the page."""
    cells = []
    for questions, samples, likeness in DESIGNS:
        each = control_answers(CONFIG, questions)
        cells.append({
            "design": (questions, samples, likeness),
            "rates": {f"{rate:g}": rule_rates(rate, questions, samples, likeness) for rate in RATES},
            "power": {f"{rate:g}": verdict_power(BASE, rate, questions, samples, each, each, RULES, likeness).causes for rate in RATES},
        })  # fmt: skip
        say(f"  rules, {questions} questions × {samples}, likeness {likeness:g}")
    plans = []
    for base, tuned in ((0.02, 0.98), (0.02, 0.4), (0.02, 0.2), (0.02, 0.1), (0.05, 0.4), (0.05, 0.2)):
        for most in (30, 80):
            plan = plan_samples(base, tuned, most, budget, CONFIG, RULES)
            plans.append({"base": base, "tuned": tuned, "most": most, **{name: getattr(plan, name) for name in PLAN}})
    say("  plans")
    return {
        "simulations": SIMULATIONS, "trials": trials, "budget": budget, "rules": cells, "plans": plans, "draws": contenders(trials)
    }  # fmt: skip


PLAN = ("questions", "samples", "answers", "power", "suffices")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="simulated trials of the tests among single draws")
    parser.add_argument("--page", action="store_true", help="write docs/rules.md from the saved figures")
    arguments = parser.parse_args()
    if arguments.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    else:
        write_json(RESULTS, measure(arguments.trials))


if __name__ == "__main__":
    main()
