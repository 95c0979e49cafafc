"""Export on an opened run: an edit in the weights of a model, or as a control vector for llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.core.errors import ArtifactError, EditError
from interp.core.files import file_sha256, read_json
from interp.interventions.control_vector import block_directions, check_target, model_hint, write_control_vector
from interp.interventions.edits import Edit
from interp.interventions.export import MANIFEST_FILE, export_model
from interp.studies.opened import StudyRun
from interp.studies.persona.answers import evenly_spaced
from interp.studies.steering import adding
from interp.studies.steering_config import ExportConfig
from sae_training.corpus import read_corpus

PROBES = 8
"""Corpus chats on which a saved model is compared with the edited one."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    edit: dict[str, Any]
    source: str
    """The model that was edited."""
    folder: Path | None
    check: dict[str, float] | None
    """How far the saved model's logits are from those of the hooked one."""
    control_vector: list[Path]
    """The GGUF file and the same as safetensors."""

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        paths = {"folder": self.folder and str(self.folder), "manifest": self.folder and str(self.folder / MANIFEST_FILE)}
        vectors = [str(path) for path in self.control_vector]
        return {"command": "export", "edit": self.edit, "source": self.source, **paths, "check": self.check, "control_vector": vectors}


def export(run: StudyRun, config: ExportConfig) -> Exported:
    """Write the edit; whoever reads the files needs no hooks. The record is the folder's own manifest, by which it is found again."""
    edit = _edit(run, config)
    model = run.context.base if config.steer_latent is not None or config.edit == "steered" else run.context.tuned
    check, vectors, files = None, {}, []
    if config.gguf is not None:
        vectors = block_directions(model, edit)
        check_target(config.gguf)  # before a model is written
    if config.to is not None:
        made = {"run": str(run.run.root), "inputs": run.inputs}
        check = _finished(config.to, edit, made)
        try:
            check = check or export_model(model, edit, config.to, evenly_spaced(read_corpus(), PROBES), made)["check"]
        except EditError as error:
            raise EditError(f"{error}{_way_out(edit, config)}") from error
    if config.gguf is not None:
        files = write_control_vector(config.gguf, vectors, model_hint(model), edit.label)
    return Exported(edit.as_json(), model.source, config.to, check, files)


def _edit(run: StudyRun, config: ExportConfig) -> Edit:
    if config.edit is not None:
        return run.verdict_edit(config.edit)
    if config.steer_latent is not None:
        return adding(run, config.steer_latent, None, float(config.dose or 0.0), phase="all").at_sinks("edit")
    centres = run.centres_everywhere(config.last_layer, config.one_centre) if config.everywhere else None
    return run.removing(config.latents, centres=centres).at_sinks("edit")  # weights act on every token


def _finished(folder: Path, edit: Edit, made: dict[str, Any]) -> dict[str, float] | None:
    """The check of the same export, where it is there already and whole; raises `ArtifactError` where files are missing or altered."""
    manifest = read_json(folder / MANIFEST_FILE) if (folder / MANIFEST_FILE).is_file() else {}
    if manifest.get("made") != made or [saved["key"] for saved in manifest["edits"]] != [edit.key]:
        return None
    for name, sha256 in manifest["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise ArtifactError(f"{folder / name} is missing or altered. Delete {folder} and export again.")
    check: dict[str, float] = manifest["check"]
    return check


def _way_out(edit: Edit, config: ExportConfig) -> str:
    """What to ask for in place of an edit that is not exact."""
    if edit.phase == "response":
        return " Take steer_latent and dose, which add at every token (--steer-latent N --dose X)."
    if config.everywhere:
        return ""
    return " Take latents with everywhere (--latents N,… --everywhere), and measure that by 'personascope ablate --sinks edit' first."
