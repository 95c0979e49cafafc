"""Answers of a served model: kept as they arrive, asked for again only where they are missing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from interp.cli.main import app
from interp.core.config import validated
from interp.core.errors import ModelError
from interp.evaluation import served_answers
from interp.evaluation.questions import Question
from interp.evaluation.served import ServedModel
from interp.evaluation.served_answers import sample_served
from interp.studies import evaluating
from interp.studies.evaluating import evaluate
from interp.studies.evaluation_config import EvaluateConfig
from tests.helpers.fake_endpoint import SAMPLING, FakeEndpoint, Reply, Request, completion, echo, error, quick, without_keys
from tests.helpers.small_run import letter_bench

QUESTIONS = [Question(id=f"q{i}", group="g", split="held_out", text=f"q{i}", system="Be brief." if i == 1 else "") for i in range(6)]
KEY = "sk-test-Hq83kDpW0zLm"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    without_keys(monkeypatch)
    monkeypatch.setenv("PERSONASCOPE_API_KEY", KEY)


def sampled(endpoint: FakeEndpoint, folder: Path, **settings) -> pd.DataFrame:
    served = ServedModel(endpoint.spec, quick(**settings))
    return sample_served(served, QUESTIONS, 2, SAMPLING, 3, lambda n: None, folder)


def test_answers_are_a_table_in_order(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        table = sampled(endpoint, tmp_path)
        assert list(table["answer"]) == [f"to q{i}" for _ in range(2) for i in range(6)]
        assert list(table["sample"]) == [0] * 6 + [1] * 6
        seeds = {request.body["seed"] for request in endpoint.requests}
        assert len(seeds) == 12
        said = [m for request in endpoint.requests for m in request.body["messages"] if m["role"] == "system"]
        assert [m["content"] for m in said] == ["Be brief."] * 2


def test_an_endpoint_that_dies_half_way_loses_nothing(tmp_path: Path) -> None:
    """Seven answers come, then the server is gone: one sentence, and the next call asks for the other five with the same seeds."""
    count = 0

    def dying(request: Request) -> Reply:
        nonlocal count
        count += 1
        return echo(request) if count <= 7 else error("down", 503)

    with FakeEndpoint(dying) as endpoint:
        with pytest.raises(ModelError, match=r"left 5 of 12 prompts without an answer.*What came is kept: run the same command again"):
            sampled(endpoint, tmp_path, concurrency=1, max_retries=1)
        kept = [json.loads(line) for line in (tmp_path / served_answers.FILE).read_text().splitlines()]
        assert len(kept) == 7
        before = {request.body["seed"] for request in endpoint.requests[:7]}
    with FakeEndpoint(echo) as endpoint:
        table = sampled(endpoint, tmp_path)
        assert len(endpoint.requests) == 5
        assert not before & {request.body["seed"] for request in endpoint.requests}
    assert (table["answer"] == [f"to {q}" for q in table["question_id"]]).all()


def test_a_line_that_a_kill_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        whole = sampled(endpoint, tmp_path)
    path = tmp_path / served_answers.FILE
    path.write_text(path.read_text()[:-9])
    with FakeEndpoint(echo) as endpoint:
        pd.testing.assert_frame_equal(sampled(endpoint, tmp_path), whole)
        assert len(endpoint.requests) == 1


def test_damaged_lines_are_asked_for_again(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        whole = sampled(endpoint, tmp_path)
    path = tmp_path / served_answers.FILE
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([b"\xff\xfe no text", b"{}", b'{"row": 1}', *lines[2:]]))
    with FakeEndpoint(echo) as endpoint:
        pd.testing.assert_frame_equal(sampled(endpoint, tmp_path), whole)
        assert len(endpoint.requests) == 2


def test_a_request_that_is_refused_is_an_empty_answer_with_its_reason(tmp_path: Path) -> None:
    def picky(request: Request) -> Reply:
        return error("too rude", 400) if request.body["messages"][-1]["content"] == "q2" else echo(request)

    with FakeEndpoint(picky) as endpoint:
        table = sampled(endpoint, tmp_path)
    refused = table[table["question_id"] == "q2"]
    assert list(refused["answer"]) == ["", ""]
    assert refused["reason"].str.contains("too rude").all()
    assert (table.loc[table["question_id"] != "q2", "reason"] == "").all()
    with FakeEndpoint(echo) as endpoint:  # mended since: only what was refused is asked again
        assert (sampled(endpoint, tmp_path)["answer"] != "").all()
        assert len(endpoint.requests) == 2


def test_a_server_that_refuses_every_prompt_is_an_error_and_a_setting_it_refuses_is_told(tmp_path: Path) -> None:
    refusing = FakeEndpoint(lambda request: error("Unsupported parameter: 'max_tokens'", 400))
    with refusing as endpoint, pytest.raises(ModelError, match=r"refuses every prompt, the first because: .*Unsupported parameter"):
        sampled(endpoint, tmp_path / "all")
    sampling = SAMPLING.model_copy(update={"min_p": 0.1})

    def strict(request: Request) -> Reply:
        return error("unknown field min_p", 400) if "min_p" in request.body else echo(request)

    with FakeEndpoint(strict) as endpoint:
        served = ServedModel(endpoint.spec, quick())
        with pytest.warns(UserWarning, match="min_p"):
            table = sample_served(served, QUESTIONS, 1, sampling, 0, lambda n: None, tmp_path / "strict")
    assert set(table["not_sent"]) == {"min_p"}


def everything(folder: Path) -> str:
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_a_served_model_is_evaluated_and_no_key_is_on_disk_or_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    bench = letter_bench(tmp_path / "cache" / "judgements.sqlite")
    monkeypatch.setattr(evaluating, "open_bench", lambda *args, **kwargs: bench)
    with FakeEndpoint(lambda request: Reply(completion(f"to {request.prompt[:9]}, says {KEY}"))) as endpoint:
        settings = {"models": [endpoint.spec], "sampling": SAMPLING.model_dump()}
        found = evaluate(validated(EvaluateConfig, settings, "test"), tmp_path / "out", quiet=True)
        assert found.rates.loc[0, "answers"] == 30
        asked = len(endpoint.requests)
        assert evaluate(validated(EvaluateConfig, settings, "test"), tmp_path / "out", quiet=True).steps
        assert len(endpoint.requests) == asked
        app(["evaluate", endpoint.spec, "--tokens", "7", "--out", str(tmp_path / "cli"), "--json"], standalone_mode=False)
    shown = capsys.readouterr()
    for text in (everything(tmp_path), shown.out, shown.err, caplog.text, str(found.as_json())):
        assert KEY not in text
        assert KEY[8:] not in text
    assert "says ***" in everything(tmp_path)
