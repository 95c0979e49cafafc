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
from interp.causality.verdict import NO_EVIDENCE, UNDECIDED, Verdict, decide
from interp.core.artifacts import Artifact
from interp.core.errors import ArtifactError, ConfigError
from interp.core.files import write_json
from interp.core.formatting import plain_records
from interp.core.steps import StepResult
from interp.models.sources import model_identity
from interp.studies.opened import StudyRun
from interp.studies.persona.context import StudyContext
from interp.studies.persona.evidence import Evidence, evidence_on, make_claim, planned
from interp.studies.persona.screen import SCREEN
from interp.studies.persona.verdict import VerdictRecord, verdict_on
from interp.studies.steering_config import VerdictConfig

TRANSFERS, STAYS, ABSENT = "transfers", "does not transfer", "no persona there"


@dataclass(frozen=True)
class TransferRecord(Artifact):
    """The removal measured on a second fine-tune of the base."""

    answers: pd.DataFrame
    conditions: pd.DataFrame
    transfer: dict[str, Any]
    """`result` (`transfers`, `does not transfer`, `no persona there`, or `undecided`) and `checks`."""


@dataclass(frozen=True)
class Transfer:
    """The same latents removed from a second fine-tune of the base."""

    step: StepResult
    tuned: str
    word: str
    checks: list[dict[str, Any]]
    conditions: pd.DataFrame

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        own = {"tuned": self.tuned, "result": self.word, "checks": self.checks, "conditions": plain_records(self.conditions)}
        return {"folder": str(self.step.folder), **own}


@dataclass(frozen=True)
class VerdictResult:
    """The word, and what it rests on."""

    step: StepResult
    latents: list[int]
    steering_latents: list[int]
    dose: float | None
    verdict: str
    finding: str
    checks: list[dict[str, Any]]
    conditions: pd.DataFrame
    """A row for every condition, and one for every draw of a control."""
    side_effects: pd.DataFrame
    transfer: Transfer | None
    beyond_baselines: str | None
    """What the latents do that no baseline does; None in runs of earlier versions."""
    shown: str
    """The trait's word for answers that show it."""

    def __repr__(self) -> str:
        rates = self._pooled_rates.to_string(index=False, float_format="{:.2f}".format)
        return f"{self.verdict}: {self.finding}\n{rates}\n{self.step.folder}"

    @property
    def _pooled_rates(self) -> pd.DataFrame:
        pooled = self.conditions[self.conditions["replicate"] == 0]
        return pooled[["condition", "rate", "low", "high", "n", "coherence"]].rename(columns={"rate": f"rate of {self.shown}"})

    def _repr_html_(self) -> str:
        """The verdict and the rates of all conditions, for Jupyter."""
        said = f"<p><b>{html.escape(self.verdict)}</b>: {html.escape(self.finding)}</p>"
        return f"{said}{self._pooled_rates.to_html(index=False, float_format='{:.2f}'.format)}"

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        plain = {
            name: getattr(self, name)
            for name in ("latents", "steering_latents", "dose", "verdict", "finding", "beyond_baselines", "checks")
        }
        tables = {name: plain_records(getattr(self, name)) for name in ("conditions", "side_effects")}
        transfer = {} if self.transfer is None else {"transfer": self.transfer.as_json()}
        return {"command": "verdict", "folder": str(self.step.folder), **plain, **tables, **transfer}


def verdict(run: StudyRun, config: VerdictConfig, announce: Callable[[str], None] = lambda line: None) -> VerdictResult:
    """The verdict of the run, which is brought so far where it is not, or that on the user's latents."""
    second = None if config.transfer is None else (config.transfer, model_identity(config.transfer))
    if config.latents:
        added = [] if config.steer_latent is None else [config.steer_latent]
        choice: dict[str, Any] = {"persona_latents": config.latents, "steering_latents": added, "steering_dose": config.dose}
        choice |= {"removal": {"kind": "project_span", "strength": 1.0}}
        step = evidence = _own_claim(run, choice)
    else:
        if not run.has("verdict"):
            run.bring_to("verdict", announce)
        choice, step, evidence = run.context.load(SCREEN).choice, run.run.result("verdict"), run.run.result("evidence")
        if "steering_latents" not in choice:
            raise ArtifactError(f"An earlier version made the screen of {run.run.root}. Make a new run.")
    if second is not None and not choice["persona_latents"]:
        raise ConfigError("The run's screen chose no latents, so there is nothing to transfer. Name some with latents.")
    transfer = None if second is None else _transfer(run, choice, *second)
    record = step.load(VerdictRecord)
    return VerdictResult(
        step=step,
        latents=list(choice["persona_latents"]),
        steering_latents=list(choice["steering_latents"]),
        dose=choice["steering_dose"],
        **{name: record.verdict[name] for name in ("verdict", "finding", "checks")},
        conditions=record.conditions,
        side_effects=evidence.load(Evidence).side_effects,
        transfer=transfer,
        beyond_baselines=record.verdict.get("beyond_baselines"),
        shown=run.context.trait.shown,
    )


def _own_claim(run: StudyRun, choice: dict[str, Any]) -> StepResult:
    """The main job's measurement, with a choice that is the user's."""
    named = [*choice["persona_latents"], *choice["steering_latents"]]
    run.context.dictionary.directions(named)  # complains of latents that are not there

    def make(context: StudyContext) -> VerdictRecord:
        write_json(context.folder / "choice.json", choice)
        evidence = evidence_on(context, choice, context.folder)
        evidence.save(context.folder)
        return verdict_on(context, evidence.answers, choice)

    return run.step("claim", {"claim": choice, **_measuring(run)}, make)


def _measuring(run: StudyRun) -> dict[str, Any]:
    """What a verdict depends on besides the claim."""
    ways = run.config.screen.model_dump(include={"subtracted", "subtracted_over_window"})
    return {"verdict": run.config.verdict.model_dump(), "rules": run.config.rules.model_dump(), "window": run.context.window, "ways": ways}


def _transfer(run: StudyRun, choice: dict[str, Any], source: str, identity: str) -> Transfer:
    """The removal alone, measured on a second fine-tune with all its controls."""
    settings = {
        "claim": {name: choice.get(name) for name in ("persona_latents", "removal", "mean_difference_removal", "selection_rates")},
        **_measuring(run),
    }
    step = run.step("transfer", settings, partial(_make_transfer, run, choice, source), {"second": identity})
    record = step.load(TransferRecord)
    return Transfer(step, source, record.transfer["result"], record.transfer["checks"], record.conditions)


def _make_transfer(run: StudyRun, choice: dict[str, Any], source: str, context: StudyContext) -> TransferRecord:
    config, _ = planned(context, choice)
    trial, claim, _ = make_claim(context, choice | {"steering_latents": [], "steering_dose": None}, config, context.open_model(source))
    answers = gather_evidence(trial, claim, config)
    verdict = decide(answers, run.config.seed, context.trait.shown, run.config.rules)
    checks = [asdict(check) for check in (verdict.present, *verdict.necessary, verdict.enough)]
    return TransferRecord(answers, condition_table(answers), {"result": transfer_word(verdict), "checks": checks})


def transfer_word(verdict: Verdict) -> str:
    """What the verdict on a removal says of a second fine-tune."""
    if verdict.word in (NO_EVIDENCE, UNDECIDED):
        return ABSENT if verdict.word == NO_EVIDENCE else UNDECIDED
    return TRANSFERS if all(check.holds for check in verdict.necessary) else STAYS
