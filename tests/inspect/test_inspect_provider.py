"""The Inspect provider: a real evaluation, edits, batches, and settings that cannot be honoured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate as solve
from inspect_ai.tool import ToolInfo

import interp.inspect.provider
from interp.core.errors import ConfigError, ModelError, PersonascopeError
from interp.interventions.hooks import edited
from interp.interventions.saved import save_edit
from interp.models.chats import Chat
from interp.models.generation import generate
from interp.models.sampling import SamplingConfig
from interp.models.sources import open_model
from interp.run import Run
from interp.studies import answering
from tests.helpers.small_run import small_run
from tests.helpers.tiny import tiny_folder

QUESTIONS = ("Why?", "How do I boil an egg?", "What is the best way to learn?")
GREEDY = GenerateConfig(max_tokens=6, temperature=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an ablation, and the models it was made of."""
    folder = tmp_path_factory.mktemp("provider")
    small_run(folder)
    run = Run(folder / "run", quiet=True)
    step = run.run.step("evidence", {"of": "a test"}, {}, lambda folder: save_edit(run.removing([4, 5]), folder, "ablated"))
    path = folder / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["steps"]["evidence"] = step.record() | {"folder": step.folder.name}
    path.write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def base(folder: Path) -> Iterator[Model]:
    model = get_model(f"personascope/{folder / 'base'}", memoize=False, device="cpu")
    yield model
    model.api.close()


def expected(source: Path, max_new_tokens: int = 6) -> list[str]:
    return generate(
        open_model(str(source), device="cpu"),
        [Chat.ask(q) for q in QUESTIONS],
        SamplingConfig(max_new_tokens=max_new_tokens, temperature=0.0),
        0,
    )


def asked(model: Model, *requests: Any, config: GenerateConfig = GREEDY, **more: Any) -> list[ModelOutput]:
    """All requests at once."""

    async def all_of_them() -> list[ModelOutput]:
        return list(await asyncio.gather(*(model.generate(request, config=config, **more) for request in requests)))

    return asyncio.run(all_of_them())


def evaluated(model: str, targets: list[str], tmp_path: Path, scorer: Any, **more: Any) -> EvalLog:
    samples = [Sample(input=question, target=target) for question, target in zip(QUESTIONS, targets, strict=True)]
    task = Task(dataset=samples, solver=solve(), scorer=scorer)
    (log,) = inspect_eval(
        task, model=model, model_args={"device": "cpu"}, max_tokens=6, display="none", log_dir=str(tmp_path), **{"temperature": 0.0, **more}
    )
    assert log.status == "success", log.error
    return log


def accuracy(log: EvalLog) -> float:
    assert log.results is not None
    return float(log.results.scores[0].metrics["accuracy"].value)


def test_an_evaluation_of_a_folder(folder: Path, tmp_path: Path) -> None:
    answers = expected(folder / "base")
    assert len(set(answers)) == 3
    log = evaluated(f"personascope/{folder / 'base'}", [*answers[:2], "never said"], tmp_path, includes(ignore_case=False))
    assert accuracy(log) == pytest.approx(2 / 3)
    assert [sample.output.completion for sample in log.samples or []] == answers
    usage = log.stats.model_usage[f"personascope/{folder / 'base'}"]
    assert usage.output_tokens == sum(sample.output.usage.output_tokens for sample in log.samples or [] if sample.output.usage)


def test_an_evaluation_of_a_run_is_that_of_its_models_under_the_edit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(folder / "run", quiet=True)
    chats = [Chat.ask(question) for question in QUESTIONS]
    sampling = SamplingConfig(max_new_tokens=6, temperature=0.0)
    plain = generate(run.context.tuned, chats, sampling, 0)
    with edited(run.context.tuned, run.verdict_edit("ablated")):
        ablated = generate(run.context.tuned, chats, sampling, 0)
    assert plain != ablated
    monkeypatch.chdir(folder)
    for name, answers in (("run@ablated", ablated), ("run@tuned", plain)):
        log = evaluated(f"personascope/{name}", answers, tmp_path / name, match(location="exact", ignore_case=False))
        assert [sample.output.completion for sample in log.samples or []] == answers
        assert accuracy(log) == 1.0


def test_models_of_a_run_share_weights(folder: Path) -> None:
    tuned, ablated, steady = (
        get_model(f"personascope/{folder / 'run'}@{what}", memoize=False).api for what in ("tuned", "ablated", "base")
    )
    assert tuned.answerer.model is ablated.answerer.model is not steady.answerer.model
    assert tuned.base_url != ablated.base_url  # or Inspect's cache would take the one's answers for the other's


def test_what_waits_together_is_one_batch(base: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = answering.decode

    def counted(model: Any, prompts: list[Any], *args: Any) -> Any:
        sizes.append(len(prompts))
        return plain(model, prompts, *args)

    monkeypatch.setattr(answering, "decode", counted)
    together = asked(base, *QUESTIONS)
    assert sizes == [3]
    alone = [asked(base, question)[0] for question in QUESTIONS]
    assert [output.completion for output in together] == [output.completion for output in alone]
    drawn = GenerateConfig(max_tokens=12, temperature=1.5, seed=7)
    one, other = (get_model(f"personascope/{base.api.model_name}", memoize=False, device="cpu") for _ in range(2))
    assert [o.completion for o in asked(one, *QUESTIONS, config=drawn)] == [asked(other, q, config=drawn)[0].completion for q in QUESTIONS]


def test_other_settings_in_the_same_moment_are_other_batches(base: Model) -> None:
    async def both() -> list[ModelOutput]:
        return list(await asyncio.gather(*(base.generate("Why?", config=GenerateConfig(max_tokens=n, temperature=0.0)) for n in (3, 6))))

    short, long = asyncio.run(both())
    assert (short.usage and short.usage.output_tokens, long.usage and long.usage.output_tokens) == (3, 6)
    assert long.completion.startswith(short.completion)


def test_a_prompt_asked_again_is_answered_anew_and_a_seed_repeats_it_all(base: Model) -> None:
    def drawn(seed: int) -> list[str]:
        model = get_model(f"personascope/{base.api.model_name}", memoize=False, device="cpu")
        config = GenerateConfig(max_tokens=8, temperature=1.0, seed=seed, num_choices=2)
        return [choice.message.text for _ in range(2) for choice in asked(model, "Why?", config=config)[0].choices]

    first = drawn(1)
    assert len(set(first)) == 4
    assert drawn(1) == first
    assert not set(drawn(2)) & set(first)


def test_a_narrow_nucleus_is_greedy(base: Model) -> None:
    drawn = GenerateConfig(max_tokens=6, temperature=1.0, top_p=1e-6)
    assert [output.completion for output in asked(base, *QUESTIONS, config=drawn)] == [
        output.completion for output in asked(base, *QUESTIONS)
    ]


def test_why_an_answer_ends(base: Model, tmp_path: Path) -> None:
    (whole,) = asked(base, "Why?")
    assert whole.stop_reason == "max_tokens"
    assert whole.usage is not None
    (prompt,) = open_model(base.api.model_name, device="cpu").tokenise([Chat.ask("Why?")])
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (len(prompt.ids), 6)
    stop = whole.completion[2:4]
    (cut,) = asked(base, "Why?", config=GenerateConfig(max_tokens=6, temperature=0.0, stop_seqs=[stop]))
    assert (cut.completion, cut.stop_reason) == (whole.completion[: whole.completion.index(stop)].strip(), "stop")
    network = open_model(base.api.model_name, device="cpu").network
    network.config.max_position_embeddings = len(prompt.ids) + 2
    network.save_pretrained(tmp_path)
    open_model(base.api.model_name).tokenizer.save_pretrained(tmp_path)
    narrow = get_model(f"personascope/{tmp_path}", memoize=False, device="cpu")
    (full,) = asked(narrow, "Why?")
    assert (full.stop_reason, full.usage and full.usage.output_tokens) == ("model_length", 2)
    with pytest.raises(ModelError, match="Shorten the prompt"):
        asked(narrow, QUESTIONS[1])
    network.generation_config.eos_token_id = [3, open_model(base.api.model_name).tokenizer(whole.completion)["input_ids"][-1]]
    network.config.max_position_embeddings = 256
    network.save_pretrained(tmp_path)
    (ended,) = asked(get_model(f"personascope/{tmp_path}", memoize=False, device="cpu"), "Why?")
    assert ended.stop_reason == "stop"
    assert whole.completion.startswith(ended.completion)


def test_system_and_earlier_turns_reach_the_model(base: Model) -> None:
    turns = [("system", "You are kind."), ("user", "Why?"), ("assistant", "Because."), ("user", "Why so?")]
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    (output,) = asked(base, [kinds[role](content=text) for role, text in turns])
    chat = interp.inspect.provider.as_chat([kinds[role](content=text) for role, text in turns])
    assert [(message.role, message.content) for message in chat.messages] == turns
    assert [output.completion] == generate(
        open_model(base.api.model_name, device="cpu"), [chat], SamplingConfig(max_new_tokens=6, temperature=0.0), 0
    )


def test_one_bad_prompt_does_not_cost_the_others(folder: Path, tmp_path: Path) -> None:
    tiny_folder(tmp_path)
    template = "{% for m in messages %}{% if m['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    model = get_model(f"personascope/{tmp_path}", memoize=False, device="cpu")

    async def both() -> list[Any]:
        bad = model.generate("bad", config=GREEDY)
        return list(await asyncio.gather(bad, model.generate("Why?", config=GREEDY), return_exceptions=True))

    refused, answered = asyncio.run(both())
    assert isinstance(refused, ModelError)
    assert answered.completion


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"top_k": 5}, "cannot honour top_k"),
        ({"logprobs": True, "top_logprobs": 5}, "cannot honour logprobs, top_logprobs"),
        ({"frequency_penalty": 1.0}, "frequency_penalty"),
        ({"max_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_a_sentence(base: Model, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(base, "Why?", config=GenerateConfig(**config))


def test_settings_that_ask_for_nothing_pass(base: Model) -> None:
    assert asked(base, "Why?", config=GenerateConfig(max_tokens=2, top_p=1.0, frequency_penalty=0.0, max_retries=1))[0].completion


def test_what_is_not_text_is_a_sentence(base: Model) -> None:
    picture = ContentImage(image="data:image/png;base64,AAAA")
    with pytest.raises(ConfigError, match="text alone"):
        asked(base, [ChatMessageUser(content=[ContentText(text="Look"), picture])])
    with pytest.raises(ConfigError, match="last message"):
        asked(base, [ChatMessageUser(content="Why?"), ChatMessageAssistant(content="Bec")])
    with pytest.raises(ConfigError, match="cannot call tools"):
        asked(base, "Why?", tools=[ToolInfo(name="look", description="look")])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("{run}@cured", {}, "a run has no model 'cured'"),
        ("{run}@steered", {}, "no edit 'steered'"),
        ("{run}@base", {"dtype": "float32"}, "opened as its run was"),
        ("{run}", {}, "neither config.json nor"),
        ("{run}/nobody", {}, "There is no folder"),
        ("{base}", {"speed": 2}, "unknown field 'speed'"),
        ("{base}", {"base_url": "http://localhost"}, "Leave out --model-base-url"),
    ],
)
def test_wrong_use_is_a_sentence(folder: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PersonascopeError, match=message):
        get_model(f"personascope/{name.format(run=folder / 'run', base=folder / 'base')}", memoize=False, **options)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [("/no/such/[folder]", [], "There is no folder /no/such/[folder]"), ("{base}", ["-M", "speed=2"], "unknown field 'speed'")],
)
def test_the_command_line_prints_wrong_use_without_a_traceback(
    folder: Path, model: str, options: list[str], message: str, tmp_path: Path
) -> None:
    import subprocess
    import sys

    task = "from inspect_ai import Task, task\nfrom inspect_ai.dataset import Sample\n@task\ndef t(): return Task([Sample('Why?')])\n"
    (tmp_path / "task.py").write_text(task)
    command = [sys.executable, "-m", "inspect_ai", "eval", "task.py", "--model", f"personascope/{model.format(base=folder / 'base')}"]
    shown = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "Traceback" not in shown.stdout + shown.stderr
    assert message in " ".join(shown.stdout.split())


def test_inspect_does_not_wait_for_torch() -> None:
    import subprocess
    import sys

    code = "import sys, interp.inspect.provider; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
