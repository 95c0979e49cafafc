"""Edits that are not exact in weights are refused, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interp.core.errors import EditError, HookPointError
from interp.dictionaries.sae import SAE
from interp.interventions import export
from interp.interventions.edits import Edit, clamp_latents, project_out
from interp.interventions.export import everywhere, export_model
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from tests.helpers.exported_edits import MID, POST, PRE, PROBES, WITHOUT_BIASES, adding, centred, randn
from tests.helpers.tiny import D_MODEL, tiny_model, tiny_tokenizer
from tests.helpers.tiny_families import NETWORKS, made


def refused(model: LanguageModel, edits: Edit | list[Edit], folder: Path, message: str) -> None:
    with pytest.raises(EditError, match=message):
        export_model(model, edits, folder / "out", PROBES)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("places", "name", "before"),
    [
        ([POST, MID], MID, PRE),  # the embedding is left out
        ([resid_post(1)], resid_post(1), "blocks.1.hook_resid_mid"),
        ([PRE, POST, resid_post(1), resid_post(2)], POST, MID),  # nothing amid the blocks
        ([PRE, MID, POST, resid_post(2)], resid_post(2), "blocks.2.hook_resid_mid"),
    ],
)
def test_a_projection_with_a_gap_or_above_the_embedding_is_refused(places: list[str], name: str, before: str, tmp_path: Path) -> None:
    message = f"projected out at {name} is still carried by the stream at {before}. Exact is one project_out at all of everywhere"
    refused(made("llama"), centred(places), tmp_path, message)


def test_projections_of_directions_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    model = made("llama")
    names = everywhere(model)
    refused(model, [centred(names, seed=0), centred(names, seed=50)], tmp_path, "is still carried by the stream")


@pytest.mark.parametrize("name", WITHOUT_BIASES)
def test_centres_that_differ_are_refused_where_no_bias_can_be(name: str, tmp_path: Path) -> None:
    model = made(name)
    kind = model.network.config.model_type
    message = f"the mlp.down_proj of a '{kind}' has no bias that could add the step. Exact is a project_out around one centre"
    edit = centred(everywhere(model))
    if name == "qwen3":  # its attention can have one
        assert export.FAMILIES["qwen3"].writes.bias_settings == {"self_attn.o_proj": "attention_bias"}
    else:
        message = message.replace("mlp.down_proj", "self_attn.o_proj")
    refused(model, edit, tmp_path, message)


def test_what_no_weight_can_do_is_refused(tmp_path: Path) -> None:
    model = made("llama")
    names = everywhere(model)
    sae = SAE(randn(D_MODEL, 8, seed=1), torch.zeros(8), randn(8, D_MODEL, seed=2), torch.zeros(D_MODEL), "topk", 2, None, False, PRE)
    response = project_out(randn(1, D_MODEL, seed=0), dict.fromkeys(names, torch.zeros(D_MODEL)), phase="response", label="late")
    refused(model, response, tmp_path, r"'late' depends on the phase 'response', which no weight can do\. Exact .* in the phase 'all'")
    refused(model, clamp_latents(sae, [3], label="latent"), tmp_path, "'latent' depends on the activation of latents, which no weight")
    refused(model, centred(names).only_where(sae, 3), tmp_path, "'test' depends on a condition on a latent, which no weight can do")
    refused(model, project_out(randn(1, 8, seed=0), {PRE: torch.zeros(8)}), tmp_path, "has width 8, llama has 32")
    refused(model, [], tmp_path, "Without an edit there is nothing to export")
    with pytest.raises(EditError, match="Without a probe chat"):
        export_model(model, centred(names), tmp_path / "out", [])
    with pytest.raises(HookPointError, match="no hook_resid_mid"):
        export_model(made("gpt_neox, parallel"), adding(MID), tmp_path / "out", PROBES)
    assert list(tmp_path.iterdir()) == []


def test_families_that_norm_what_is_added_are_refused(tmp_path: Path) -> None:
    model = tiny_model(family="gemma3")
    refused(model, centred(everywhere(model)), tmp_path, "weights of a 'gemma3_text' .* it norms what attention and MLP write before")


def test_an_adapter_that_is_not_merged_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    wrapped: Any = get_peft_model(NETWORKS["llama"](), LoraConfig(target_modules=["q_proj"]))
    model = LanguageModel(wrapped.get_base_model(), tiny_tokenizer(), "adapted")
    refused(model, centred(everywhere(model)), tmp_path, "adapted has weights of an adapter .* open_model, which merges adapters")


def test_logits_that_differ_are_refused_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    edit = centred(everywhere(model))
    monkeypatch.setattr(export, "_folded", lambda model, edits: model.network)
    refused(model, edit, tmp_path, r"differ from those of the edited one by .* so nothing was kept\. The edit leaves so little")
    broken = made("llama").network
    broken.lm_head.weight.data[7] = float("nan")
    monkeypatch.setattr(export, "_folded", lambda model, edits: broken)
    refused(model, edit, tmp_path, "differ from those of the edited one by nan")
