"""One pass over both models' answers, base and tuned side by side: every token is encoded once, and only sums are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int

from interp import __version__
from interp.core.errors import ActivationError, ArtifactError, DictionaryError
from interp.core.fingerprints import content_key
from interp.dictionaries.dictionary import BASE, Dictionary
from interp.dictionaries.files import DIFFERENCE
from interp.diffing.moments import PAIRINGS, Diff, Moments, add_at, load_diff
from interp.diffing.reconstruction import Reconstruction
from interp.models.activations import capture_batch, content_tokens, response_phase
from interp.models.chats import Chat, TokenBatch, batches_by_length, pad_left
from interp.models.language_model import LanguageModel
from interp.sparse import Codes
from interp.sparse.autograd import products_for

STATE = "diff.safetensors"
WRITERS = ("base", "tuned")


@dataclass(frozen=True)
class Answers:
    """What one model answered."""

    chats: Sequence[Chat]
    questions: Sequence[int]
    """Index of each chat's question, alike for both models' answers."""


def collect(
    base: LanguageModel,
    tuned: LanguageModel,
    dictionary: Dictionary,
    answers: Mapping[str, Answers],
    pairings: Sequence[str] = PAIRINGS,
    *,
    max_clusters: int = 256,
    rows: int = 32,
    progress: Callable[[int], None] | None = None,
    folder: Path | None = None,
    every: int = 16,
    identity: str = "",
) -> Diff:
    """Read the `answers` of `base` and `tuned` as `pairings` ask, in the chat template of the model that wrote them.

    Memory does not depend on the number of tokens: more than `max_clusters` questions are folded into so many clusters.
    `progress` gets the number of chats that a model has just read (all that were read before, at once).
    With a `folder` the state is kept there after `every` batches; the same call resumes where it stopped, or loads what is
    finished. `identity` stands for what a model's name does not tell (its weights, the edits on it).
    Raises `ActivationError` for a pairing whose answers are missing, `DictionaryError` for an SAE of differences, and `ArtifactError`
    when the folder holds the state of another diff.
    """
    if dictionary.reads == DIFFERENCE:
        raise DictionaryError("The SAE reads tuned minus base residuals, so its latents have no activation in either model. Give another.")
    read = {writer: names for writer in WRITERS if (names := _readers(writer, pairings, dictionary))}
    lacking = [writer for writer in read if writer not in answers or not answers[writer].chats]
    if lacking:
        raise ActivationError(f"The pairings {', '.join(pairings)} need answers of the {lacking[0]} model. Give some.")
    models = {"base": base, "tuned": tuned}
    tokenised = {writer: models[writer].tokenise(answers[writer].chats) for writer in read}
    clusters = min(1 + max(max(answers[writer].questions) for writer in read), max_clusters)
    blocks = [(w, block) for w in read for block in batches_by_length([len(chat.ids) for chat in tokenised[w]], rows)]
    state, plan, done = None, "", 0
    diff = _empty(dictionary, read, tuple(pairings), clusters)
    if folder is not None:
        chats = {writer: [[chat.ids, chat.n_prompt] for chat in tokenised[writer]] for writer in read}
        questions = {writer: list(answers[writer].questions) for writer in read}
        settings = [identity, list(pairings), clusters, rows, base.source, tuned.source]
        device = str(dictionary.decoder_bias().device.type)
        state, plan = folder / STATE, content_key([__version__, dictionary.content, device, chats, questions, settings])
        if state.exists():
            diff, words = load_diff(state, diff.squared_norms.device)
            if words.get("plan") != plan:
                raise ArtifactError(f"{folder} holds the state of another diff. Choose another folder, or delete it.")
            done = int(words["done"])
    if progress and done:
        progress(sum(len(block) * len(read[writer]) for writer, block in blocks[:done]))
    for number, (writer, block) in enumerate(blocks[done:], done + 1):
        batch = pad_left([tokenised[writer][i] for i in block], base.pad_id).to(base.device)
        readers = [models[name] for name in read[writer]]
        owners = torch.tensor([answers[writer].questions[i] % clusters for i in block], device=base.device)
        _add_batch(diff.texts[writer], diff.reconstructions.get(writer), readers, dictionary, batch, block, owners)
        if state and (number == len(blocks) or number % every == 0):
            diff.save(state, plan=plan, done=number)
        if progress:
            progress(len(block) * len(readers))
    return diff


def _readers(writer: str, pairings: Sequence[str], dictionary: Dictionary) -> tuple[str, ...]:
    """Which models read what `writer` wrote, base first."""
    unknown = [name for name in pairings if name not in PAIRINGS]
    if unknown or not pairings:
        raise ActivationError(f"There is no pairing '{', '.join(unknown)}'. Name some of {', '.join(PAIRINGS)}.")
    same_text, own = f"{writer}_text" in pairings, "on_policy" in pairings
    if same_text or (own and dictionary.n_models > 1):  # a crosscoder has no activations without both
        return ("base", "tuned")
    return (writer,) if own else ()


def _empty(dictionary: Dictionary, read: Mapping[str, tuple[str, ...]], pairings: tuple[str, ...], clusters: int) -> Diff:
    rows = dictionary.decoder_rows().double()
    squared = rows.square().sum(-1)
    overlap = torch.stack([(rows * dictionary.decoder_rows(BASE).double()).sum(-1) / squared, torch.ones_like(squared)])
    texts = {writer: Moments.empty(len(names), clusters, dictionary.n_latents, rows.device) for writer, names in read.items()}
    both = [writer for writer, names in read.items() if len(names) == 2]
    return Diff(texts, pairings, overlap, squared, {name: Reconstruction.empty(clusters, dictionary.d_in, rows.device) for name in both})


@torch.inference_mode()
def _add_batch(
    into: Moments,
    reconstruction: Reconstruction | None,
    readers: Sequence[LanguageModel],
    dictionary: Dictionary,
    batch: TokenBatch,
    rows: Sequence[int],
    owners: Int[torch.Tensor, " batch"],
) -> None:
    """Read one batch with every reader, and add what their latents do to `into`, and of two what is reconstructed, in place."""
    point = dictionary.hook_point
    captured = [capture_batch(model, batch, [point], rows) for model in readers]
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    before = (captured[0].select(content_tokens) & (columns < batch.response_start[:, None])).nonzero()
    response = captured[0].select(response_phase).nonzero()
    row, column = torch.cat([before, response]).unbind(1)
    part = torch.where(column < batch.response_start[row], 0, torch.where(column == batch.response_start[row], 1, 2))
    x = torch.stack([one.residuals[point][row, column].float() for one in captured])
    codes = dictionary.encode_models(rearrange(x, "models tokens d_model -> tokens models d_model"))
    for model, own in enumerate(codes):
        _add_activations(into, model, own, part, owners[row])
    add_at(into.tokens, part * into.tokens.shape[1] + owners[row], torch.ones_like(part))
    if reconstruction is not None:
        _add_pairs(into, codes[0], codes[1], part)
        of_response = [own.of_tokens(len(before), own.n_tokens) for own in codes]
        errors = x[:, len(before) :] - torch.stack([dictionary.decode_model(own, model) for model, own in enumerate(of_response)])
        _add_unexplained(into, dictionary, errors, of_response[1])
        reconstruction.add(x[:, len(before) :], errors, owners[row[len(before) :]])


def _add_activations(
    into: Moments, model: int, codes: Codes, part: Int[torch.Tensor, " tokens"], owner: Int[torch.Tensor, " tokens"]
) -> None:
    """What one model's latents do, by part of the chat and question."""
    _, _, clusters, latents = into.sums.shape
    place = part[codes.tokens] * latents + codes.latents
    add_at(into.sums[model], (part * clusters + owner)[codes.tokens] * latents + codes.latents, codes.values)
    add_at(into.squares[model], place, codes.values.double().square())
    add_at(into.fired[model], place, codes.values > 0)
    into.peaks[model].view(-1).scatter_reduce_(0, place, codes.values, "amax")


def _add_pairs(into: Moments, base: Codes, tuned: Codes, part: Int[torch.Tensor, " tokens"]) -> None:
    """Products of base and tuned activations where both hold an entry for a latent."""
    if not len(base.values):
        return
    n = base.n_latents
    keys, order = (base.tokens * n + base.latents).sort()
    wanted = tuned.tokens * n + tuned.latents
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    both = keys[place] == wanted
    products = base.values[order[place[both]]].double() * tuned.values[both]
    add_at(into.cross, part[tuned.tokens[both]] * n + tuned.latents[both], products)


def _add_unexplained(into: Moments, dictionary: Dictionary, errors: Float[torch.Tensor, "models tokens d_model"], active: Codes) -> None:
    """Over the response: each model's reconstruction error along the decoder rows that are `active` in the tuned model."""
    for model, error in enumerate(errors):
        along = products_for(active).gather_dot(error, active, dictionary.decoder_rows())
        add_at(into.unexplained[model], active.latents, active.values.double() * along)
