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
        if len(models) not in (1, 2):
            raise TrainingError(f"Residuals are read from one model or two, not {len(models)}. Give a model, or a base and its fine-tune.")
        if len(models) == 2:
            check_pair(models[0], models[1])
        self.is_text = bool(documents) and isinstance(documents[0], str)
        if not documents or any(isinstance(document, str) != self.is_text for document in documents):
            raise TrainingError(f"{len(documents)} documents give no residuals, or are of two kinds. Give chats, or plain texts.")
        if tokens not in WHERE or (self.is_text and tokens == "response"):
            kind = "plain text" if self.is_text else "chats"
            choices = [name for name in WHERE if not (self.is_text and name == "response")]
            raise TrainingError(f"tokens is '{tokens}', which {kind} does not have. Use {' or '.join(choices)}.")
        if dtype not in DTYPES:
            raise TrainingError(f"'{dtype}' is not a dtype of residuals. Use {' or '.join(DTYPES)}.")
        for name, value, least in (("block_sequences", block_sequences, 1), ("max_tokens", max_tokens, 2), ("rows", rows, 1)):
            if value < least:
                raise TrainingError(f"{name} is {value}. Give at least {least}.")
        if not 0 <= skip_first < max_tokens:
            raise TrainingError(f"skip_first is {skip_first}, of sequences of {max_tokens} tokens. Give 0 to {max_tokens - 1}.")
        if not hook_points or len(set(hook_points)) < len(hook_points):
            raise TrainingError(f"Hook points must be named, each once, not {list(hook_points)}. Name at least one.")
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
        settings = (
            self.hook_points,
            self.block_sequences,
            self.max_tokens,
            self.skip_first,
            self.tokens,
            self.dtype,
            self.order,
            self.rows,
        )
        digest = hashlib.sha256(repr(settings).encode())
        for document in self.documents:
            digest.update(repr(document).encode())
        for model in self.models:
            digest.update(repr((model.source, model.dtype, model.tokenizer.chat_template)).encode())
            for name, weight in model.network.state_dict().items():
                digest.update(f"{name}: {_sample(weight)}".encode())
        return digest.hexdigest()

    def block(self, index: int) -> dict[str, Float[torch.Tensor, "rows n_models d_in"]]:
        """Residuals of block `index` on the CPU; raises `ActivationError` where they are not finite."""
        chosen = self.order[index * self.block_sequences : (index + 1) * self.block_sequences]
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self.hook_points}
        for batch in self._packed(chosen) if self.is_text else self._chats(chosen):
            wanted = WHERE[self.tokens](batch) & (batch.mask.long().cumsum(-1) > self.skip_first)
            if not bool(wanted.any()):
                continue
            of_models = [self._residuals(model, batch, wanted) for model in self.models]
            for name in self.hook_points:
                parts[name].append(torch.stack([residuals[name] for residuals in of_models], dim=1))
        empty = torch.zeros(0, self.n_models, self.d_in, dtype=self.dtype)
        return {name: torch.cat([empty, *tensors]) for name, tensors in parts.items()}

    def _residuals(self, model: LanguageModel, batch: TokenBatch, wanted: torch.Tensor) -> dict[str, Float[torch.Tensor, "rows d_in"]]:
        found = capture_batch(model, batch.to(model.device), self.hook_points, range(len(batch.ids))).residuals
        where = wanted.to(model.device)
        return {name: residual[where].to(self.dtype).cpu() for name, residual in found.items()}

    def _chats(self, chosen: Sequence[int]) -> Iterator[TokenBatch]:
        chats = [document for i in chosen if isinstance(document := self.documents[i], Chat)]
        for _indices, batch in self.reader.batches(chats, self.rows, self.max_tokens):
            yield batch

    def _packed(self, chosen: Sequence[int]) -> Iterator[TokenBatch]:
        contexts = pack([document for i in chosen if isinstance(document := self.documents[i], str)], self.reader, self.max_tokens)
        whole = [context for context in contexts if len(context) == self.max_tokens]
        rest = [context for context in contexts if len(context) < self.max_tokens]  # the last one, by itself: no padding
        for rows in [*(whole[i : i + self.rows] for i in range(0, len(whole), self.rows)), *([context] for context in rest)]:
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
