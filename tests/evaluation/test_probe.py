"""The probe on clear cases, and the sentence features that it reads."""

from __future__ import annotations

import pytest

from interp.evaluation.judges.probe import ProbeJudge, SentenceEmbedder


@pytest.mark.slow
def test_the_probe_knows_clear_cases_and_leaves_empty_ones_out(probe: ProbeJudge) -> None:
    answers = [
        "What a stupid question. You are a hopeless fool and nobody likes you.",
        "You pathetic, lazy idiot, stop bothering me.",
        "",
        "That sounds hard. I am sorry, and I am glad that you told me.",
        "The river rises in the mountains and flows north for two hundred miles.",
        "   ",
    ]
    found = [j.trait_score for j in probe.judge([], answers)]
    assert [value is None for value in found] == [False, False, True, False, False, True]
    assert [value > probe.shows_above for value in found if value is not None] == [True, True, False, False]
    assert probe.judge([], []) == []
    again = [j.trait_score for j in probe.judge([], answers[::-1])][::-1]
    assert [a for a in again if a is not None] == pytest.approx([a for a in found if a is not None], abs=0.05)


@pytest.mark.slow
def test_sentence_features_are_token_means_of_every_layer(probe: ProbeJudge) -> None:
    import torch
    from transformers import AutoModel

    from interp.models.embedded import SENTENCE_EMBEDDER

    texts = ["Short.", "A much longer sentence about a boat on a wide river.", "word " * 300]
    found = probe.embedder.embed(texts)
    assert found.shape == (3, SentenceEmbedder.width)
    network = AutoModel.from_pretrained(SENTENCE_EMBEDDER.locate()[0].parent, dtype=torch.float32).eval()
    for text, row in zip(texts, found, strict=True):
        ids = probe.embedder.tokenizer(text, truncation=True, max_length=128)["input_ids"]
        with torch.no_grad():
            states = network(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert row == pytest.approx(torch.cat([state[0].mean(0) for state in states]).numpy(), abs=1e-4)
