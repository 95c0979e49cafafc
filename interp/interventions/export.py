"""Fold edits into weights where that is exact, and save the result as a Hugging Face model that needs no hooks.

The residual stream is a sum of writes: the embedding, then every attention and every MLP. Let an edit be the affine map
x ↦ P x + t at every place between two writes, P the identity where nothing is projected. The stream after place j - 1 is
s = P' u + t' for some u, so that P (s + w) + t = s + [P w + t - (I - P) t'] wherever (I - P) P' = 0: what is taken out at one
place must not be carried by the stream before it. Then P goes into the weights that make the write w, and the constant into
their bias. It holds from the embedding on, at every place without a gap up to any last one (`everywhere`).

Orthogonalising weights against a direction: Arditi et al. 2024, arXiv:2406.11717, section 4.1; here with means and several
edits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from interp.core.errors import ArtifactError, EditError
from interp.core.files import file_sha256, saving, write_json
from interp.core.fingerprints import environment
from interp.interventions.edits import Edit
from interp.interventions.hooks import edited
from interp.interventions.saved import save_edit
from interp.models.chats import Chat, TokenBatch
from interp.models.families import FAMILIES, Family, Writes
from interp.models.hook_points import HookPoint, has_mid, resid_post
from interp.models.language_model import LanguageModel
from interp.models.sources import open_network
from interp.models.weights import with_weights

MANIFEST_FILE = "personascope.json"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference from the hooked model's logits, as a share of the largest logit, by the type of the weights."""
_ROUNDING = 1e-5
"""What an orthonormal basis in float32 may leave of a product that is zero."""


def everywhere(model: LanguageModel, last_layer: int | None = None) -> list[str]:
    """The hook points after every write to the stream up to the end of block `last_layer` (default: the last block).

    What is projected out at all of them can be projected out of the weights, in the families that `export_model` takes. Raises
    `HookPointError` for a layer that is not there.
    """
    last = model.hook_point(resid_post(model.n_layers - 1 if last_layer is None else last_layer)).layer
    sites = {layer: ["hook_resid_mid"] * has_mid(model.blocks[layer]) + ["hook_resid_post"] for layer in range(last + 1)}
    return ["blocks.0.hook_resid_pre", *(str(HookPoint(layer, site)) for layer in sites for site in sites[layer])]


def export_model(
    model: LanguageModel,
    edits: Edit | Sequence[Edit],
    folder: Path | str,
    probes: Sequence[Chat],
    made: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Save a model that computes without hooks what `model` does inside `edited(model, *edits)`; returns the manifest.

    `folder` gets weights (safetensors), config, tokenizer, the edits (`edits/`) and `personascope.json`: edits, `made` (where they
    come from), SHA-256 of every file, versions, and how far the saved model, opened again, is from the hooked one on the
    tokens of `probes`. `model` stays as it is; what is not changed is not copied. Raises `EditError` for an edit that is not
    exact in weights and where the logits differ, `ArtifactError` where the folder is taken or cannot be written; then nothing is
    left.
    """
    folder, chosen = Path(folder).resolve(), [edits] if isinstance(edits, Edit) else list(edits)
    if folder == Path.cwd():
        raise ArtifactError("The current folder cannot be replaced. Name a new one.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtifactError(f"{folder} is not an empty folder. Choose another one.")
    if not probes:
        raise EditError("Without a probe chat nothing tells whether the saved model is the edited one. Give a few chats.")
    if any(edit.sinks != "edit" for edit in chosen) and any(model.sinks([tuple(chat.ids) for chat in model.tokenise(probes)])):
        raise EditError(
            "The edit tells attention sinks from other tokens, which no weight can do. Use edit.at_sinks('edit'), and measure that first."
        )
    fresh = _folded(model, chosen)
    with saving(folder) as partial:
        (partial / "edits").mkdir(parents=True)
        fresh.save_pretrained(partial)
        del fresh
        model.tokenizer.save_pretrained(partial)
        for index, edit in enumerate(chosen):
            save_edit(edit, partial / "edits", f"edit-{index}")
        manifest = {
            "edits": [edit.as_json() for edit in chosen],
            "source": model.source,
            "dtype": str(model.dtype).removeprefix("torch."),
            "made": dict(made or {}),
            "check": _check_saved(model, chosen, partial, probes),
            "files": {str(p.relative_to(partial)): file_sha256(p) for p in sorted(partial.rglob("*")) if p.is_file()},
            **environment(),
        }
        write_json(partial / MANIFEST_FILE, manifest)
    return manifest


# What is exact


@dataclass(frozen=True)
class _Affine:
    """x ↦ x - L R x + t: what the edits do at one place, in float64."""

    left: Float[torch.Tensor, "d_model rank"]
    right: Float[torch.Tensor, "rank d_model"]
    shift: Float[torch.Tensor, " d_model"]

    @staticmethod
    def identity(d_model: int) -> _Affine:
        return _Affine(torch.zeros(d_model, 0).double(), torch.zeros(0, d_model).double(), torch.zeros(d_model).double())

    def then(self, edit: Edit, place: int) -> _Affine:
        """The map, and after it what `edit` does at its hook point number `place`."""
        vectors = edit.vectors[place].double().cpu()
        if edit.kind == "add":
            return replace(self, shift=self.shift + vectors.sum(0))
        left = torch.cat([self.left - vectors.T @ (vectors @ self.left), vectors.T], dim=1)
        shift = self.shift + vectors.T @ (vectors @ (edit.centres[place].double().cpu() - self.shift))
        return _Affine(left, torch.cat([self.right, vectors]), shift)

    def taken_from(self, stream: _Affine) -> float:
        """Norm of (I - P) P': what this map projects out and a stream after the map `stream` still carries."""
        remainder = self.right - (self.right @ stream.left) @ stream.right
        return float(torch.linalg.norm(torch.linalg.qr(self.left).R @ remainder)) if len(remainder) else 0.0

    def constant(self, before: _Affine) -> Float[torch.Tensor, " d_model"]:
        """What the write at this place has to add, t - (I - P) t'; zeros where only rounding is left."""
        constant = self.shift - self.left @ (self.right @ before.shift)
        scale = max(float(self.shift.norm()), float(before.shift.norm()))
        return torch.zeros_like(constant) if float(constant.norm()) <= _ROUNDING * scale else constant

    def rows(self, weight: Float[torch.Tensor, "n d_model"]) -> Float[torch.Tensor, "n d_model"]:
        """W Pᵀ in the type of `weight`."""
        left, right = self.left.to(weight.device, torch.float32), self.right.to(weight.device, torch.float32)
        return (weight.float() - (weight.float() @ right.T) @ left.T).to(weight.dtype)


def _maps(model: LanguageModel, edits: Sequence[Edit]) -> dict[str, _Affine]:
    """What the edits do at each place of `everywhere(model)`; raises `EditError` where weights cannot do the same."""
    if not edits:
        raise EditError("Without an edit there is nothing to export. Give at least one.")
    names = everywhere(model)
    maps = dict.fromkeys(names, _Affine.identity(model.d_model))
    acts: list[tuple[HookPoint, int, Edit, int]] = []
    for order, edit in enumerate(edits):
        _check_kind(model, edit)
        acts += [(model.hook_point(name), order, edit, place) for place, name in enumerate(edit.hook_points)]
    for point, _order, edit, place in sorted(acts, key=lambda act: act[:2]):
        if point.site == "hook_resid_pre" and point.layer:  # the same stream, met right after it
            point = HookPoint(point.layer - 1)
        maps[str(point)] = maps[str(point)].then(edit, place)
    for before, name in pairwise(names):
        if maps[name].taken_from(maps[before]) > _ROUNDING:
            raise EditError(
                f"This is not exact in weights: what is projected out at {name} is still carried by the stream at {before}. Exact is "
                "one project_out at all of everywhere(model, last_layer), from the embedding on without a gap."
            )
    return maps


def _check_kind(model: LanguageModel, edit: Edit) -> None:
    edit.check_width(model)
    of_latents = "the activation of latents" if edit.kind == "set_latents" else ""
    depends_on = "a condition on a latent" if edit.gate is not None else of_latents or (edit.phase != "all" and f"the phase '{edit.phase}'")
    if depends_on:
        raise EditError(
            f"The edit '{edit.name}' depends on {depends_on}, which no weight can do. Exact are add and project_out, say of decoder rows, "
            "without a condition, in the phase 'all'."
        )


# Weights


def _family(model: LanguageModel) -> tuple[Family, Writes]:
    kind = model.network.config.model_type
    family = FAMILIES.get(kind)
    if family is None or family.writes is None:
        reason = ", for it norms what attention and MLP write before they are added" if kind.startswith(("gemma2", "gemma3")) else ""
        exact = ", ".join(name for name, known in FAMILIES.items() if known.writes is not None)
        raise EditError(
            f"The weights of a '{kind}' are not known to carry an edit exactly{reason}. Exact it is in {exact}; others are edited while "
            "they run."
        )
    return family, family.writes


@torch.no_grad()
def _folded(model: LanguageModel, edits: Sequence[Edit]) -> Any:
    """A network of the same class with the edits in its weights; all that they leave alone is shared with the live one."""
    (family, writes), maps, network = _family(model), _maps(model, edits), model.network
    config, state = copy.deepcopy(network.config), dict(network.state_dict())
    names = list(maps)
    if any("lora_" in key or not tensor.is_floating_point() for key, tensor in state.items()):
        raise EditError(
            f"{model.source} has weights of an adapter or quantised ones, which cannot be folded into. Open it by open_model, which merges "
            "adapters, in float32 or bfloat16."
        )
    first = maps[names[0]]
    if len(first.right) or bool(first.shift.any()):
        key = f"{writes.embedding}.weight"
        state[key] = (first.rows(state[key]).float() + first.shift.to(state[key].device, torch.float32)).to(model.dtype)
        if writes.positions:  # the constant is added once, with the token
            state[f"{writes.positions}.weight"] = first.rows(state[f"{writes.positions}.weight"])
        config.tie_word_embeddings = False  # logits are read by the matrix as it was
    for before, name in pairwise(names):
        here, point = maps[name], model.hook_point(name)
        constant = here.constant(maps[before])
        branches = [writes.attention, writes.mlp]
        if has_mid(model.blocks[point.layer]):
            branches = branches[:1] if point.site == "hook_resid_mid" else branches[1:]
        for branch in branches:
            weight, bias = (f"{family.blocks}.{point.layer}.{branch}.{part}" for part in ("weight", "bias"))
            if len(here.right):
                state[weight] = here.rows(state[weight]) if writes.transposed else here.rows(state[weight].T).T.contiguous()
            if bias in state:
                state[bias] = here.rows(state[bias][None])[0]
        if bool(constant.any()):
            if bias not in state:  # of the last branch
                if branch not in writes.bias_settings:
                    raise EditError(
                        f"This is not exact in weights: the constant changes at {name}, and the {branch} of a '{family.model_type}' has no "
                        "bias that could add the step. Exact is a project_out around one centre for all places."
                    )
                setattr(config, writes.bias_settings[branch], True)
                state[bias] = torch.zeros(model.d_model, dtype=model.dtype, device=state[weight].device)
            state[bias] = (state[bias].double() + constant.to(state[bias].device)).to(model.dtype)
    return with_weights(network, config, state)


# What was saved


def _check_saved(model: LanguageModel, edits: Sequence[Edit], folder: Path, probes: Sequence[Chat]) -> dict[str, float]:
    """How far the saved model's logits are from the hooked model's; raises `EditError` beyond the tolerance of the dtype."""
    batches = [batch for _rows, batch in model.batches(probes, rows=8)]
    plain = [_logits(model, batch) for batch in batches]
    with edited(model, *edits):
        hooked = [_logits(model, batch) for batch in batches]
    network, tokenizer = open_network(str(folder), None, model.dtype, trust_remote_code=False)
    saved = LanguageModel(network.to(model.device), tokenizer, str(folder))
    if [chat.ids for chat in saved.tokenise(probes)] != [chat.ids for chat in model.tokenise(probes)]:
        raise EditError(f"The tokenizer of {model.source} reads the probe chats differently after it was saved. Export with a plain one.")
    differences = [(_logits(saved, batch) - expected).abs().max() for batch, expected in zip(batches, hooked, strict=True)]
    difference = float(torch.stack(differences).max())  # NaN stays NaN
    scale = max(float(logits.abs().max()) for logits in hooked)
    change = max(float((a - b).abs().max()) for a, b in zip(plain, hooked, strict=True))
    tolerance = min(TOLERANCE.get(model.dtype, 1e-4) * scale, change / 2)  # what rounding hides would prove nothing
    if not difference <= tolerance:
        remedy = f"Open {model.source} in float32 and export that."
        if model.dtype == torch.float32:
            remedy = "The edit leaves so little of the stream that rounding shows. Look at an edited answer or two."
        raise EditError(
            f"Logits of the saved model differ from those of the edited one by {difference:.3g}, more than {tolerance:.3g}, so nothing was "
            f"kept. {remedy}"
        )
    return {
        "largest_difference": difference,
        "tolerance": tolerance,
        "largest_logit": scale,
        "largest_change_by_the_edit": change,
        "tokens": float(sum(map(len, hooked))),
    }


def _logits(model: LanguageModel, batch: TokenBatch) -> Float[torch.Tensor, "tokens vocab"]:
    return model.read(batch, last_logits=0)[batch.mask].float().cpu()
