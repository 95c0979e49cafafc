"""Residuals read live from one model, or from two on the same tokens, as a source for the feed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float

from interp.core.errors import TrainingError
from interp.models.activation_store import DTYPES
from interp.models.activations import capture_batch, content_tokens, response_phase
from interp.models.chats import Chat, Role, TokenBatch, TokenisedChat, pad_left
from interp.models.language_model import LanguageModel, chat_reader, check_pair

WHERE: dict[str, Callable[[TokenBatch], Bool[torch.Tensor, "batch position"]]] = {
    "content": content_tokens,
    "response": response_phase,
    "all": lambda batch: batch.mask,
}


class LiveSource:
    """Blocks of residuals, captured when they are asked for; block i is the i-th slice of a seeded shuffle of the documents.

    Documents are chats, read one a row, or plain text: a block's texts are joined by the end-of-text token and cut into
    contexts of `max_tokens` (each begins with BOS where the tokenizer writes one); nothing is padded and nothing left out.

    The models belong to whoever asks for blocks. On a GPU that is the feed's thread, until its iterator is closed; on a CPU, where
    capture and training want the same cores, blocks are read between batches.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        documents: Sequence[Chat] | Sequence[str],
        hook_points: Sequence[str],
        block_sequences: int = 256,
        max_tokens: int = 128,
        skip_first: int = 0,
        tokens: str = "content",
        dtype: str = "float32",
        seed: int = 0,
        rows: int = 16,
    ) -> None:
        """`block_sequences` documents a block; `rows` contexts or chats a forward pass.

        Of chats, `tokens` takes the `content` (from the first user token on), the `response` phase, or `all`; of plain text all.
        `skip_first` leaves out each sequence's first tokens (attention sinks). `max_tokens` cuts a chat's response, never its
        prompt. Raises `TrainingError` for settings that would give no rows, `ModelError` for models that do not belong together, and
        `HookPointError`.
        """
        self.is_text = bool(documents) and isinstance(documents[0], str)
        alike = bool(documents) and all(isinstance(document, str) == self.is_text for document in documents)
        kind, choices = ("plain text", ["content", "all"]) if self.is_text else ("chats", list(WHERE))
        named_once = 0 < len(set(hook_points)) == len(hook_points)
        most = max_tokens - 1
        for fits, problem in (
            (len(models) in (1, 2), f"Residuals are read from one model or two, not {len(models)}. Give one, or a base and its fine-tune."),
            (alike, f"{len(documents)} documents give no residuals, or are of two kinds. Give chats, or plain texts."),
            (tokens in choices, f"tokens is '{tokens}', which {kind} does not have. Use {' or '.join(choices)}."),
            (dtype in DTYPES, f"'{dtype}' is not a dtype of residuals. Use {' or '.join(DTYPES)}."),
            (block_sequences >= 1, f"block_sequences is {block_sequences}. Give at least 1."),
            (max_tokens >= 2, f"max_tokens is {max_tokens}. Give at least 2."),
            (rows >= 1, f"rows is {rows}. Give at least 1."),
            (0 <= skip_first <= most, f"skip_first is {skip_first}, of sequences of {max_tokens} tokens. Give 0 to {most}."),
            (named_once, f"Hook points must be named, each once, not {list(hook_points)}. Name at least one."),
        ):
            if not fits:
                raise TrainingError(problem)
        if len(models) == 2:
            check_pair(models[0], models[1])
        for name in hook_points:
            models[0].hook_point(name)
        self.models, self.documents, self.hook_points = list(models), documents, tuple(hook_points)
        self.n_models, self.d_in = len(models), models[0].d_model
        self.n_rows: int | None = None
        self.n_blocks = -(-len(documents) // block_sequences)
        self.background = all(model.device.type != "cpu" for model in models)
        self.block_sequences, self.max_tokens, self.skip_first, self.rows = block_sequences, max_tokens, skip_first, rows
        self.tokens, self.dtype = "all" if self.is_text else tokens, DTYPES[dtype]
        self.order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
        self.reader = chat_reader(models)
        if self.is_text and self.reader.tokenizer.eos_token_id is None:
            raise TrainingError(f"The tokenizer of {self.reader.source} has no end-of-text token to join texts with. Give chats instead.")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents, the settings, and the models' names and a sample of their weights."""
        how = (self.hook_points, self.block_sequences, self.max_tokens, self.skip_first, self.tokens, self.dtype, self.order, self.rows)
        digest = hashlib.sha256(repr(how).encode())
        for document in self.documents:
            digest.update(repr(document).encode())
        for model in self.models:
            digest.update(repr((model.source, model.dtype, model.tokenizer.chat_template, model.format.thinking)).encode())
            for name, weight in model.network.state_dict().items():
                digest.update(f"{name}: {_sample(weight)}".encode())
        return digest.hexdigest()

    def block(self, index: int) -> dict[str, Float[torch.Tensor, "rows n_models d_in"]]:
        """Residuals of block `index` on the CPU; raises `ActivationError` where they are not finite."""
        chosen = self.order[index * self.block_sequences : (index + 1) * self.block_sequences]
        documents: list[Chat | str] = [self.documents[i] for i in chosen]
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.hook_points}
        for batch in self._batches(documents):
            wanted = WHERE[self.tokens](batch) & (batch.mask.long().cumsum(-1) > self.skip_first)
            if not bool(wanted.any()):
                continue
            rows = range(len(batch.ids))
            of_models = [capture_batch(model, batch.to(model.device), self.hook_points, rows) for model in self.models]
            wanted &= ~of_models[0].sinks.to(wanted.device)
            for name in self.hook_points:
                residuals = [captured.residuals[name] for captured in of_models]
                taken = [own[wanted.to(own.device)].to(self.dtype).cpu() for own in residuals]
                parts[name].append(torch.stack(taken, dim=1))
        empty = torch.zeros(0, self.n_models, self.d_in, dtype=self.dtype)
        return {name: torch.cat([empty, *tensors]) for name, tensors in parts.items()}

    def _batches(self, documents: list[Chat | str]) -> Iterator[TokenBatch]:
        if not self.is_text:
            yield from (batch for _, batch in self.reader.batches(documents, self.rows, self.max_tokens))
            return
        contexts = pack([str(text) for text in documents], self.reader, self.max_tokens)
        whole = [context for context in contexts if len(context) == self.max_tokens]
        groups = [whole[i : i + self.rows] for i in range(0, len(whole), self.rows)]
        groups += [[context] for context in contexts[len(whole) :]]  # the last one, by itself: no padding
        for rows in groups:
            yield pad_left([TokenisedChat(ids, [int(Role.USER)] * len(ids), len(ids)) for ids in rows], self.reader.pad_id)


def _sample(weight: torch.Tensor) -> list[float]:
    """Some 16 entries."""
    flat = weight.detach().flatten()
    return flat[:: flat.numel() // 16 + 1].tolist()


def pack(texts: Sequence[str], model: LanguageModel, max_tokens: int) -> list[list[int]]:
    """Contexts of `max_tokens` token ids, the last one shorter: the texts, each ended by the end-of-text token, one after the other."""
    tokenizer = model.tokenizer
    stream: list[int] = []
    for ids in tokenizer([text for text in texts if text], add_special_tokens=False)["input_ids"] if any(texts) else []:
        stream += [*ids, tokenizer.eos_token_id]
    bos = tokenizer.bos_token_id
    begin = [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
    length = max_tokens - len(begin)
    return [begin + stream[i : i + length] for i in range(0, len(stream), length)]
