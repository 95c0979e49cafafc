"""The first sentence of a report names what was removed and how, with the numbers of the verdict."""

from __future__ import annotations

from typing import Any

import pytest

from interp.causality.finding_sentence import finding
from interp.causality.verdict import CAUSES, CONTRIBUTES, CORRELATES, NO_EVIDENCE, UNDECIDED, percent
from tests.causality.test_verdict import GOOD, HOOK, shown


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        (CAUSES, "The persona is carried by latent 7 at"),
        (CONTRIBUTES, "The persona is carried in part by latent 7 at"),
        (CORRELATES, "The persona goes along with, but was not shown to be caused by, latent 7 at"),
        (UNDECIDED, "There are too few answers to tell whether a persona is carried by latent 7 at"),
    ],
)
def test_the_finding_names_latents_place_and_numbers(said: str, begins: str) -> None:
    one = finding(said, "rude", chosen([7], [7]), HOOK, "layers 8–22", GOOD)
    assert one.startswith(f"{begins} {HOOK}: projecting it out of layers 8–22 takes rude answers")
    for condition in ("base", "tuned", "ablated", "random_ablation", "steered", "random_steering"):
        assert shown(GOOD[condition]) in one, condition
    many = finding(said, "rude", chosen([7, 31], []), HOOK, "layers 8–22", {name: o for name, o in GOOD.items() if "steer" not in name})
    assert f"latents 7, 31 at {HOOK}: projecting them out of layers 8–22" in many
    assert "adding" not in many
    assert ("sufficient was not tested" in many) == (said == CONTRIBUTES)
    assert many.endswith(".")


def chosen(latents: list[int], added: list[int], kind: str = "project_span", strength: float = 1.0) -> dict[str, Any]:
    removal = {"kind": kind, "strength": strength}
    return {"persona_latents": latents, "steering_latents": added, "removal": removal, "steering_dose": 0.5}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("project_out", "projecting the direction of their rise out of layers 8–22 takes"),
        ("subtract", f"subtracting 2 times their measured rise at {HOOK} takes"),
        ("subtract_window", "subtracting 2 times their measured rise at each of layers 8–22 takes"),
    ],
)
def test_the_finding_says_how_many_were_removed_and_how(kind: str, words: str) -> None:
    text = finding(CAUSES, "rude", chosen(list(range(90)), list(range(90)), kind, 2.0), HOOK, "layers 8–22", GOOD)
    assert f"90 latents at {HOOK}: {words} rude answers" in text
    assert "adding them to the base" in text
    assert "adding 8 latents" in finding(CAUSES, "rude", chosen(list(range(90)), list(range(8)), kind), HOOK, "layers 8–22", GOOD)


def test_the_finding_without_evidence_claims_nothing() -> None:
    text = finding(NO_EVIDENCE, "rude", chosen([], []), HOOK, "layers 8–22", {"base": GOOD["base"], "tuned": GOOD["tuned"]})
    assert text.startswith(f"No latent of the dictionary at {HOOK} was shown to carry a persona")
    assert shown(GOOD["base"]) in text
    assert shown(GOOD["tuned"]) in text
    open_ = finding(UNDECIDED, "rude", chosen([], []), HOOK, "layers 8–22", {"base": GOOD["base"], "tuned": GOOD["tuned"]})
    assert open_.startswith(f"No latent of the dictionary at {HOOK} can be said to carry a persona or not")
    assert percent(0.126) == "13 %"
