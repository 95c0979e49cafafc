"""A model reads as Hugging Face does, padded or alone, knows the phases of its tokens, and pairs with its like alone."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from interp.core.errors import ModelError
from interp.models.language_model import Positions, check_pair, position_ids
from tests.helpers.tiny import CHATS, FAMILIES, QUESTIONS, ask_all, logits, tiny_model


def test_a_pair_must_share_width_depth_and_tokenizer() -> None:
    base = tiny_model(0)
    check_pair(base, tiny_model(1))
    for shape, message in (({"d_model": 64}, "residual width 32 and 64"), ({"n_layers": 4}, "number of layers 3 and 4")):
        with pytest.raises(ModelError, match=message):
            check_pair(base, tiny_model(1, **shape))
    other = tiny_model(1)
    other.tokenizer.add_tokens(["persona"])
    check_pair(base, other)
    words = Tokenizer(BPE())
    words.train_from_iterator(["other words"], BpeTrainer(show_progress=False))
    other.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(ModelError, match="tokenizers differ"):
        check_pair(base, other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 32])
def test_logprobs_are_those_of_the_plain_model(family: str, rows: int) -> None:
    model = tiny_model(2, family)
    for tokenised, found in zip(model.tokenise(CHATS), model.logprobs(CHATS, rows), strict=True):
        expected = logits(model.network, torch.tensor([tokenised.ids]))[0].double().log_softmax(-1)
        response = tokenised.ids[tokenised.n_prompt :]
        assert len(found) == len(response) >= 1
        expected = torch.stack([expected[tokenised.n_prompt - 1 + i, token] for i, token in enumerate(response)])
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_chat_without_a_response_has_no_logprobs() -> None:
    model = tiny_model(2)
    assert [len(row) for row in model.logprobs(ask_all())] == [0] * len(QUESTIONS)
    assert [len(row) > 0 for row in model.logprobs([*ask_all(), *CHATS])] == [False] * 4 + [True] * 4
    assert model.logprobs([]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_reads_as_single_rows(family: str) -> None:
    model = tiny_model(2, family)
    ((indices, batch),) = model.batches(CHATS)
    everything = model.read(batch, last_logits=0)
    assert everything.shape[:2] == batch.ids.shape
    for row, index in enumerate(indices):
        alone = logits(model.network, torch.tensor([model.tokenise([CHATS[index]])[0].ids]))[0]
        torch.testing.assert_close(everything[row][batch.mask[row]], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.read(batch, last_logits=3), everything[:, -3:], atol=1e-5, rtol=1e-5)
    assert model.positions is None


def test_phases_divide_the_real_tokens() -> None:
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    positions = Positions(10, torch.tensor([14, 12]), torch.arange(2), mask)
    assert positions.in_phase("response").tolist() == [[False] * 4 + [True], [False, False, True, True, True]]
    assert positions.in_phase("prompt").tolist() == [[False, False, True, True, False], [True, True, False, False, False]]
    assert torch.equal(positions.in_phase("all"), mask)
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]
