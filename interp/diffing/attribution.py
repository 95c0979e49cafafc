"""First-order attribution: how much each latent's activity moves the log-odds of a behaviour, for all latents by one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float

from interp.core.errors import ActivationError, DictionaryError
from interp.dictionaries.dictionary import TUNED, Dictionary
from interp.diffing.moments import add_at
from interp.models.activations import capture_batch, content_tokens
from interp.models.chats import Chat, TokenBatch
from interp.models.cpu.packed_linear import release_gradients
from interp.models.language_model import LanguageModel, Positions
from interp.sparse.autograd import products_for


def attribution(
    model: LanguageModel,
    dictionary: Dictionary,
    pairs: Sequence[tuple[Chat, Chat]],
    rows: int = 16,
    base: LanguageModel | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float[torch.Tensor, " latents"]:
    """Gradient × activation of a behaviour's log-odds, in nats a token; above zero where a latent pushes toward the behaviour.

    `pairs` hold a question with an answer that shows the behaviour, and with one that does not. A pair's log-odds are the mean
    log-probability of the first answer's tokens minus that of the second's. Latent j gets Σ_t a_jt ⟨d_j, ∂log-odds/∂x_t⟩ over the
    content tokens of both chats, averaged over pairs: to first order what the log-odds lose when the latent is subtracted there
    (attribution patching: Nanda 2023; Syed et al. 2023, arXiv:2310.10348; of latents: Marks et al. 2024, arXiv:2403.19647).
    Gradients do not pass through the encoder. A crosscoder's activations need `base` to read the same tokens. Raises `ActivationError`
    for no pair, an answer without a token, or a gradient that is not finite, and `DictionaryError` for a crosscoder without `base`.
    """
    chats = [chat for pair in pairs for chat in pair]
    if not chats:
        raise ActivationError("There is no pair of answers to attribute to. Give at least one.")
    if dictionary.n_models > 1 and base is None:
        raise DictionaryError("A crosscoder's activations need the base's residuals as well. Give base.")
    total = torch.zeros(dictionary.n_latents, dtype=torch.float64, device=model.device)
    for indices, batch in model.batches(chats, rows):
        signs = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in indices], device=model.device)
        residual, gradient = residual_gradient(model, dictionary.hook_point, batch, signs)
        chosen = content_tokens(batch)
        pair = [residual[chosen]]
        if dictionary.n_models > 1 and base is not None:
            pair.insert(0, capture_batch(base, batch, [dictionary.hook_point], indices).residuals[dictionary.hook_point][chosen])
        codes = dictionary.encode_models(torch.stack(pair, dim=1))[TUNED]
        along = products_for(codes).gather_dot(gradient[chosen].float(), codes, dictionary.decoder_rows())
        add_at(total, codes.latents, along.double() * codes.values)
        if progress:
            progress(len(indices))
    release_gradients(model.network)
    return total / len(pairs)


def residual_gradient(
    model: LanguageModel, hook_point: str, batch: TokenBatch, signs: Float[torch.Tensor, " batch"]
) -> tuple[Float[torch.Tensor, "batch position d_model"], Float[torch.Tensor, "batch position d_model"]]:
    """Residual at `hook_point`, and there the gradient of Σ_rows sign × mean log-probability (nats) of the row's response tokens.

    What lies below the hook point computes without a graph. Raises `ActivationError` for a row without a response token, and
    for a gradient that is not finite.
    """
    counts = batch.response_tokens.sum(-1)
    if bool((counts == 0).any()):
        raise ActivationError("An answer has no token, so it has no log-probability. Give answers that are not empty.")
    width, targets, of_response = batch.response_window()
    weights = torch.where(of_response, (signs / counts)[:, None], 0.0)
    leaves: list[torch.Tensor] = []

    def detach(residual: torch.Tensor) -> torch.Tensor:
        leaves.append(residual.detach().requires_grad_())
        return leaves[0]

    with model.attach(hook_point, detach), frozen(model.network), torch.enable_grad():
        positions = Positions(0, batch.response_start, torch.arange(len(batch.ids), device=model.device), batch.mask)
        unembedding = model.run(batch.ids, batch.mask, positions)
        hidden = unembedding.hidden[:, -width:-1][of_response]
        (gradient,) = torch.autograd.grad(unembedding.loss(hidden, targets[of_response], -weights[of_response]), leaves[0])
    if not bool(torch.isfinite(gradient[batch.mask]).all()):
        raise ActivationError(f"{model.source} gives gradients at {hook_point} that are not finite. Try --dtype float32.")
    return leaves[0].detach(), gradient


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """No weight takes a gradient: no graph below the first leaf, and packed linear layers stay packed."""
    taking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in taking:
            parameter.requires_grad_(True)
