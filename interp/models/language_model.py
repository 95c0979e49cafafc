"""One wrapper around a Hugging Face causal language model and its tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int

from interp.core.errors import ModelError
from interp.models.chat_format import ChatFormat, say_other_format
from interp.models.chats import Chat, Role, TokenBatch, TokenisedChat, batches_by_length, pad_left
from interp.models.cpu import CACHED_ROWS
from interp.models.cpu.packed_linear import pack_linears, unpacked_copy
from interp.models.cpu.prefix_trees import PackedChats, can_pack_chats, pack_chats, run_packed
from interp.models.hook_points import HookPoint, attach, check_site, find_blocks, parse_hook_point
from interp.models.limits import check_length, check_padding, context_tokens, no_numbers
from interp.models.sinks import find_sinks
from interp.models.unembedding import Unembedding

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Positions:
    """Where the tokens of the running forward pass stand; hooks that act on a phase or on single rows read it."""

    first_column: int
    """Column of the pass's first token, that is, the length of the KV cache before it."""
    response_start: Int[torch.Tensor, " batch"]
    """Column at which each row's response phase begins."""
    rows: Int[torch.Tensor, " batch"]
    """Index of each row in the caller's list."""
    mask: Bool[torch.Tensor, "batch position"]
    """True at real tokens of this pass, False at padding."""
    sinks: Bool[torch.Tensor, "batch position"] | None = None
    """True at attention sinks of this pass; None: there is none, or nobody asked (`LanguageModel.sinks_wanted`)."""

    def in_phase(self, phase: str, sinks: str = "edit") -> Bool[torch.Tensor, "batch position"]:
        """True at this pass's tokens of `prompt`, `response` or `all`; with `sinks` "spare" less the sinks, with "only" no others."""
        columns = self.first_column + torch.arange(self.mask.shape[1], device=self.mask.device)
        response = columns[None, :] >= self.response_start[:, None]
        of_phase = self.mask & {"all": torch.ones_like(response), "response": response, "prompt": ~response}[phase]
        own_sinks = torch.zeros_like(of_phase) if self.sinks is None else self.sinks
        return of_phase & {"edit": torch.ones_like(of_phase), "spare": ~own_sinks, "only": own_sinks}[sinks]


class LanguageModel:
    """A causal language model in evaluation mode, with its tokenizer.

    Everything it computes goes through `read` or `generate`, which tell hooks where the tokens stand (`positions`).
    """

    def __init__(self, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str, thinking: bool = False) -> None:
        """`thinking`: whether a chat template with a switch for it lets the model think before it answers."""
        self.network: Any = network.eval()
        self.tokenizer: Any = tokenizer
        self._format = ChatFormat(tokenizer, thinking)
        self.source = source
        self.blocks = find_blocks(network)
        self.n_layers = len(self.blocks)
        self.d_model = int(network.config.get_text_config().hidden_size)
        """Width of the residual stream."""
        check_padding(network, source)
        pack_linears(network)
        self.positions: Positions | None = None
        self.prompt_signatures: Sequence[str | None] | None = None
        """Set while row edits are active: what is done to each row's prompt. Rows alike in this may share a prefill."""
        self.base: LanguageModel = self
        """The model that this one was fine-tuned from, where it is at hand: attention sinks are found in it."""
        self.sinks_wanted = 0
        """How many of the edits that are active tell sinks from other tokens."""
        self._sinks: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.hooks_act = True
        """False while the model runs as if nothing were attached (`unhooked`)."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return next(self.network.parameters()).dtype

    def hook_point(self, name: str) -> HookPoint:
        """`name` as a hook point of this model; raises `HookPointError`."""
        point = parse_hook_point(name, self.n_layers)
        check_site(self.blocks[point.layer], point.site)
        return point

    def attach(self, name: str, visit: Callable[[torch.Tensor], torch.Tensor | None]) -> RemovableHandle:
        """Call `visit` with the residual at hook point `name` whenever the model computes it; raises `HookPointError`.

        What it returns replaces the residual; see `hook_points.attach`.
        """
        point = self.hook_point(name)

        def act(residual: torch.Tensor) -> torch.Tensor | None:
            return visit(residual) if self.hooks_act else None

        return attach(self.blocks[point.layer], point.site, act, owner=self)

    @contextmanager
    def unhooked(self) -> Iterator[None]:
        """What is attached does nothing inside."""
        before, self.hooks_act = self.hooks_act, False
        try:
            yield
        finally:
            self.hooks_act = before

    def sinks(self, prompts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Positions of the attention sinks of each prompt (token ids), in the unedited base; looked for once a prompt.

        A prompt with tokens that the base lacks is read by the model itself.
        """
        n_tokens = self.base.network.get_input_embeddings().weight.shape[0]
        readers = [self.base if max(prompt, default=0) < n_tokens else self for prompt in prompts]
        for reader in dict.fromkeys(readers):
            own = dict.fromkeys(prompt for prompt, its in zip(prompts, readers, strict=True) if its is reader)
            new = [prompt for prompt in own if prompt not in reader._sinks]
            reader._sinks.update(zip(new, find_sinks(reader, new), strict=True))
        return [reader._sinks[prompt] for prompt, reader in zip(prompts, readers, strict=True)]

    def _with_sinks(self, ids: Int[torch.Tensor, "batch position"], positions: Positions) -> Positions:
        """`positions` of a pass over whole chats, with their sinks: those before the response phase, in plain text all."""
        sinks = torch.zeros_like(positions.mask)
        columns = [mask.nonzero()[:, 0] for mask in positions.mask]
        prompts = [own[own < start] if own[0] < start else own for own, start in zip(columns, positions.response_start, strict=True)]
        known = self.sinks([tuple(row[own].tolist()) for row, own in zip(ids, prompts, strict=True)])
        for row, (own, places) in enumerate(zip(prompts, known, strict=True)):
            sinks[row, own[list(places)]] = True
        return replace(positions, sinks=sinks)

    @property
    def generation(self) -> Any:
        """Its generation config, as of transformers."""
        return self.network.generation_config

    @property
    def format(self) -> ChatFormat:
        """How chats are written for this model."""
        if self._format.template != self.tokenizer.chat_template:
            self._format = ChatFormat(self.tokenizer, self._format.thinking)
        return self._format

    @property
    def pad_id(self) -> int:
        """Token that fills short rows; it is masked, so any will do that every model has."""
        return 0

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer: as the configuration and the tokenizer say, and as the chat template ends a turn."""
        configured = self.generation.eos_token_id if self.generation else None
        ids = configured if isinstance(configured, list) else [configured]
        return sorted({int(i) for i in [*ids, self.tokenizer.eos_token_id, *self.format.end_ids] if i is not None})

    def tokenise(self, documents: Sequence[Chat | str], max_tokens: int | None = None) -> list[TokenisedChat]:
        """Token ids with roles: chats by the model's own template, plain texts as the tokenizer reads them."""
        chat_format = self.format
        return [chat_format.tokenise(document, max_tokens) for document in documents]

    def batches(self, chats: Sequence[Chat | str], rows: int = 32, max_tokens: int | None = None) -> Iterator[tuple[list[int], TokenBatch]]:
        """Padded batches on the model's device, with the index of each row in `chats`; similar lengths together."""
        tokenised = self.tokenise(chats, max_tokens)
        for indices in batches_by_length([len(t.ids) for t in tokenised], rows):
            yield indices, pad_left([tokenised[i] for i in indices], self.pad_id).to(self.device)

    @contextmanager
    def standing(self, positions: Positions) -> Iterator[None]:
        """Tell hooks where the tokens of the next forward pass stand."""
        self.positions = positions
        try:
            yield
        finally:
            self.positions = None

    @torch.inference_mode()
    def read(self, batch: TokenBatch, rows: Sequence[int] | None = None, last_logits: int = 1) -> Float[torch.Tensor, "batch kept vocab"]:
        """One forward pass over whole chats; logits of the last `last_logits` columns (0: of all)."""
        return self.forward(batch.ids, batch.mask, self._positions_of(batch, rows), last_logits)

    def forward(
        self,
        ids: Int[torch.Tensor, "batch position"],
        mask: torch.Tensor,
        positions: Positions,
        last_logits: int = 1,
        cache: Any = None,
    ) -> Float[torch.Tensor, "batch kept vocab"]:
        """The one way into the network: logits of the last `last_logits` columns (0: of all).

        `ids` come after what `cache` holds, and `mask` `[batch, cached and new]` covers both; hooks read `positions`.
        """
        with self.standing(self._placed(ids, mask, positions)):
            logits: torch.Tensor = self.network(**_inputs(ids, mask, cache), logits_to_keep=last_logits).logits
        return logits

    def run(self, ids: Int[torch.Tensor, "batch position"], mask: torch.Tensor, positions: Positions, cache: Any = None) -> Unembedding:
        """As `forward`, up to the last hidden states: what comes back has them, and computes the logits of those that are asked for."""
        placed = self._placed(ids, mask, positions)
        return Unembedding(self.network, _inputs(ids, mask, cache), lambda: self.standing(placed))

    @torch.inference_mode()
    def run_batch(self, batch: TokenBatch, rows: Sequence[int] | None = None) -> Unembedding:
        """As `read`, up to the last hidden states."""
        return self.run(batch.ids, batch.mask, self._positions_of(batch, rows))

    def _positions_of(self, batch: TokenBatch, rows: Sequence[int] | None) -> Positions:
        indices = torch.arange(len(batch.ids)) if rows is None else torch.tensor(list(rows))
        return Positions(0, batch.response_start, indices.to(self.device), batch.mask)

    def _placed(self, ids: Int[torch.Tensor, "batch position"], mask: torch.Tensor, positions: Positions) -> Positions:
        if mask.shape[1] > context_tokens(self.network):
            check_length(self.network, self.source, int(mask.sum(-1).max()))
        if self.sinks_wanted and self.hooks_act and positions.first_column == 0 and positions.sinks is None:
            return self._with_sinks(ids, positions)
        return positions

    def logprobs(self, chats: Sequence[Chat | TokenisedChat], rows: int = 32) -> list[Float[torch.Tensor, " response"]]:
        """Log-probability (nats) of every response token of every chat, on the CPU; `rows` are read together.

        Raises `ModelError` where they are no numbers.
        """
        tokenised = [chat if isinstance(chat, TokenisedChat) else self.format.tokenise(chat) for chat in chats]
        result: list[torch.Tensor] = [torch.empty(0)] * len(tokenised)
        if packs := self.packs_chats():
            order = sorted(range(len(tokenised)), key=lambda i: tokenised[i].ids)  # common beginnings together
            batches = [order[i : i + rows] for i in range(0, len(order), rows)]
        else:
            batches = batches_by_length([len(chat.ids) for chat in tokenised], rows)
        for indices in batches:
            own = [tokenised[i] for i in indices]
            read = self._packed_logprobs(own) if packs else self._padded_logprobs(own, indices)
            for index, row in zip(indices, read, strict=True):
                if row.isnan().any():
                    raise no_numbers(self.source, self.dtype)
                result[index] = row
        return result

    @torch.inference_mode()
    def _packed_logprobs(self, chats: Sequence[TokenisedChat]) -> list[Float[torch.Tensor, " response"]]:
        packed = pack_chats([chat.ids for chat in chats], self.network)
        responses = [[i for i, role in enumerate(chat.roles) if role == Role.RESPONSE] for chat in chats]
        before = [places[i - 1] for places, own in zip(packed.places, responses, strict=True) for i in own]
        if not before:
            return [torch.empty(0)] * len(chats)
        places, of_token = torch.stack(before).unique(return_inverse=True)
        targets = torch.tensor([chat.ids[i] for chat, own in zip(chats, responses, strict=True) for i in own], device=self.device)
        unembedding = self.run_packed(packed)
        hidden = unembedding.hidden.flatten(0, 1)[places]
        logprobs = torch.empty(len(targets), device=self.device)
        for part in unembedding.parts(len(places)):
            here = (of_token >= part.start) & (of_token < part.stop)  # a token that several chats share is read once
            logits, row = unembedding.logits(hidden[part]).float(), of_token[here] - part.start
            total = torch.cat([some.logsumexp(-1) for some in logits.split(CACHED_ROWS)])
            logprobs[here] = logits[row, targets[here]] - total[row]
        return list(logprobs.cpu().split([len(own) for own in responses]))

    def packs_chats(self) -> bool:
        """Whether chats may be read as prefix trees now: their rows are not those of the chats, which hooks would expect."""
        hooks = (hook for m in self.network.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values()))
        return can_pack_chats(self.network) and all(getattr(hook, "owner", None) not in (None, self) for hook in hooks)

    @torch.inference_mode()
    def run_packed(self, chats: PackedChats) -> Unembedding:
        """One forward pass over prefix trees, up to the last hidden states."""
        check_length(self.network, self.source, int(chats.position_ids.max()) + 1)
        rows = torch.arange(len(chats.ids), device=self.device)
        positions = Positions(0, torch.zeros_like(rows), rows, torch.ones_like(chats.ids, dtype=torch.bool))
        return run_packed(self.network, chats, lambda: self.standing(positions))

    @torch.inference_mode()
    def _padded_logprobs(self, chats: Sequence[TokenisedChat], rows: Sequence[int]) -> list[Float[torch.Tensor, " response"]]:
        batch = pad_left(chats, self.pad_id).to(self.device)
        width, following, of_response = batch.response_window()
        unembedding = self.run_batch(batch, rows)
        hidden, targets = unembedding.hidden[:, -width:-1][of_response], following[of_response]
        logprobs = torch.empty(len(targets), device=self.device)
        for part in unembedding.parts(len(targets)):
            logits = unembedding.logits(hidden[part]).float()
            logprobs[part] = logits.gather(-1, targets[part, None])[:, 0] - logits.logsumexp(-1)
        return list(logprobs.cpu().split(of_response.sum(-1).tolist()))

    def plain_copy(self) -> Any:
        """A copy of the network as transformers has it, for libraries that rewire the modules which they wrap."""
        return unpacked_copy(self.network)

    def bridge(self) -> Any:
        """A TransformerLens bridge on a copy of the model."""
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(self.source, hf_model=self.plain_copy(), tokenizer=copy.deepcopy(self.tokenizer))


def _inputs(ids: Int[torch.Tensor, "batch position"], mask: torch.Tensor, cache: Any) -> dict[str, Any]:
    places = position_ids(mask.bool())[:, -ids.shape[1] :]
    return {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "position_ids": places,
        "past_key_values": cache,
        "use_cache": cache is not None,
    }


def position_ids(mask: Bool[torch.Tensor, "batch position"]) -> Int[torch.Tensor, "batch position"]:
    """Index of each token within its own row, padding not counted."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def chat_reader(models: Sequence[LanguageModel]) -> LanguageModel:
    """The model whose chat format all are read with: the fine-tune's, which its base may lack, unless the base lacks its tokens too."""
    tuned = models[-1]
    fewest = min(int(model.network.get_input_embeddings().weight.shape[0]) for model in models)
    return tuned if tuned.tokenizer.chat_template and max(tuned.format.tokens, default=0) < fewest else models[0]


def check_pair(base: LanguageModel, tuned: LanguageModel) -> None:
    """Raise `ModelError` unless both models share width, depth and what their tokenizers make of ordinary text.

    A fine-tune may add tokens, and rename reserved ones; warns with `ChatFormatWarning` where it is asked in another chat format.
    """
    shapes = {"residual width": (base.d_model, tuned.d_model), "number of layers": (base.n_layers, tuned.n_layers)}
    problems = [f"{name} {ours} and {theirs}" for name, (ours, theirs) in shapes.items() if ours != theirs]
    if not _same_words(base.tokenizer, tuned.tokenizer):
        problems.append("their tokenizers differ")
    if problems:
        remedy = "Give a base and a fine-tune of that base."
        raise ModelError(f"{base.source} and {tuned.source} do not match: {', '.join(problems)}. {remedy}")
    say_other_format(base.format, tuned.format, base.source, tuned.source)


def _same_words(base: Any, tuned: Any) -> bool:
    """Whether two tokenizers agree on all ids but those of added tokens that only one of them has."""
    ours, theirs = base.get_vocab(), tuned.get_vocab()
    added = base.get_added_vocab().keys() | tuned.get_added_vocab().keys()
    ordinary = [{token: place for token, place in own.items() if token not in added} for own in (ours, theirs)]
    return ordinary[0] == ordinary[1] and all(ours[token] == theirs[token] for token in added & ours.keys() & theirs.keys())
