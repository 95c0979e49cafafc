"""The verdict on an opened run: the screen's choice or the user's own claim, and whether it carries over to a second fine-tune."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pandas as pd

from interp.causality.conditions import condition_table
from interp.causality.evidence import gather_evidence
from interp.causality.verdict import decide
from interp.core.errors import ConfigError
from interp.core.files import read_json, write_json
from interp.core.formatting import plain_records
from interp.core.steps import StepResult
from interp.models.sources import model_identity
from interp.studies.opened import OpenRun
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import evidence_on, make_claim
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.verdict import verdict_on
from interp.studies.steering_config import VerdictConfig

TRANSFERS, STAYS, ABSENT = "transfers", "does not transfer", "no persona there"


@dataclass(frozen=True)
class Transfer:
    """The same latents removed from a second fine-tune of the base."""

    step: StepResult
    tuned: str
    word: str
    """`transfers`, `does not transfer`, or `no persona there`."""
    checks: list[dict[str, Any]]
    conditions: pd.DataFrame


@dataclass(frozen=True)
class VerdictResult:
    """The word, and what it rests on."""

    step: StepResult
    latents: list[int]
    steer_latent: int | None
    dose: float | None
    verdict: str
    finding: str
    checks: list[dict[str, Any]]
    conditions: pd.DataFrame
    """A row for every condition, and one for every draw of a control."""
    side_effects: pd.DataFrame
    transfer: Transfer | None
    shown: str
    """The trait's word for answers that show it."""

    def _repr_html_(self) -> str:
        """The verdict and the rates of all conditions, for Jupyter."""
        pooled = self.conditions[self.conditions["replicate"] == 0]
        rates = pooled[["condition", "rate", "low", "high", "n", "coherence"]].rename(columns={"rate": f"rate of {self.shown}"})
        said = f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.finding)}</p>"
        return f"{said}{rates.to_html(index=False, float_format='{:.2f}'.format)}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        found: dict[str, Any] = {
            "verb": "verdict",
            "folder": str(self.step.folder),
            "latents": self.latents,
            "steer_latent": self.steer_latent,
            "dose": self.dose,
            "verdict": self.verdict,
            "finding": self.finding,
            "checks": self.checks,
            "conditions": plain_records(self.conditions),
            "side_effects": plain_records(self.side_effects),
        }
        if self.transfer is not None:
            moved = self.transfer
            found["transfer"] = {
                "folder": str(moved.step.folder),
                "tuned": moved.tuned,
                "result": moved.word,
                "checks": moved.checks,
                "conditions": plain_records(moved.conditions),
            }
        return found


def verdict(run: OpenRun, config: VerdictConfig, announce: Callable[[str], None] = lambda line: None) -> VerdictResult:
    """The verdict of the run, which is brought so far where it is not, or that on the user's latents."""
    second = None if config.transfer is None else (config.transfer, model_identity(config.transfer))
    if config.latents:
        choice: dict[str, Any] = {"persona_latents": config.latents, "steering_latent": config.steer_latent, "steering_dose": config.dose}
        made = evidence = _own_claim(run, choice)
    else:
        if not run.has("verdict"):
            run.bring_to("verdict", announce)
        choice, made = run.context.load(SCREEN).choice, run.run.result("verdict")
        evidence = run.run.result("evidence")
    if second is not None and not choice["persona_latents"]:
        raise ConfigError("The run's screen chose no latents, so there is nothing to transfer. Name some with latents.")
    transfer = None if second is None else _transfer(run, choice, *second)
    found = read_json(made.path("verdict.json"))
    return VerdictResult(
        step=made,
        latents=list(choice["persona_latents"]),
        steer_latent=choice["steering_latent"],
        dose=choice["steering_dose"],
        verdict=found["verdict"],
        finding=found["finding"],
        checks=found["checks"],
        conditions=pd.read_parquet(made.path("conditions.parquet")),
        side_effects=pd.read_parquet(evidence.path("side_effects.parquet")),
        transfer=transfer,
        shown=run.context.trait.shown,
    )


def _own_claim(run: OpenRun, choice: dict[str, Any]) -> StepResult:
    """The main job's measurement, with a choice that is the user's."""
    dictionary = run.context.dictionary
    named = [*choice["persona_latents"], *([] if choice["steering_latent"] is None else [choice["steering_latent"]])]
    dictionary.directions(named)  # complains of latents that are not there

    def make(context: StudyContext) -> None:
        write_json(context.folder / "choice.json", choice)
        evidence = evidence_on(context, choice, context.folder)
        evidence.save(context.folder)
        verdict_on(context, evidence.answers, choice).save(context.folder)

    return run.step("claim", {"claim": choice, **_measuring(run)}, make)


def _measuring(run: OpenRun) -> dict[str, Any]:
    """What a verdict depends on besides the claim."""
    return {"verdict": run.config.verdict.model_dump(), "rules": run.config.rules.model_dump(), "window": run.context.window}


def _transfer(run: OpenRun, choice: dict[str, Any], source: str, identity: str) -> Transfer:
    """The removal alone, measured on a second fine-tune with all its controls."""
    settings = {"latents": choice["persona_latents"], **_measuring(run)}
    made = run.step("transfer", settings, partial(_make_transfer, run, choice, source), {"second": identity})
    found = read_json(made.path("transfer.json"))
    return Transfer(made, source, found["result"], found["checks"], pd.read_parquet(made.path("conditions.parquet")))


def _make_transfer(run: OpenRun, choice: dict[str, Any], source: str, context: StudyContext) -> None:
    removal = choice | {"steering_latent": None, "steering_dose": None}
    trial, claim = make_claim(context, removal, run.open_tuned(source))
    answers = gather_evidence(trial, claim, run.config.verdict)
    verdict = decide(answers, run.config.seed, run.context.trait.shown, run.config.rules)
    checks = [check for check in verdict.checks if not check.name.startswith("sufficient")]
    present, necessary = checks[0], checks[1:]
    word = ABSENT if not present.holds else TRANSFERS if all(check.holds for check in necessary) else STAYS
    answers.to_parquet(context.folder / "answers.parquet")
    condition_table(answers).to_parquet(context.folder / "conditions.parquet")
    write_json(
        context.folder / "transfer.json", {"result": word, "checks": [{**asdict(check), "holds": bool(check.holds)} for check in checks]}
    )
