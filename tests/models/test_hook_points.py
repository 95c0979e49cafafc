"""Hook points: their names, and that they are the residual stream that Hugging Face itself and TransformerLens report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from interp.core.errors import HookPointError, ModelError
from interp.models.hook_points import SITES, HookPoint, attach, find_blocks, has_mid, parse_hook_point, resid_post
from interp.models.language_model import LanguageModel
from interp.models.sources import open_model
from tests.helpers.tiny import FAMILIES, N_LAYERS, ask_all, tiny_folder, tiny_model
from tests.helpers.tiny_families import made

FINAL_NORMS = {
    "llama": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "qwen3": "model.norm",
    "gemma3": "model.norm",
}


def read_with_hook(model: LanguageModel, layer: int, site: str) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """The residual our hook sees, the mask, and Hugging Face's hidden states of the same padded batch."""
    seen: list[torch.Tensor] = []
    _indices, batch = next(model.batches(ask_all()))
    handle = attach(model.blocks[layer], site, lambda residual: seen.append(residual.clone()))
    with torch.inference_mode():
        model.read(batch)
        handle.remove()
        mask = batch.mask.long()
        hidden = model.network(
            input_ids=batch.ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), output_hidden_states=True
        ).hidden_states
    assert len(seen) == 1
    assert len(hidden) == N_LAYERS + 1
    return seen[0], batch.mask, hidden


@pytest.mark.parametrize("family", FAMILIES)
def test_resid_post_is_what_hugging_face_calls_the_next_hidden_state(family: str) -> None:
    model = tiny_model(1, family)
    for layer in range(N_LAYERS):
        residual, mask, hidden = read_with_hook(model, layer, "hook_resid_post")
        if layer == N_LAYERS - 1:  # Hugging Face reports the last one behind the final norm
            assert not torch.allclose(residual[mask], hidden[-1][mask], atol=1e-3)
            with torch.inference_mode():
                residual = model.network.get_submodule(FINAL_NORMS[family])(residual)
        torch.testing.assert_close(residual[mask], hidden[layer + 1][mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_resid_pre_is_the_hidden_state_that_the_block_reads(family: str) -> None:
    model = tiny_model(2, family)
    for layer in range(N_LAYERS):
        residual, mask, hidden = read_with_hook(model, layer, "hook_resid_pre")
        torch.testing.assert_close(residual[mask], hidden[layer][mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_visitor_returns_replaces_the_residual(family: str) -> None:
    model = tiny_model(3, family)
    _indices, batch = next(model.batches(ask_all()))
    plain = model.read(batch)
    original = read_with_hook(model, 1, "hook_resid_post")[0]
    seen: list[torch.Tensor] = []
    changed = []
    for layer, site in ((1, "hook_resid_post"), (2, "hook_resid_pre")):  # two names of one stream
        handles = [
            attach(model.blocks[layer], site, lambda residual: -residual),
            attach(model.blocks[2], "hook_resid_pre", lambda residual: seen.append(residual.clone())),
        ]
        changed.append(model.read(batch))
        for handle in handles:
            handle.remove()
        assert torch.equal(seen[-1], -original)
        assert not torch.allclose(changed[-1], plain, atol=1e-2)
        assert torch.equal(model.read(batch), plain)
    assert torch.equal(changed[0], changed[1])


# The stream between attention and MLP


MID_FAMILIES = ["llama", "qwen3", "gpt2", "gemma3", "gpt_neox, sequential", "qwen2, tied", "mistral", "gemma", "gemma2"]
BRANCHES = {  # what is added to the stream before and behind it
    "gpt2": ("attn", "mlp"),
    "gpt_neox, sequential": ("attention", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3": ("post_attention_layernorm", "post_feedforward_layernorm"),
}


def read_streams(model: LanguageModel, family: str, layer: int) -> dict[str, torch.Tensor]:
    """Residuals before, amid and after a block, and what its two branches write, at real tokens."""
    seen: dict[str, torch.Tensor] = {}
    _indices, batch = next(model.batches(ask_all()))

    def keep(name: str) -> Callable[[torch.Tensor], None]:
        return lambda residual: seen.update({name: residual.clone()})

    handles = [attach(model.blocks[layer], site, keep(site)) for site in SITES]
    for name, branch in zip(("attention", "mlp"), BRANCHES.get(family, ("self_attn", "mlp")), strict=True):
        module = model.blocks[layer].get_submodule(branch)

        def read(_m: Any, _a: Any, output: Any, name: str = name) -> None:
            seen[name] = (output[0] if isinstance(output, tuple) else output).clone()

        handles.append(module.register_forward_hook(read))
    model.read(batch)
    for handle in handles:
        handle.remove()
    return {name: tensor[batch.mask] for name, tensor in seen.items()}


@pytest.mark.parametrize("family", MID_FAMILIES)
def test_resid_mid_lies_between_what_attention_and_mlp_write(family: str) -> None:
    model = tiny_model(4, family) if family in FAMILIES else made(family)
    for layer in (0, N_LAYERS - 1):
        assert model.hook_point(f"blocks.{layer}.hook_resid_mid") == HookPoint(layer, "hook_resid_mid")
        seen = read_streams(model, family, layer)
        pre, mid, post = (seen[site] for site in SITES)
        torch.testing.assert_close(mid, pre + seen["attention"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(post, mid + seen["mlp"], atol=1e-5, rtol=1e-5)
        assert min(float((mid - pre).abs().max()), float((post - mid).abs().max())) > 0.01


@pytest.mark.parametrize("family", MID_FAMILIES)
def test_a_change_amid_a_block_is_carried_on_and_goes_with_its_hook(family: str) -> None:
    model = tiny_model(4, family) if family in FAMILIES else made(family)
    _indices, batch = next(model.batches(ask_all()))
    plain = model.read(batch, last_logits=0)
    direction = torch.nn.functional.normalize(torch.randn(model.d_model, generator=torch.Generator().manual_seed(0)), dim=0)

    def project(residual: torch.Tensor) -> torch.Tensor:
        return residual - (residual @ direction)[..., None] * direction

    handle = attach(model.blocks[1], "hook_resid_mid", project)
    seen = read_streams(model, family, 1)
    changed = model.read(batch, last_logits=0)
    handle.remove()
    _pre, mid, post = (seen[site] for site in SITES)
    assert float((mid @ direction).abs().max()) < 1e-5
    torch.testing.assert_close(post - seen["mlp"], mid, atol=1e-5, rtol=1e-5)  # the changed one, not the one that was there
    assert float((changed - plain)[batch.mask].abs().max()) > 1e-3
    assert torch.equal(model.read(batch, last_logits=0), plain)


def test_edits_amid_a_block_act_in_the_order_of_their_hooks_and_take_gradients() -> None:
    model = tiny_model(4)
    shift = torch.zeros(model.d_model, requires_grad=True)
    seen: list[torch.Tensor] = []
    visits: list[Callable[[torch.Tensor], torch.Tensor | None]] = [
        lambda r: r + shift,
        lambda r: 2 * r,
        lambda r: seen.append(r.clone()),
    ]
    handles = [attach(model.blocks[0], "hook_resid_mid", visit) for visit in visits]
    logits = model.network(torch.arange(1, 6)[None]).logits[0, -1, 7]
    for handle in handles:
        handle.remove()
    attach(model.blocks[0], "hook_resid_mid", lambda r: seen.append(r.clone()))
    model.network(torch.arange(1, 6)[None])
    torch.testing.assert_close(seen[0], 2 * seen[1])
    (gradient,) = torch.autograd.grad(logits, shift)
    handles = [attach(model.blocks[0], "hook_resid_mid", lambda r: 2 * (r + 1e-2 * gradient / gradient.norm()))]
    with torch.no_grad():
        moved = model.network(torch.arange(1, 6)[None]).logits[0, -1, 7]
    assert float(moved - logits.detach()) == pytest.approx(1e-2 * float(gradient.norm()), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_resid_mid_is_what_transformer_lens_calls_so(family: str, tmp_path: Path) -> None:
    model = open_model(str(tiny_folder(tmp_path / family, 5, family)), device="cpu")
    (ids,) = [tokenised.ids for tokenised in model.tokenise(ask_all()[1:2])]
    name, seen = "blocks.1.hook_resid_mid", []
    handle = attach(model.blocks[1], "hook_resid_mid", lambda residual: seen.append(residual.clone()))
    with torch.inference_mode():
        model.network(torch.tensor([ids]))
        handle.remove()
        _logits, cache = model.bridge().run_with_cache(torch.tensor([ids]))
    torch.testing.assert_close(seen[0], cache[name], atol=1e-4, rtol=1e-4)


def test_blocks_without_a_stream_amid_refuse_it() -> None:
    parallel = tiny_model(4, "gpt_neox")
    with pytest.raises(HookPointError, match=r"GPTNeoXLayer has no hook_resid_mid: its attention and MLP read the same residual\. Use "):
        parallel.hook_point("blocks.1.hook_resid_mid")
    assert not has_mid(parallel.blocks[1])
    with pytest.raises(HookPointError, match="Linear has no hook_resid_mid: it is not one of LlamaDecoderLayer"):
        attach(nn.Linear(2, 2), "hook_resid_mid", lambda residual: residual)


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post"])
@pytest.mark.parametrize("in_tuple", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_blocks_of_every_calling_convention_are_seen_and_changed(site: str, in_tuple: bool, by_name: bool) -> None:
    """Blocks get the residual by place or by name, and return it bare or, in older families, in a tuple."""

    class Block(nn.Module):
        def forward(self, hidden_states: torch.Tensor, scale: float) -> torch.Tensor | tuple[torch.Tensor, str]:
            return (hidden_states * scale, "cache") if in_tuple else hidden_states * scale

    block, x = Block(), torch.randn(2, 3, 4)

    def run() -> torch.Tensor:
        output = block(hidden_states=x, scale=3.0) if by_name else block(x, 3.0)
        if not in_tuple:
            return output
        assert output[1:] == ("cache",)
        return output[0]

    seen: list[torch.Tensor] = []
    for visit, expected in ((seen.append, 3 * x), (lambda r: r + 1, 3 * x + 1 if site == "hook_resid_post" else 3 * (x + 1))):
        handle = attach(block, site, visit)
        torch.testing.assert_close(run(), expected)
        handle.remove()
    assert torch.equal(seen[0], 3 * x if site == "hook_resid_post" else x)
    assert torch.equal(run(), 3 * x)


def test_names_round_trip() -> None:
    for layer in range(N_LAYERS):
        for site in SITES:
            point = HookPoint(layer, site)
            assert str(point) == f"blocks.{layer}.{site}"
            assert parse_hook_point(str(point), N_LAYERS) == point
    assert resid_post(12) == "blocks.12.hook_resid_post"
    in_order = [HookPoint(9, "hook_resid_pre"), HookPoint(9, "hook_resid_mid"), HookPoint(9), HookPoint(10, "hook_resid_pre")]
    assert sorted([in_order[3], in_order[2], in_order[0], in_order[1]]) == in_order
    assert in_order[1] <= in_order[2] < in_order[3]


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"),
        ("blocks.1.resid_pre", "blocks.1.hook_resid_pre"),
        ("block.2.hook_resid_post", "blocks.2.hook_resid_post"),
        ("blocks.0.hook_resid_middle", "blocks.0.hook_resid_mid"),
        ("blocks.0.hook_attn_out", "blocks.0.hook_resid_"),
        ("blocks.0.hook_resid_post ", "blocks.0.hook_resid_post"),
        ("", "blocks."),
    ],
)
def test_a_wrong_name_raises_and_proposes_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(HookPointError) as caught:
        parse_hook_point(wrong, N_LAYERS)
    assert f"no hook point '{wrong}'. Did you mean '{nearest}" in str(caught.value)
    assert f"0 to {N_LAYERS - 1}" in str(caught.value)


@pytest.mark.parametrize("layer", [N_LAYERS, N_LAYERS + 10, -1])
def test_a_layer_the_model_lacks_raises(layer: int) -> None:
    with pytest.raises(HookPointError, match="Layers run from 0 to 2"):
        tiny_model().hook_point(f"blocks.{layer}.hook_resid_post")


@settings(deadline=None)
@given(name=st.text(max_size=40))
def test_any_text_is_a_hook_point_or_a_clear_error(name: str) -> None:
    try:
        point = parse_hook_point(name, N_LAYERS)
    except HookPointError:
        return
    assert 0 <= point.layer < N_LAYERS
    assert point.site in SITES


def test_a_network_without_known_blocks_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="Cannot find the transformer blocks of Sequential"):
        find_blocks(nn.Sequential(nn.Linear(2, 2)))
