"""Judgements on disk: what is kept, what is asked again, and what a crash leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ArtifactError
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import ROWS, JudgementCache


class Counting:
    """Judges by length; an answer "later" is not final the first time, and one "die" ends it."""

    name = "counting"
    shows_above = coherent_above = 50.0

    def __init__(self, identity: str = "counting 1") -> None:
        self.identity = identity
        self.asked: list[tuple[str, str]] = []

    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> Iterator[Judgement]:
        for question, answer in zip(questions, answers, strict=True):
            if answer == "die":
                raise KeyboardInterrupt
            again = ("?", "later") not in self.asked
            self.asked.append((question, answer))
            if answer == "later" and again:
                yield Judgement(None, None, "the endpoint is busy", final=False)
            else:
                yield Judgement(float(len(answer)), None if not answer else 90.0, "" if answer else "empty")


def test_the_same_pair_is_asked_once_and_found_again(tmp_path: Path) -> None:
    judge, cache = Counting(), JudgementCache(tmp_path / "folder" / "j.sqlite")
    seen: list[int] = []
    first = cache.judged(judge, ["a", "b", "a", "a"], ["x", "x", "x", ""], seen.append)
    assert judge.asked == [("a", "x"), ("b", "x"), ("a", "")]
    assert sum(seen) == 4
    assert first[3] == Judgement(0.0, None, "empty")
    again = JudgementCache(tmp_path / "folder" / "j.sqlite").judged(judge, ["a", "a", "b"], ["", "x", "x"])
    assert again == [first[3], first[0], first[1]]
    assert len(judge.asked) == 3


def test_what_is_known_is_told_without_asking(tmp_path: Path) -> None:
    cache, judge = JudgementCache(tmp_path / "j"), Counting()
    assert cache.known(judge, ["a", "b"], ["x", "y"]) is None
    found = cache.judged(judge, ["a", "b"], ["x", "y"])
    judge.asked.clear()
    assert cache.known(judge, ["b", "a"], ["y", "x"]) == found[::-1]
    assert cache.known(judge, ["a", "c"], ["x", "y"]) is None
    assert judge.asked == []


def test_another_judge_is_asked_anew(tmp_path: Path) -> None:
    cache, one, other = JudgementCache(tmp_path / "j"), Counting(), Counting("counting 2")
    cache.judged(one, ["a"], ["x"])
    cache.judged(other, ["a"], ["x"])
    assert other.asked == [("a", "x")]


def test_what_is_not_final_is_handed_on_and_asked_again(tmp_path: Path) -> None:
    cache, judge = JudgementCache(tmp_path / "j"), Counting()
    assert cache.judged(judge, ["?", "?"], ["later", "now"])[0].reason == "the endpoint is busy"
    assert cache.judged(judge, ["?", "?"], ["later", "now"])[0].trait_score == 5.0
    assert judge.asked == [("?", "later"), ("?", "now"), ("?", "later")]


def test_a_judge_that_answers_nobody_is_asked_no_further(tmp_path: Path) -> None:
    class Dead(Counting):
        def judge(self, questions: Sequence[str], answers: Sequence[str]) -> Iterator[Judgement]:
            self.asked += [("?", answer) for answer in answers]
            yield from [Judgement(None, None, "no connection", final=False) for _ in answers]

    judge, n = Dead(), 5 * ROWS
    found = JudgementCache(tmp_path / "j").judged(judge, ["?"] * n, [str(i) for i in range(n)])
    assert len(judge.asked) == ROWS
    assert all(j.trait_score is None and not j.final for j in found)
    assert found[-1].reason == f"not asked: the judge left {ROWS} answers in a row unjudged, no connection"


def test_an_interrupt_keeps_what_was_made_before_it(tmp_path: Path) -> None:
    cache, judge = JudgementCache(tmp_path / "j"), Counting()
    answers = [f"{n}" for n in range(ROWS + 5)] + ["die"]
    with pytest.raises(KeyboardInterrupt):
        cache.judged(judge, ["?"] * len(answers), answers)
    judge.asked.clear()
    cache.judged(judge, ["?"] * (ROWS + 5), answers[:-1])
    assert judge.asked == []


KILLED = """
import sys, time
from pathlib import Path
from interp.evaluation.judges.base import Judgement
from interp.evaluation.judges.cache import JudgementCache
class Slow:
    name = identity = "slow"
    def judge(self, questions, answers):
        for answer in answers:
            yield Judgement(float(answer), 1.0)
            print(answer, flush=True)
            time.sleep(0.01)
JudgementCache(Path(sys.argv[1])).judged(Slow(), ["?"] * 500, [str(n) for n in range(500)])
"""


def test_a_killed_process_loses_nothing_that_was_judged(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "j")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()

    class Never(Counting):
        identity = "slow"

        def __init__(self) -> None:
            self.asked = []

    judge = Never()
    found = JudgementCache(tmp_path / "j").judged(judge, ["?"] * 20, [str(n) for n in range(20)])
    assert judge.asked == []
    assert [j.trait_score for j in found] == [float(n) for n in range(20)]


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    code = KILLED.replace("range(500)", "range(60)").replace('["?"] * 500', '["?"] * 60').replace("0.01", "0")
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "j")], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]


def test_ten_thousand_are_found_again_quickly(tmp_path: Path) -> None:
    """The bar is 2 s (`benchmarks/judges.py` measures); here a number of queries, which does not depend on the machine."""
    cache, judge = JudgementCache(tmp_path / "j"), Counting()
    questions, answers = [f"q{n % 60}" for n in range(10_000)], [f"answer number {n}" for n in range(10_000)]
    first = cache.judged(judge, questions, answers)
    queries: list[str] = []
    plain = sqlite3.connect

    def traced(*args, **kwargs):
        database = plain(*args, **kwargs)
        database.set_trace_callback(queries.append)
        return database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        begun = time.perf_counter()
        assert cache.judged(judge, questions, answers) == first
    assert len(queries) < 40
    assert time.perf_counter() - begun < 20
    assert len(judge.asked) == 10_000


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=8))
def test_pairs_that_differ_are_never_mistaken(pairs: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        judge = Counting()
        found = JudgementCache(Path(folder) / "j").judged(judge, [q for q, _ in pairs], [a for _, a in pairs])
        assert len(judge.asked) == len(set(pairs))
        assert [j.trait_score for j in found] == [float(len(a)) for _, a in pairs]


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_files_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"this is no database, and long enough to be seen as none" * 20)
    with pytest.raises(ArtifactError, match="cannot be used: file is not a database"):
        JudgementCache(tmp_path / "broken").judged(Counting(), ["a"], ["x"])
    with pytest.raises(ArtifactError, match="Cannot make"):
        JudgementCache(tmp_path / "broken" / "j").judged(Counting(), ["a"], ["x"])
