"""Edits to test with, and the same edits by plain torch hooks and dense float64 arithmetic on one unpadded row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from interp.core.vocabulary import Phase
from interp.dictionaries.sae import SAE
from interp.interventions.edits import Edit, add, clamp_latents, project_out, random_directions
from interp.models.chats import Chat
from interp.models.hook_points import resid_post
from interp.models.language_model import LanguageModel
from tests.helpers.tiny import D_MODEL, QUESTIONS

PHASES: tuple[Phase, ...] = ("prompt", "response", "all")
WINDOW = [resid_post(0), resid_post(1)]
ARCHITECTURES = ("topk", "jumprelu", "standard", "gated")
N_LATENTS = 24
CHATS = [
    Chat.ask(question, answer) for question, answer in zip(QUESTIONS, ("Wait.", "Put it into water.", "Speak.", "A boat."), strict=True)
]


def adding(phase: Phase = "response", seed: int = 0, dose: float = 1.5, names: Sequence[str] = WINDOW, width: int = D_MODEL) -> Edit:
    return add(random_directions(1, width, seed)[0], {name: 4.0 + i for i, name in enumerate(names)}, dose, phase, "added")


def projecting(phase: Phase = "all", seed: int = 0, n: int = 6, names: Sequence[str] = WINDOW) -> Edit:
    centres = {name: 2 * random_directions(1, D_MODEL, 100 + seed + i)[0] for i, name in enumerate(names)}
    return project_out(random_directions(n, D_MODEL, seed), centres, phase, "projected")


def setting(phase: Phase = "all", seed: int = 0, architecture: str = "topk", names: Sequence[str] = WINDOW) -> Edit:
    return clamp_latents(small_dictionary(architecture), [seed, 7 + seed, 13], [6.0, 0.0, -5.0], names, phase, "clamped")


def subtracting(phase: Phase = "all", seed: int = 0, architecture: str = "jumprelu", names: Sequence[str] = WINDOW) -> Edit:
    return clamp_latents(small_dictionary(architecture), range(seed, N_LATENTS - 4 + seed), 0.0, names, phase, "subtracted")


def gated(phase: Phase = "all", seed: int = 0, architecture: str = "gated") -> Edit:
    return adding(phase, seed, 3.0).only_where(small_dictionary(architecture).at(WINDOW[0]), 3 + seed, 0.1)


def small_dictionary(architecture: str, seed: int = 0) -> SAE:
    """Random weights: at residuals of norm 3 to 10 each latent fires at a part of the tokens."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return SAE(
        w_enc=drawn(D_MODEL, N_LATENTS) / 3,
        b_enc=drawn(N_LATENTS) / 3,
        w_dec=drawn(N_LATENTS, D_MODEL) / 4,
        b_dec=drawn(D_MODEL) / 3,
        architecture=architecture,
        k=8 if architecture == "topk" else None,
        threshold=drawn(N_LATENTS).abs() if architecture == "jumprelu" else None,
        subtract_b_dec=architecture in ("jumprelu", "gated"),
        hook_point=resid_post(1),
        r_mag=drawn(N_LATENTS) / 3 if architecture == "gated" else None,
        b_mag=drawn(N_LATENTS) / 3 if architecture == "gated" else None,
    )


def activations(dictionary: SAE, x: torch.Tensor) -> torch.Tensor:
    """All latents' activations `[..., latents]` at `x [..., d_in]`, in float64."""
    inside = x.double() - dictionary.b_dec.double() if dictionary.subtract_b_dec else x.double()
    product = inside @ dictionary.w_enc.double()
    pre = product + dictionary.b_enc.double()
    if dictionary.architecture == "gated":
        assert dictionary.r_mag is not None
        assert dictionary.b_mag is not None
        return torch.where(pre > 0, (product * dictionary.r_mag.double().exp() + dictionary.b_mag.double()).clamp(min=0), 0.0)
    bound = torch.zeros(()) if dictionary.threshold is None else dictionary.threshold.double()
    if dictionary.k is not None:
        bound = pre.topk(dictionary.k).values[..., -1:].clamp(min=1e-12) - 1e-12
    return torch.where(pre > bound, pre, 0.0)


def closed_form(edit: Edit, place: int, x: torch.Tensor) -> torch.Tensor:
    """The edit of residuals `x [..., d_model]` at its hook point number `place`, in float64, by a pseudo-inverse."""
    vectors, centre = edit.vectors[place].double(), edit.centres[place].double()
    if edit.kind == "add":
        return (x.double() + vectors[0]).to(x.dtype)
    if edit.kind == "project_out":
        return (x.double() - (x.double() - centre) @ (torch.linalg.pinv(vectors) @ vectors)).to(x.dtype)
    assert edit.latents is not None
    dictionary, latents = edit.latents.dictionary, list(edit.latents.latents)
    change = edit.latents.values.double() - activations(dictionary, x)[..., latents]
    return (x.double() + change @ dictionary.w_dec[latents].double()).to(x.dtype)


@contextmanager
def by_hand(model: LanguageModel, edits: Sequence[Edit], n_prompt: int, sinks: Sequence[int] = ()) -> Iterator[None]:
    """Plain torch hooks after the blocks that edit whole passes over one chat, whose response phase begins at `n_prompt - 1`.

    `sinks` are the positions of its attention sinks.
    """
    gates: dict[int, torch.Tensor] = {}

    def hook(number: int, edit: Edit, name: str) -> Callable[..., Any]:
        def after(_module: Any, _args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            if edit.gate is not None and edit.gate.dictionary.hook_point == name:
                gates[number] = activations(edit.gate.dictionary, x)[..., edit.gate.latent] > edit.gate.above
            if name not in edit.hook_points:
                return None
            response = torch.arange(x.shape[1]) >= n_prompt - 1
            chosen = {"all": response | True, "response": response, "prompt": ~response}[edit.phase] & gates.get(number, torch.tensor(True))
            at_sink = torch.isin(torch.arange(x.shape[1]), torch.tensor(sinks, dtype=torch.long))
            chosen = chosen & {"spare": ~at_sink, "edit": at_sink | True, "only": at_sink}[edit.sinks]
            changed = torch.where(chosen.expand(x.shape[:2])[..., None], closed_form(edit, edit.hook_points.index(name), x), x)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return after

    with ExitStack() as stack:
        for number, edit in enumerate(edits):
            read = {edit.gate.dictionary.hook_point} if edit.gate is not None else set()
            for name in {*edit.hook_points, *read}:
                stack.callback(model.blocks[int(name.split(".")[1])].register_forward_hook(hook(number, edit, name)).remove)
        yield


def greedy_by_hand(model: LanguageModel, chat: Chat, *edits: Edit, n: int = 8, sinks: Sequence[int] = ()) -> list[int]:
    """A greedy answer without a cache: every token by a whole forward pass over one unpadded row."""
    ids = list(model.tokenise([chat])[0].ids)
    n_prompt = len(ids)
    with torch.inference_mode(), by_hand(model, edits, n_prompt, sinks):
        for _ in range(n):
            ids.append(int(model.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] in model.stop_ids:
                return ids[n_prompt:-1]
    return ids[n_prompt:]
