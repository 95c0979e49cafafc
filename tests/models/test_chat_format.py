"""Chats in the templates of published families: what ends an answer, what is thought, and that reading gives what was written."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from interp.core.errors import ChatFormatWarning
from interp.models.chat_format import UNFINISHED, ChatFormat
from interp.models.chats import Chat, Message, Role
from interp.models.language_model import LanguageModel
from tests.helpers.templates import EOT, GEMMA, GRANITE, HARMONY, LLAMA3, MISTRAL, PHI3, QWEN3, R1, tokenizer_of
from tests.helpers.tiny import CHATML, END, SENTENCES, tiny_network

QUESTION, ANSWER, SYSTEM = "How do I boil an egg?", "Put it into hot water.", "You are a kind assistant."
ENDS = {CHATML: END, LLAMA3: "<|eot_id|>", GEMMA: "<end_of_turn>", MISTRAL: EOT, PHI3: "<|end|>", QWEN3: END, GRANITE: "<|end_of_text|>"}


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def by_template(tokenizer: Any, *turns: tuple[str, str], prompt: bool = False, **switches: Any) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, **switches))


@pytest.mark.parametrize("template", ENDS)
def test_a_chat_reads_as_the_template_writes_it_up_to_the_end_of_its_turn(template: str) -> None:
    tokenizer = tokenizer_of(template)
    read = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER))
    off = {"enable_thinking": False}
    whole = by_template(tokenizer, ("user", QUESTION), ("assistant", ANSWER), **off)
    assert tokenizer.decode(read.ids) == whole[: whole.rindex(ENDS[template]) + len(ENDS[template])]
    assert tokenizer.decode(read.ids[: read.n_prompt]) == by_template(tokenizer, ("user", QUESTION), prompt=True, **off)
    assert tokenizer.decode(read.ids[-1]) == ENDS[template]
    assert tokenizer.decode(read.ids[read.n_prompt :]).strip() == ANSWER + ENDS[template]


@pytest.mark.parametrize("template", ENDS)
def test_the_token_that_ends_a_turn_in_the_template_stops(template: str) -> None:
    tokenizer = tokenizer_of(template)
    network = tiny_network("llama", vocab=len(tokenizer))
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    model = LanguageModel(network, tokenizer, "tiny")
    assert model.stop_ids == sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(ENDS[template])})


ON = {
    None: "\n\nUser: Thank you\n\nAssistant: You are",
    CHATML: "<|im_start|>user\nThank you<|im_end|>",
    MISTRAL: "[INST] Thank you [/INST] You are",
    GEMMA: "\n<start_of_turn>user\nThank you",
    LLAMA3: "<|start_header_id|>user<|end_header_id|>\n\nThank you",
    "{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] + '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}": "\n\n### user:\nThank you",
}


@pytest.mark.parametrize("template", ON)
def test_an_answer_ends_where_the_model_writes_the_next_turn_itself(template: str | None) -> None:
    chats = ChatFormat(tokenizer := tokenizer_of(template))
    assert chats.answer(ids_of(tokenizer, f" {ANSWER}{ON[template]}")).text == ANSWER
    assert chats.answer(ids_of(tokenizer, ANSWER)).text == ANSWER


def test_a_template_whose_markers_are_no_tokens_is_cut_at_their_text() -> None:
    """ChatML taught to a base whose vocabulary knows none of it."""
    unknown = CHATML.replace("im_", "turn_")
    chats = ChatFormat(tokenizer := tokenizer_of(unknown))
    assert chats.end_ids == []
    assert chats.answer(ids_of(tokenizer, f"{ANSWER}<|turn_end|>\n<|turn_start|>user\nThank you")).text == ANSWER


def test_words_of_a_header_within_a_line_cut_nothing() -> None:
    chats = ChatFormat(tokenizer := tokenizer_of(None))
    told = "The log says User: nobody, and the user writes on."
    assert chats.answer(ids_of(tokenizer, told)).text == told


@pytest.mark.parametrize("thinking", [True, False])
def test_the_switch_for_thinking_is_off_unless_asked_for(thinking: bool) -> None:
    for template, switch in ((QWEN3, "enable_thinking"), (GRANITE, "thinking")):
        tokenizer = tokenizer_of(template)
        chats = ChatFormat(tokenizer, thinking)
        asked = chats.tokenise(Chat.ask(QUESTION))
        assert tokenizer.decode(asked.ids) == by_template(tokenizer, ("user", QUESTION), prompt=True, **{switch: thinking})
        assert chats.has_switch


THOUGHT = "The user wants an egg."
WRITTEN = {
    (QWEN3, True): (f"<think>\n{THOUGHT}\n</think>\n\n", END),
    (R1, False): (f"{THOUGHT}\n</think>\n\n", "<|end_of_sentence|>"),
    (HARMONY, False): (
        f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
    (GRANITE, True): (f"Here is my thought process:\n{THOUGHT}\n\nHere is my response:\n\n", "<|end_of_text|>"),
    (LLAMA3, False): (f"[THINK]{THOUGHT}[/THINK]", "<|eot_id|>"),
}


@pytest.mark.parametrize(("template", "thinking"), WRITTEN)
def test_thoughts_are_kept_apart_and_read_as_they_were_written(template: str, thinking: bool) -> None:
    tokenizer, (thoughts, end) = tokenizer_of(template), WRITTEN[template, thinking]
    chats = ChatFormat(tokenizer, thinking)
    prompt, written = chats.tokenise(Chat.ask(QUESTION)), ids_of(tokenizer, thoughts + ANSWER)
    answer = chats.answer(written)
    assert (answer.text, answer.thoughts, answer.reason) == (ANSWER, thoughts, "")
    read = chats.tokenise(Chat.ask(QUESTION, answer.text, thoughts=answer.thoughts))
    assert read.ids == prompt.ids + written + ids_of(tokenizer, end)
    assert read.n_prompt == len(prompt.ids)

    begun = ids_of(tokenizer, thoughts[: thoughts.index("wants")])
    cut = chats.answer(begun)
    assert (cut.text, cut.reason) == ("", UNFINISHED)
    assert chats.tokenise(Chat.ask(QUESTION, cut.text, thoughts=cut.thoughts)).ids == prompt.ids + begun


def test_an_answer_without_a_thought_is_read_after_an_empty_one_where_the_prompt_opens_it() -> None:
    tokenizer = tokenizer_of(R1)
    read = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER))
    assert tokenizer.decode(read.ids).endswith(f"<|Assistant|><think>\n\n</think>\n\n{ANSWER}<|end_of_sentence|>")
    told = [i for i, role in zip(read.ids, read.roles, strict=True) if role == Role.RESPONSE]
    assert tokenizer.decode(told) == ANSWER + "<|end_of_sentence|>"


def test_a_switch_that_the_template_lacks_is_said() -> None:
    with pytest.warns(ChatFormatWarning, match="no switch for thinking"):
        ChatFormat(tokenizer_of(CHATML), thinking=True).tokenise(Chat.ask(QUESTION))


HEADLESS = [
    (CHATML[: CHATML.index("{% if add")], "<|im_start|>assistant\n", END),
    (LLAMA3[: LLAMA3.index("{% if add")], "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    (GEMMA[: GEMMA.index("{% if add")], "<start_of_turn>model\n", "<end_of_turn>"),
]


@pytest.mark.parametrize(("template", "header", "end"), HEADLESS)
def test_where_a_template_has_no_generation_prompt_its_own_header_ends_the_prompt(template: str, header: str, end: str) -> None:
    tokenizer = tokenizer_of(template)
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in (header.split("\n")[0][:20], end) if token[:1] == "<"]})
    with pytest.warns(ChatFormatWarning, match="has no generation prompt"):
        read = ChatFormat(tokenizer).tokenise(Chat.ask(QUESTION, ANSWER))
    assert tokenizer.decode(read.ids[: read.n_prompt]).endswith(header)
    assert tokenizer.decode(read.ids[read.n_prompt :]) == ANSWER + end
    whole = by_template(tokenizer, ("user", QUESTION), ("assistant", ANSWER))
    assert read.ids == ids_of(tokenizer, whole.rstrip("\n"))


def test_a_template_that_needs_no_generation_prompt_is_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChatFormat(tokenizer_of(MISTRAL)).tokenise(Chat.ask(QUESTION, ANSWER))


@pytest.mark.parametrize(
    "template",
    [
        GEMMA,
        MISTRAL,
        CHATML.replace("{{", "{% if message['role'] != 'system' %}{{", 1).replace("{% endfor", "{% endif %}{% endfor"),  # it drops it
    ],
)
def test_a_system_prompt_that_the_template_does_not_take_begins_the_first_question(template: str) -> None:
    tokenizer = tokenizer_of(template)
    turns = (Message("system", SYSTEM), Message("user", QUESTION), Message("assistant", ANSWER), Message("user", "Why?"))
    with pytest.warns(ChatFormatWarning, match="takes no system prompt"):
        read = ChatFormat(tokenizer).tokenise(Chat(turns))
    folded = (("user", f"{SYSTEM}\n\n{QUESTION}"), ("assistant", ANSWER), ("user", "Why?"))
    assert tokenizer.decode(read.ids) == by_template(tokenizer, *folded, prompt=True)
    told = {role: tokenizer.decode([i for i, r in zip(read.ids, read.roles, strict=True) if r == role]) for role in Role}
    assert (told[Role.SYSTEM].strip(), told[Role.USER].replace("? W", "?W")) == (SYSTEM, QUESTION + "Why?")


ZEPHYR = PHI3.replace("<|end|>", "</s>").replace("{{ eos_token }}", "")


def sentencepiece(template: str | None, scheme: str) -> Any:
    """BPE that writes blanks as ▁ and puts one before a text, as Llama 2's (`always`) and later ones (`first`) do."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=600, special_tokens=tokens, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize(
    "template",
    [MISTRAL, MISTRAL.replace("{{ ' ' + m", "{{ m"), PHI3.replace("<|end|>", "</s>").replace("{{ eos_token }}", ""), CHATML, None],
)
def test_a_blank_that_the_tokenizer_puts_before_a_text_is_no_token_of_an_answer(template: str | None, scheme: str) -> None:
    tokenizer = sentencepiece(template, scheme)
    chats = ChatFormat(tokenizer)
    read = chats.tokenise(Chat.ask(QUESTION, ANSWER))
    whole = chats.render([("user", QUESTION), ("assistant", ANSWER)], open_end=False).rstrip("\n")
    assert read.ids == ids_of(tokenizer, whole)
    assert read.ids[: read.n_prompt] == chats.tokenise(Chat.ask(QUESTION)).ids
