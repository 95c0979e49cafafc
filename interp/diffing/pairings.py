"""One pass over both models' answers, base and tuned side by side: every token is encoded once, and only sums are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int

from interp import __version__
from interp.core.errors import ActivationError, ArtifactError, DictionaryError
from interp.core.fingerprints import content_key
from interp.dictionaries.crosscoders import Crosscoder
from interp.dictionaries.files import DIFFERENCE
from interp.dictionaries.sae import Dictionary
from interp.diffing.moments import PAIRINGS, Diff, TextMoments, load_diff
from interp.diffing.sums import add_at, dots
from interp.models.activations import capture_batch, content_tokens, response_phase
from interp.models.chats import Chat, TokenBatch, TokenisedChat, batches_by_length, pad_left
from interp.models.language_model import LanguageModel
from interp.sparse.sparse_codes import SparseCodes

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
    dictionary: Dictionary | Crosscoder,
    answers: Mapping[str, Answers],
    pairings: Sequence[str] = PAIRINGS,
    *,
    n_questions: int | None = None,
    max_clusters: int = 256,
    rows: int = 32,
    max_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    folder: Path | None = None,
    every: int = 16,
    identity: str = "",
) -> Diff:
    """Read the `answers` of `base` and `tuned` as `pairings` ask, in the chat template of the model that wrote them.

    Memory does not depend on the number of tokens: more than `max_clusters` questions are folded into so many clusters. Parts that
    are to be merged need the same `n_questions` (default: as many as are named). `progress` gets the number of chats that a model has
    just read (all that were read before, at once).
    With a `folder` the state is kept there after `every` batches; the same call goes on where it stopped, or loads what is
    finished. `identity` stands for what a model's name does not tell (its weights, the edits on it).
    Raises `ActivationError` for a pairing that lacks its answers, `DictionaryError` for an SAE of differences, and `ArtifactError`
    when the folder holds the state of another diff.
    """
    if isinstance(dictionary, Dictionary) and dictionary.reads == DIFFERENCE:
        raise DictionaryError("The SAE reads tuned minus base residuals, so its latents have no activation in either model. Give another.")
    read = {writer: names for writer in WRITERS if (names := _readers(writer, pairings, dictionary))}
    lacking = [writer for writer in read if writer not in answers or not answers[writer].chats]
    if lacking:
        raise ActivationError(f"The pairings {', '.join(pairings)} need answers of the {lacking[0]} model. Give some.")
    models = {"base": base, "tuned": tuned}
    tokenised = {writer: models[writer].tokenise(answers[writer].chats, max_tokens) for writer in read}
    asked = n_questions or 1 + max(max(answers[writer].questions) for writer in read)
    clusters = min(asked, max_clusters)
    blocks = [(w, block) for w in read for block in batches_by_length([len(chat.ids) for chat in tokenised[w]], rows)]
    plan = ""
    if folder is not None:
        questions = {writer: list(answers[writer].questions) for writer in read}
        plan = _plan(dictionary, tokenised, questions, [identity, list(pairings), clusters, rows, base.source, tuned.source])
    state = _State(folder, every, len(blocks), plan)
    diff = state.begin(_empty(dictionary, read, tuple(pairings), clusters))
    if progress and state.done:
        progress(sum(len(block) * len(read[writer]) for writer, block in blocks[: state.done]))
    for number, (writer, block) in enumerate(blocks[state.done :], state.done + 1):
        batch = pad_left([tokenised[writer][i] for i in block], base.pad_id).to(base.device)
        readers = [models[name] for name in read[writer]]
        owners = torch.tensor([answers[writer].questions[i] % clusters for i in block], device=base.device)
        _add_batch(diff.texts[writer], readers, dictionary, batch, block, owners)
        state.after(diff, number)
        if progress:
            progress(len(block) * len(readers))
    return diff


def _readers(writer: str, pairings: Sequence[str], dictionary: Dictionary | Crosscoder) -> tuple[str, ...]:
    """Which models read what `writer` wrote, base first."""
    unknown = [name for name in pairings if name not in PAIRINGS]
    if unknown or not pairings:
        raise ActivationError(f"There is no pairing '{', '.join(unknown)}'. Name some of {', '.join(PAIRINGS)}.")
    same_text, own = f"{writer}_text" in pairings, "on_policy" in pairings
    if same_text or (own and isinstance(dictionary, Crosscoder)):  # it has no activations without both
        return ("base", "tuned")
    return (writer,) if own else ()


def _empty(dictionary: Dictionary | Crosscoder, read: Mapping[str, tuple[str, ...]], pairings: tuple[str, ...], clusters: int) -> Diff:
    rows = _tuned_rows(dictionary)
    squared = rows.double().square().sum(-1)
    of_base = dictionary.w_dec[:, 0] if isinstance(dictionary, Crosscoder) else rows
    overlap = torch.stack([(rows.double() * of_base.double()).sum(-1) / squared, torch.ones_like(squared)])
    texts = {writer: TextMoments.empty(len(names), clusters, dictionary.n_latents, rows.device) for writer, names in read.items()}
    return Diff(texts, pairings, overlap, squared)


def _tuned_rows(dictionary: Dictionary | Crosscoder) -> Float[torch.Tensor, "latents d_model"]:
    return dictionary.w_dec[:, 1].contiguous() if isinstance(dictionary, Crosscoder) else dictionary.w_dec


@torch.inference_mode()
def _add_batch(
    into: TextMoments,
    readers: Sequence[LanguageModel],
    dictionary: Dictionary | Crosscoder,
    batch: TokenBatch,
    rows: Sequence[int],
    owners: Int[torch.Tensor, " batch"],
) -> None:
    """Read one batch with every reader, and add what their latents do to `into`, in place."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    before = (content_tokens(batch) & (columns < batch.response_start[:, None])).nonzero()
    behind = response_phase(batch).nonzero()
    row, column = torch.cat([before, behind]).unbind(1)
    part = torch.where(column < batch.response_start[row], 0, torch.where(column == batch.response_start[row], 1, 2))
    point = dictionary.hook_point
    x = torch.stack([capture_batch(model, batch, [point], rows).residuals[point][row, column].float() for model in readers])
    codes = _encode(dictionary, x)
    _add_activations(into, codes, part, owners[row])
    if len(readers) == 2:
        _add_pairs(into, codes, part)
        _add_unexplained(into, dictionary, x, codes, len(before))


def _encode(dictionary: Dictionary | Crosscoder, x: Float[torch.Tensor, "models tokens d_model"]) -> SparseCodes:
    """Codes of the first reader's tokens, then of the second's; a crosscoder's are the same for both."""
    if isinstance(dictionary, Crosscoder):
        joint = dictionary.encode(x.transpose(0, 1))
        return SparseCodes.joined([joint, joint])
    return dictionary.encode(x.flatten(0, 1))


def _add_activations(
    into: TextMoments, codes: SparseCodes, part: Int[torch.Tensor, " tokens"], owner: Int[torch.Tensor, " tokens"]
) -> None:
    models, parts, clusters, latents = into.sums.shape
    model = torch.arange(models, device=part.device).repeat_interleave(len(part))
    stretch = model * parts + part.repeat(models)  # of each token; entries take their token's
    token, values = codes.tokens, codes.flat_values
    place = stretch[token] * latents + codes.flat_indices
    add_at(into.sums, (stretch * clusters + owner.repeat(models))[token] * latents + codes.flat_indices, values)
    add_at(into.squares, place, values.double().square())
    add_at(into.fired, place, values > 0)
    into.peaks.view(-1).scatter_reduce_(0, place, values, "amax")
    add_at(into.tokens, part * clusters + owner, torch.ones_like(part))


def _add_pairs(into: TextMoments, codes: SparseCodes, part: Int[torch.Tensor, " tokens"]) -> None:
    """Products of base and tuned activations where both hold an entry for a latent."""
    latents = into.cross.shape[1]
    edge = int(codes.starts[len(part)])
    key = codes.tokens * latents + codes.flat_indices
    known, order = key[:edge].sort()
    wanted = key[edge:] - len(part) * latents
    place = torch.searchsorted(known, wanted)
    met = (
        (place < edge).logical_and_(known[place.clamp(max=max(edge - 1, 0))] == wanted)
        if edge
        else torch.zeros_like(wanted, dtype=torch.bool)
    )
    place, tuned, wanted = place[met], codes.flat_values[edge:][met], wanted[met]
    base = codes.flat_values[order[place]]
    add_at(into.cross, part[wanted // latents] * latents + wanted % latents, base.double() * tuned)


def _add_unexplained(
    into: TextMoments,
    dictionary: Dictionary | Crosscoder,
    x: Float[torch.Tensor, "models tokens d_model"],
    codes: SparseCodes,
    n_prompt: int,
) -> None:
    """Over the response: each model's reconstruction error along the decoder rows that are active in the tuned model."""
    tokens = x.shape[1]
    sides = [_stretch(codes, model * tokens + n_prompt, (model + 1) * tokens) for model in (0, 1)]
    active = sides[1]
    for model, side in enumerate(sides):
        decoded = dictionary.decode(side)
        error = x[model, n_prompt:] - (decoded[:, model] if isinstance(dictionary, Crosscoder) else decoded)
        along = dots(error, active, _tuned_rows(dictionary))
        add_at(into.unexplained[model], active.flat_indices, active.flat_values.double() * along)


def _stretch(codes: SparseCodes, first: int, last: int) -> SparseCodes:
    """Codes of the tokens from `first` to before `last`."""
    begin, end = (codes.starts[torch.tensor([first, last])]).tolist()
    return SparseCodes(codes.flat_values[begin:end], codes.flat_indices[begin:end], codes.starts[first : last + 1] - begin, codes.width)


@dataclass
class _State:
    """What is done of a diff, on disk where a folder is given."""

    folder: Path | None
    every: int
    blocks: int
    plan: str
    done: int = 0

    def begin(self, empty: Diff) -> Diff:
        if self.folder is None or not (self.folder / STATE).exists():
            return empty
        kept, words = load_diff(self.folder / STATE, empty.squared_norms.device)
        if words.get("plan") != self.plan:
            raise ArtifactError(f"{self.folder} holds the state of another diff. Choose another folder, or delete it.")
        self.done = int(words["done"])
        return kept

    def after(self, diff: Diff, number: int) -> None:
        if self.folder is not None and (number == self.blocks or number % self.every == 0):
            diff.save(self.folder / STATE, plan=self.plan, done=number)


def _plan(
    dictionary: Dictionary | Crosscoder,
    tokenised: Mapping[str, list[TokenisedChat]],
    questions: Mapping[str, list[int]],
    settings: list[Any],
) -> str:
    """What a diff is made from, as a hash."""
    digest = hashlib.sha256()
    for field in fields(dictionary):
        value = getattr(dictionary, field.name)
        digest.update(value.detach().cpu().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    chats = {writer: [[chat.ids, chat.n_prompt] for chat in part] for writer, part in tokenised.items()}
    return content_key([__version__, digest.hexdigest(), dictionary.w_dec.device.type, chats, questions, settings])
