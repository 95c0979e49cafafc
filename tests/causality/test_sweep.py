"""Sweeps: rows are independent of what shares their batch, batches are full, memory may run out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.causality.sweep import Condition, is_out_of_memory, plan_batches, sweep
from interp.core.errors import EditError, ModelError
from interp.evaluation.questions import Question
from interp.evaluation.sampling import sample_answers
from interp.interventions.edits import Edit, add, random_directions
from interp.interventions.hooks import edited
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from tests.helpers.small_sweeps import HOOK, Killed, asked, edits, kept, kill_after, passes, steered
from tests.helpers.tiny import D_MODEL, greedy, ids_as_text, tiny_model

SAMPLED = settings(deadline=None, derandomize=True, max_examples=100)


# rows


@pytest.mark.parametrize("sampling", [greedy(10), SamplingConfig(max_new_tokens=10, batch_rows=5)])
def test_a_sweep_equals_one_condition_at_a_time(sampling: SamplingConfig) -> None:
    model = tiny_model()
    conditions = [Condition("plain"), *(Condition(str(n), edit) for n, edit in enumerate(edits()))]
    with ids_as_text(model):
        together = sweep(model, conditions, asked(), 2, sampling, seed=3)
        assert list(together["condition"].unique()) == ["plain", "0", "1", "2"]
        assert len(together) == 4 * 4 * 2
        for condition in conditions:
            own = together[together["condition"] == condition.name].reset_index(drop=True)
            if isinstance(condition.edit, Edit):
                with edited(model, condition.edit):
                    alone = sample_answers(model, asked(), 2, sampling, 3)
            else:
                alone = sample_answers(model, asked(), 2, sampling, 3)
            pd.testing.assert_frame_equal(own, alone.assign(condition=condition.name))
    changed = together.groupby("condition", sort=False)["answer"].agg(tuple)
    assert changed.nunique() == 4  # every edit did something


def test_several_edits_of_a_condition_act_in_order() -> None:
    model = tiny_model()
    shift, removal, _ = edits()
    conditions = [Condition("a", (shift, removal)), Condition("b", (removal, shift)), Condition("none", ()), Condition("one", (shift,))]
    with ids_as_text(model):
        together = sweep(model, conditions, asked(), 1, greedy(10), 0)
        for condition in conditions:
            with edited(model, *condition.edits):
                alone = sample_answers(model, asked(), 1, greedy(10), 0)
            assert list(together[together["condition"] == condition.name]["answer"]) == list(alone["answer"])
    assert together.groupby("condition")["answer"].agg(tuple).nunique() == 4


def test_a_sweep_without_edits_asks_the_model_as_it_is() -> None:
    model = tiny_model()
    plain = sweep(model, [Condition("a"), Condition("b")], asked(), 1, greedy(6), 0)
    assert list(plain[plain["condition"] == "a"]["answer"]) == list(plain[plain["condition"] == "b"]["answer"])
    assert model.prompt_signatures is None


def test_a_row_draws_by_question_and_sample_alone() -> None:
    model, sampling = tiny_model(), SamplingConfig(max_new_tokens=8, min_p=0.0, batch_rows=7)
    conditions = [*steered(3), Condition("plain")]
    with ids_as_text(model):
        whole = sweep(model, conditions, asked(), 3, sampling, 1)
        fewer = sweep(model, conditions[2:], asked(), 2, sampling.model_copy(update={"batch_rows": 96}), 1)
    keys = ["condition", "question_id", "sample"]
    both = whole.merge(fewer, on=keys, suffixes=("", "_fewer"))
    assert len(both) == len(fewer) == 2 * 4 * 2
    assert list(both["answer"]) == list(both["answer_fewer"])
    assert whole["answer"].nunique() > 40


def test_a_condition_may_ask_some_of_the_questions_and_more_often() -> None:
    model, sampling = tiny_model(), SamplingConfig(max_new_tokens=8, min_p=0.0, batch_rows=7)
    first, second = steered(2)
    with ids_as_text(model):
        whole = sweep(model, [first, second], asked(), 3, sampling, 1)
        some = sweep(model, [replace(first, asked=("q3", "q1")), replace(second, samples=3)], asked(), 1, sampling, 1)
    rows = [(row.condition, row.question_id, row.sample) for row in some.itertuples()]
    assert rows == [
        ("add 0", "q1", 0), ("add 0", "q3", 0), *(("add 1", f"q{question}", sample) for sample in range(3) for question in range(4))
    ]  # fmt: skip
    both = some.merge(whole, on=["condition", "question_id", "sample"], suffixes=("", "_whole"))
    assert len(both) == len(some)
    assert list(both["answer"]) == list(both["answer_whole"])  # what else is asked changes no answer
    with pytest.raises(EditError, match="'add 0' asks q7, q8, which is none of the questions"):
        sweep(model, [replace(first, asked=("q8", "q1", "q7"))], asked(), 1, sampling, 1)


def test_repeated_condition_names_are_refused() -> None:
    with pytest.raises(EditError, match="unique: a, b, a"):
        sweep(tiny_model(), [Condition("a"), Condition("b"), Condition("a")], asked(), 1, greedy(2), 0)


def test_progress_counts_every_answer() -> None:
    seen: list[int] = []
    sweep(tiny_model(), [Condition("a"), Condition("b", edits()[0])], asked(), 3, greedy(3, batch_rows=10), 0, seen.append)
    assert seen == [10, 10, 4]


def test_nothing_asked_is_an_empty_table() -> None:
    columns = ["condition", "question_id", "group", "sample", "question", "answer"]
    for conditions, questions in (([], asked()), ([Condition("a")], [])):
        table = sweep(tiny_model(), conditions, questions, 1, greedy(2), 0)
        assert (len(table), list(table.columns)) == (0, columns)


def test_an_edit_without_a_token_in_its_phase_is_told_in_the_batch_where_it_is() -> None:
    model = tiny_model()
    model.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    one_token = [Question(id="q", group="g", split="selection", text="W")]  # it belongs to the response phase
    prompt = Condition("prompt", add(random_directions(1, D_MODEL, 0)[0], {HOOK: 20.0}, 1.0, "prompt"))
    with pytest.raises(EditError, match="touched no token"):
        sweep(model, [Condition("plain"), prompt], [*one_token, *asked(1)], 1, greedy(3, batch_rows=2), 0)
    assert model.prompt_signatures is None


# batches


@SAMPLED
@given(st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=3), st.sampled_from("abc")), max_size=40), st.integers(1, 12))
def test_batches_are_full_and_keep_together_what_is_read_together(rows: list[tuple[list[int], str]], most: int) -> None:
    prompts, changes = [tuple(prompt) for prompt, _ in rows], [change for _, change in rows]
    batches = plan_batches(prompts, changes, most)
    order = list(itertools.chain(*batches))
    assert sorted(order) == list(range(len(rows)))
    assert all(len(batch) == most for batch in batches[:-1])
    assert all(0 < len(batch) <= most for batch in batches[-1:])
    for told in ([len(prompts[row]) for row in order], [prompts[row] for row in order], [(prompts[row], changes[row]) for row in order]):
        assert len([key for key, _ in itertools.groupby(told)]) == len(set(told))  # each stands in one stretch
    lengths = [len(prompts[row]) for row in order]
    assert lengths == sorted(lengths)


def test_rows_that_differ_from_the_response_on_read_their_prompt_once() -> None:
    model = tiny_model()
    with passes(model) as shapes:
        sweep(model, steered(12), asked(), 1, greedy(3, batch_rows=24), 0)
    decoding = [rows for rows, columns in shapes if columns == 1]
    prefill = [rows for rows, columns in shapes if columns > 1]
    assert decoding == [24] * 6  # two full batches
    assert prefill == [1, 2] * 2  # what both prompts begin with, then both prompts


def test_rows_whose_prompt_is_edited_share_it_only_with_their_own() -> None:
    model = tiny_model()
    conditions = [
        Condition("all", edits()[2]),
        Condition("response", edits()[0]),
        Condition("plain"),
        Condition("both", (edits()[0], edits()[2])),
    ]
    with passes(model) as shapes:
        sweep(model, conditions, asked(1), 5, greedy(2), 0)
    assert [rows for rows, columns in shapes if columns == 1] == [20, 20]
    assert [rows for rows, columns in shapes if columns > 1] == [2]  # edited by the same one, or not at all


# memory


@contextmanager
def room_for(
    model: LanguageModel, rows: int, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("CUDA out of memory.")
) -> Iterator[list[int]]:
    """A pass over more than `rows` rows runs out of memory; yields the rows of those that did."""
    failed: list[int] = []

    def check(_module: Any, args: Any) -> None:
        if len(args[0]) > rows:
            failed.append(len(args[0]))
            raise error()

    handle = model.blocks[1].register_forward_pre_hook(check)
    try:
        yield failed
    finally:
        handle.remove()


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Callable[[], Exception], tmp_path: Path) -> None:
    model = tiny_model()
    conditions = [*steered(5), Condition("all", edits()[2])]
    sampling = SamplingConfig(max_new_tokens=4, batch_rows=20)
    with ids_as_text(model):
        whole = sweep(model, conditions, asked(), 2, sampling, 0, folder=tmp_path / "whole")
        with room_for(model, 6, error) as failed, pytest.warns(RuntimeWarning) as told:
            halved = sweep(model, conditions, asked(), 2, sampling, 0, folder=tmp_path / "halved")
    pd.testing.assert_frame_equal(halved, whole)
    assert kept(tmp_path / "halved") == kept(tmp_path / "whole")  # a halved batch is still one part
    assert failed == [20, 10]  # once a size: what follows begins with the size that fits
    assert [str(warning.message) for warning in told] == [
        "Memory ran out with 20 rows in a batch; the sweep continues with 10, and halves that as often as it must. "
        "Set batch_rows to 10 to begin so."
    ]
    assert told[0].filename == __file__
    assert model.prompt_signatures is None
    assert model.positions is None


def test_memory_that_runs_out_late_halves_what_is_left(tmp_path: Path) -> None:
    model = tiny_model()
    sampling = SamplingConfig(max_new_tokens=4, batch_rows=8)
    whole = sweep(model, steered(6), asked(), 1, sampling, 0)
    with pytest.raises(Killed):
        sweep(model, steered(6), asked(), 1, sampling, 0, kill_after(1), tmp_path)
    with room_for(model, 4) as failed, pytest.warns(RuntimeWarning, match="8 rows in a batch; the sweep continues with 4"):
        left = sweep(model, steered(6), asked(), 1, sampling, 0, folder=tmp_path)
    pd.testing.assert_frame_equal(left, whole)
    assert failed == [8]


def test_no_memory_for_one_row_is_a_sentence() -> None:
    model = tiny_model()
    with room_for(model, 0) as failed, pytest.warns(RuntimeWarning), pytest.raises(ModelError, match="not suffice for a single row"):
        sweep(model, steered(2), asked(), 1, greedy(2, batch_rows=3), 0)
    assert len(failed) == 3  # batches of 3, 2 and 1
    assert model.prompt_signatures is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_taken_for_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_another_error_passes_through() -> None:
    model = tiny_model()
    with room_for(model, 2, lambda: RuntimeError("sizes must match")) as failed, pytest.raises(RuntimeError, match="sizes must match"):
        sweep(model, steered(2), asked(), 1, greedy(2), 0)
    assert len(failed) == 1
