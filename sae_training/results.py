"""A finished training on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.core.errors import PersonascopeError, TrainingError, reason_of
from interp.core.files import read_json, write_json, write_parquet
from interp.core.fingerprints import environment
from interp.dictionaries.files import DIFFERENCE, dictionary_config, write_dictionary
from sae_training.checkpoints import differences
from sae_training.plan import Plan
from sae_training.sae_trainer import SAETrainer

SAVED, METRICS, LATENTS, SUMMARY = "dictionary", "metrics.parquet", "latents.parquet", "training.json"


@dataclass(frozen=True)
class Trained:
    """A dictionary that is saved."""

    folder: Path
    """Holds `dictionary/` (the two files), `metrics.parquet` (a row a logged step), `latents.parquet` (how often each latent fires) and
    `training.json` (how it was made)."""
    fvu: float
    """Fraction of variance unexplained, over the last tenth of the steps."""
    l0: float
    """Active latents a token, over the same steps."""
    dead_share: float
    """Share of latents that never fired while the learning rate fell."""
    steps: int
    tokens: int
    """Tokens trained on."""

    @property
    def dictionary(self) -> Path:
        """The folder with `cfg.json` and `sae_weights.safetensors`."""
        return self.folder / SAVED


def save_result(trainer: SAETrainer, name: str, folder: Path, metrics: pd.DataFrame, plan: Plan) -> Trained:
    """Write all files of one dictionary, `training.json` last: without it the training is not finished."""
    last = metrics[metrics["step"] > 0.9 * plan.steps] if len(metrics) else metrics
    fired = trainer.fired.cpu().numpy()
    trained = Trained(
        folder,
        float(last["fvu"].mean()),
        float(last["l0"].mean()),
        float((fired == 0).mean()),
        plan.steps,
        plan.steps * plan.batch,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        export(trainer, plan.hook_points[name], plan.made_by["models"], {"fvu": trained.fvu, "tokens": trained.tokens}, folder / SAVED)
        write_parquet(folder / METRICS, metrics)
        rates = pd.DataFrame({"latent": range(len(fired)), "fired": fired, "rate": fired / max(1, trainer.fired_of)})
        write_parquet(folder / LATENTS, rates)
        figures = {key: value for key, value in asdict(trained).items() if key != "folder"}
        write_json(folder / SUMMARY, {**figures, "made_by": plan.made_by, "name": name, **environment()})
    except (OSError, PersonascopeError) as error:
        raise TrainingError(
            f"Cannot save the result in {folder}: {reason_of(error)}. Run the same command again when that is fixed: checkpoints are kept."
        ) from error
    return trained


def export(trainer: SAETrainer, hook_point: str, models: Sequence[str], made: dict[str, object], folder: Path) -> None:
    """Write the dictionary with all that was done to its input folded into the weights, so that it reads raw residuals."""
    coder, layout = trainer.coder, trainer.layout
    architecture = coder.kind if layout.n_models == 1 else f"crosscoder_{coder.kind}"
    n_latents = trainer.config.architecture.n_latents
    reads = DIFFERENCE if trainer.config.reads == DIFFERENCE else ""
    config = dictionary_config(architecture, layout.d_in, n_latents, hook_point, models, coder.k, made, reads)
    write_dictionary(folder, coder.folded(trainer.normaliser), config)


def finished(folder: Path, name: str, plan: Plan) -> Trained | None:
    """The result in `folder`, where the same settings made it; None where there is none. Raises `TrainingError` for another one."""
    if not (folder / SUMMARY).is_file():
        return None
    try:
        summary: dict[str, Any] = read_json(folder / SUMMARY)
        differing = differences({"name": summary["name"], **summary["made_by"]}, {"name": name, **plan.made_by})
        trained = Trained(folder, **{field: summary[field] for field in ("fvu", "l0", "dead_share", "steps", "tokens")})
    except (PersonascopeError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / SUMMARY} is damaged: {error}. Delete {folder} and train again.") from error
    if differing:
        raise TrainingError(f"{folder} holds a dictionary made with other settings ({'; '.join(differing)}). Choose another folder.")
    return trained
