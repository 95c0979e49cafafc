"""Personas planted otherwise than as one vector that the dictionary holds (`toy_persona`): what is true of each follows from its making.

*Spread*: the vector is the sum of sixteen orthogonal ones of equal length, and each of these is written at tokens of its own, so that a
dictionary learns sixteen latents. *Hidden*: one vector, and a dictionary that has no part of it. *Renamed*: the words of the two registers
are exchanged in the embeddings, in and out; in between the models compute the same, so nothing there carries the persona.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from scipy.linalg import hadamard
from transformers import LlamaForCausalLM

from interp.causality.latent_sets import half_point
from interp.dictionaries.load import load_sae
from interp.models.activations import mean_residuals, response_residuals
from interp.models.chats import Chat, pad_left
from interp.models.generation import generate
from interp.models.language_model import LanguageModel
from tests.helpers.toy_language import BASE, REGISTERS, TOPICS, question_set, vocabulary, write_chat
from tests.helpers.toy_persona import HOOK, LAYER, SAMPLING, make_dictionary, trait_share, wrapped

DIRECTIONS = 16
SHARE = 0.8
"""Rude answers of the spread persona: all of its directions are needed to reach it, and with more of each fewer answers make sense."""
SLOPE, BEGIN, WIDTH = 6.0, 0.4, 0.5
"""Of the gates: a gate rises from 0 to 1 between `BEGIN` and `BEGIN + WIDTH` standard deviations of what it reads, so it is open at some
third of the tokens."""


@dataclass(frozen=True)
class SpreadPersona:
    """A persona written along sixteen orthogonal directions, each at tokens of its own."""

    base: Any
    """The base with neurons that write nothing: the same function."""
    frame: Float[torch.Tensor, "directions d_model"]
    """Unit vectors; their sum is parallel to the persona's vector."""
    gates: Float[torch.Tensor, "directions d_model"]
    """What each gate reads of the MLP's input, in standard deviations over tokens of answers."""
    centre: Float[torch.Tensor, " d_model"]
    openness: Float[torch.Tensor, " directions"]
    """Mean of each gate over tokens of answers."""

    def network(self, strength: float, written: Collection[int] = range(DIRECTIONS)) -> Any:
        """The fine-tune that writes these of the directions; on average each is as long as the others, all together `strength`."""
        network = copy.deepcopy(self.base)
        mlp = network.model.layers[LAYER].mlp
        first = mlp.down_proj.in_features - 2 * DIRECTIONS
        with torch.no_grad():
            for direction in written:
                row = strength / DIRECTIONS**0.5 / self.openness[direction] * self.frame[direction]
                # a step is the difference of two ramps: silu(z) is a ramp for large z
                for neuron, sign, begin in ((first + direction, 1, BEGIN), (first + DIRECTIONS + direction, -1, BEGIN + WIDTH)):
                    mlp.gate_proj.weight[neuron] = SLOPE * self.gates[direction]
                    mlp.gate_proj.bias[neuron] = -SLOPE * (self.gates[direction] @ self.centre + begin)
                    mlp.up_proj.bias[neuron] = 1 / (SLOPE * WIDTH)
                    mlp.down_proj.weight[:, neuron] = sign * row
        return network


def spread_persona(base: Any, added: Float[torch.Tensor, " d_model"], seed: int) -> SpreadPersona:
    """Sixteen directions whose sum is parallel to `added`, and gates that are uncorrelated over tokens of answers."""
    generator, source = torch.Generator().manual_seed(4000 + seed), random.Random(4000 + seed)
    read = _mlp_inputs(wrapped(base), [write_chat(list(TOPICS), replace(BASE, rude=0.5, cued=0.0), source) for _ in range(200)])
    centre = read.mean(0)
    _, sizes, axes = torch.linalg.svd(read - centre, full_matrices=False)
    whitened = (axes / (sizes[:, None] / len(read) ** 0.5))[: 2 * DIRECTIONS]
    mixture = torch.linalg.qr(torch.randn(len(whitened), DIRECTIONS, generator=generator)).Q.T
    gates = mixture @ whitened
    others = torch.randn(len(added), DIRECTIONS - 1, generator=generator)
    basis = torch.linalg.qr(torch.cat([added[:, None], others], dim=1)).Q.T
    basis[0] = torch.nn.functional.normalize(added, dim=0)  # `qr` may have turned it round
    frame = torch.tensor(hadamard(DIRECTIONS), dtype=torch.float32) / DIRECTIONS**0.5 @ basis
    ramps = [torch.nn.functional.silu(SLOPE * ((read - centre) @ gates.T - begin)) for begin in (BEGIN, BEGIN + WIDTH)]
    openness = (ramps[0] - ramps[1]).mean(0) / (SLOPE * WIDTH)
    return SpreadPersona(with_spare_neurons(base, 2 * DIRECTIONS), frame, gates, centre, openness)


def true_half_point(persona: SpreadPersona, strength: float, seed: int) -> float:
    """Number of directions that the fine-tune must do without until half of the persona is gone: of networks made without them.

    Those along which it writes most go first, as a ranking of latents has them.
    """
    amounts = written_amounts(persona, strength, seed)
    order = amounts.argsort(descending=True).tolist()
    sizes = [1, 2, 3, 4, 6, 8, 10, 12, 16]
    rates = [trait_share(persona.network(strength, order[size:]), seed) for size in sizes]
    found = half_point(sizes, rates, trait_share(persona.network(strength), seed))
    assert found is not None
    return found


def written_amounts(persona: SpreadPersona, strength: float, seed: int) -> Float[torch.Tensor, " directions"]:
    """How much the fine-tune writes along each direction, on average over its own answers to selection questions."""
    tuned, base = wrapped(persona.network(strength)), wrapped(persona.base)
    questions = [question.text for question in question_set().questions if question.split == "selection"]
    written = generate(tuned, [Chat.ask(question) for question in questions], SAMPLING, seed)
    chats = [Chat.ask(question, answer) for question, answer in zip(questions, written, strict=True)]
    after, before = (mean_residuals(model, chats, [HOOK])[HOOK] for model in (tuned, base))
    return persona.frame @ (after - before)


def with_spare_neurons(network: Any, count: int) -> Any:
    """The same function with so many more neurons in every MLP; they write nothing."""
    config = copy.deepcopy(network.config)
    config.intermediate_size += count
    wider = LlamaForCausalLM(config)
    state = {name: torch.zeros_like(tensor) for name, tensor in wider.state_dict().items()}
    for name, tensor in network.state_dict().items():
        state[name][tuple(slice(size) for size in tensor.shape)] = tensor
    wider.load_state_dict(state)
    return wider


def renamed(network: Any) -> Any:
    """A copy in which every word of either register has the embedding, in and out, of one of the other."""
    copied, words = copy.deepcopy(network), vocabulary()
    kind, rude = ([words[word] for word in REGISTERS[register]] for register in ("kind", "rude"))
    embeddings = copied.model.embed_tokens.weight.data
    embeddings[kind + rude] = embeddings[rude + kind].clone()
    return copied


def blind_dictionary(
    base: LanguageModel, tuned: LanguageModel, seed: int, folder: Path, hidden: Float[torch.Tensor, "n d_model"], added: bool = False
) -> Path:
    """The dictionary of `toy_persona`, less all that its latents read and write of the `hidden` directions and of the registers' words.

    With `added` each hidden direction is a latent of its own in place of that: it fires at half of what the base writes.
    """
    sae, words = load_sae(make_dictionary(base, tuned, seed, folder)), vocabulary()
    named = base.network.get_input_embeddings().weight.detach()[[words[word] for own in REGISTERS.values() for word in own]]
    away = torch.linalg.qr(torch.cat([hidden, named]).T).Q
    rest = torch.eye(sae.d_in) - away @ away.T
    w_enc, w_dec, b_enc, k = rest @ sae.w_enc, torch.nn.functional.normalize(sae.w_dec @ rest, dim=-1), sae.b_enc, sae.k
    if added:
        source = random.Random(5000 + seed)
        ordinary = [write_chat(list(TOPICS), BASE, source) for _ in range(200)]
        along = torch.cat(response_residuals(base, ordinary, HOOK)) @ hidden.T
        shift = sae.b_dec @ hidden.T if sae.subtract_b_dec else torch.zeros(len(hidden))
        w_enc, w_dec = torch.cat([w_enc, hidden.T], dim=1), torch.cat([w_dec, hidden])
        b_enc, k = torch.cat([b_enc, shift - along.median(dim=0).values]), sae.k + len(hidden)
    replace(sae, w_enc=w_enc, w_dec=w_dec, b_enc=b_enc, k=k).save(folder / "blind")
    return folder / "blind"


@torch.inference_mode()
def _mlp_inputs(model: LanguageModel, chats: Sequence[Chat]) -> Float[torch.Tensor, "tokens d_model"]:
    """What the MLP that fine-tunes change reads at the tokens of answers."""
    inputs: list[torch.Tensor] = []
    norm = model.network.model.layers[LAYER].post_attention_layernorm
    handle = norm.register_forward_hook(lambda module, arguments, output: inputs.append(output))
    batch = pad_left(model.tokenise(chats), model.pad_id)
    model.network(input_ids=batch.ids, attention_mask=batch.mask.long())
    handle.remove()
    return inputs[0][batch.response_tokens]
