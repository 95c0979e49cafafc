"""Answers of a hosted model: kept as they arrive, asked for again only where they are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.cli.main import app
from interp.core.config import validated
from interp.core.errors import ModelError
from interp.evaluation.hosted_model import HostedModel
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_hosted
from interp.models.sampling import SamplingConfig
from interp.studies import evaluating
from interp.studies.evaluating import evaluate
from interp.studies.evaluation_config import EvaluateConfig
from tests.helpers.fake_endpoint import SAMPLING, FakeEndpoint, Reply, Request, completion, echo, error, hosted_environment, outputs, quick
from tests.helpers.small_run import letter_panel
from tests.helpers.tiny import tiny_folder

QUESTIONS = [Question(id=f"q{i}", group="g", split="held_out", text=f"q{i}", system="Be brief." if i == 1 else "") for i in range(6)]
KEY = "sk-test-Hq83kDpW0zLm"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hosted_environment(monkeypatch, tmp_path)
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)


def sampled(endpoint: FakeEndpoint, sampling: SamplingConfig = SAMPLING, scope: str = "", **patience: Any) -> pd.DataFrame:
    model = HostedModel(endpoint.spec, **quick(**patience))
    return sample_hosted(model, QUESTIONS, 2, sampling, 3, lambda n: None, scope)


def test_answers_are_a_table_in_order() -> None:
    with FakeEndpoint(echo) as endpoint:
        table = sampled(endpoint)
    assert list(table["answer"]) == [f"to q{i}" for _ in range(2) for i in range(6)]
    assert list(table["sample"]) == [0] * 6 + [1] * 6
    assert len({request.body["seed"] for request in endpoint.requests}) == 12
    messages = [m for request in endpoint.requests for m in request.body["messages"] if m["role"] == "system"]
    assert [m["content"] for m in messages] == ["Be brief."] * 2


def test_every_request_has_a_seed_of_its_own_that_follows_the_seed() -> None:
    model = HostedModel("inspect:mockllm/model", model_args={"custom_outputs": outputs(lambda text: "yes")})
    sent: list[int] = []
    model.ask = lambda chats, settings, seeds, *_: sent.extend(seeds) or ask(chats, settings, seeds)  # type: ignore[method-assign]
    ask = HostedModel.ask.__get__(model)
    for seed in (0, 1, 2**31 - 1, 0):
        sample_hosted(model, QUESTIONS, 2, SAMPLING, seed, lambda n: None)
    assert len(set(sent[:36])) == 36
    assert sent[36:] == sent[:12]
    assert all(0 <= seed < 2**31 for seed in sent)


def test_settings_are_sent_where_they_change_anything() -> None:
    with FakeEndpoint(echo) as endpoint:
        sampled(endpoint, SamplingConfig(max_new_tokens=9, min_p=0.05, top_p=0.9))
        sampled(endpoint, SamplingConfig(min_p=0.05, temperature=0.0))
    first, last = endpoint.requests[0].body, endpoint.requests[-1].body
    assert {name: first[name] for name in ("max_tokens", "temperature", "min_p", "top_p")} == {
        "max_tokens": 9,
        "temperature": 1,
        "min_p": 0.05,
        "top_p": 0.9,
    }
    assert {"min_p", "top_p"}.isdisjoint(last)


def test_a_server_that_dies_half_way_loses_nothing() -> None:
    """Seven answers come, then the server is gone: one sentence, and the next call asks for the other five with the same seeds."""
    with FakeEndpoint(lambda request: echo(request) if request.n < 7 else error("down", 503)) as endpoint:
        with pytest.raises(ModelError, match=r"left 5 of 12 prompts without an answer.*What came is kept: run the same command again"):
            sampled(endpoint, max_connections=1, max_retries=1)
        before = {request.body["seed"] for request in endpoint.requests[:7]}
        n, endpoint.script = len(endpoint.requests), echo
        table = sampled(endpoint)
        again = {request.body["seed"] for request in endpoint.requests[n:]}
        assert len(again) == len(endpoint.requests) - n == 5
        assert not before & again
        assert (table["answer"] == [f"to {q}" for q in table["question_id"]]).all()
        pd.testing.assert_frame_equal(sampled(endpoint), table)
        assert len(endpoint.requests) == n + 5
        sampled(endpoint, scope="another")
        assert len(endpoint.requests) == n + 17


def test_what_a_kill_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        whole = sampled(endpoint)
        files = [path for path in (tmp_path / "inspect").rglob("*") if path.is_file()]
        assert len(files) == 12
        files[0].write_bytes(files[0].read_bytes()[:-9])
        files[1].write_bytes(b"")
        pd.testing.assert_frame_equal(sampled(endpoint), whole)
        assert len(endpoint.requests) == 14


def test_a_request_that_is_refused_is_an_empty_answer_with_its_reason() -> None:
    def picky(request: Request) -> Reply:
        return error("too rude", 400) if request.body["messages"][-1]["content"] == "q2" else echo(request)

    with FakeEndpoint(picky) as endpoint:
        table = sampled(endpoint)
        refused = table[table["question_id"] == "q2"]
        assert list(refused["answer"]) == ["", ""]
        assert refused["reason"].str.contains("too rude").all()
        assert (table.loc[table["question_id"] != "q2", "reason"] == "").all()
        endpoint.script = echo  # since then corrected: only what was refused is asked again
        assert (sampled(endpoint)["answer"] != "").all()
        assert len(endpoint.requests) == 14


@pytest.mark.parametrize(
    ("body", "answer", "reason"),
    [
        (completion(""), "", ""),
        (completion(" \ud800! "), "?!", ""),
        (completion("half", finish_reason="length"), "half", ""),
        (completion(None, finish_reason="length"), "", "no text of its own (stop reason: max_tokens)"),
        (completion("Sorry", finish_reason="content_filter"), "", "no text of its own (stop reason: content_filter)"),
    ],
)
def test_a_reply_without_text_has_a_reason(body: Any, answer: str, reason: str) -> None:
    with FakeEndpoint(lambda request: Reply(body) if request.prompt == "q0" else echo(request)) as endpoint:
        row = sampled(endpoint).iloc[0]
    assert row["answer"] == answer
    assert reason in row["reason"]


def test_a_server_that_refuses_every_prompt_is_an_error_and_a_setting_it_refuses_is_told() -> None:
    refusing = FakeEndpoint(lambda request: error("Unsupported parameter: 'max_tokens'", 400))
    with refusing as endpoint, pytest.raises(ModelError, match=r"refuses every prompt, the first because: .*Unsupported parameter"):
        sampled(endpoint)

    def strict(request: Request) -> Reply:
        return error("unknown field min_p", 400) if "min_p" in request.body else echo(request)

    with FakeEndpoint(strict) as endpoint, pytest.warns(UserWarning, match="min_p"):
        table = sampled(endpoint, SAMPLING.model_copy(update={"min_p": 0.1}))
    assert set(table["not_sent"]) == {"min_p"}


def everything(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_a_served_model_is_evaluated_and_no_key_is_on_disk_or_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    panel = letter_panel(tmp_path / "cache" / "judgements.sqlite")
    monkeypatch.setattr(evaluating, "open_panel", lambda *args, **kwargs: panel)
    with FakeEndpoint(lambda request: Reply(completion(f"to {request.prompt[:9]}, says {KEY}"))) as endpoint:
        settings = {"models": [endpoint.spec], "sampling": SAMPLING.model_dump()}
        found = evaluate(validated(EvaluateConfig, settings, "test"), tmp_path / "out", quiet=True)
        assert found.rates.loc[0, "answers"] == 30
        asked = len(endpoint.requests)
        assert evaluate(validated(EvaluateConfig, settings, "test"), tmp_path / "out", quiet=True).steps
        assert len(endpoint.requests) == asked
        app(["evaluate", endpoint.spec, "--tokens", "7", "--out", str(tmp_path / "cli"), "--json"], standalone_mode=False)
        assert len(endpoint.requests) == 2 * asked  # into another folder: asked again
    shown = capsys.readouterr()
    for text in (everything(tmp_path), shown.out, shown.err, caplog.text, str(found.as_json())):
        assert KEY not in text
        assert KEY[8:] not in text
    assert "says ***" in everything(tmp_path)


def test_a_model_of_any_provider_is_evaluated_and_what_it_is_not_sent_is_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "open_panel", lambda *args, **kwargs: letter_panel(tmp_path / "judgements.sqlite"))
    name = f"inspect:personascope/{tiny_folder(tmp_path / 'model')}"
    config = validated(EvaluateConfig, {"models": [name], "sampling": {"max_new_tokens": 3}}, "test")
    with pytest.warns(UserWarning, match="does not take min_p"):
        result = evaluate(config, tmp_path / "out", quiet=True)
    assert result.rates.loc[0, "answers"] == 30
    assert set(result.answers["not_sent"]) == {"min_p"}
    assert set(result.answers["model"]) == {name}
