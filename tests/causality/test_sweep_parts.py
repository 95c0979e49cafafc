"""Sweeps on disk: a killed one goes on and is the same to the byte, and nothing else is taken for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from interp.causality.sweep import Condition, sweep
from interp.core.errors import ArtifactError
from interp.core.files import read_json, write_json
from interp.models.language_model import LanguageModel
from interp.models.sampling import SamplingConfig
from tests.helpers.small_sweeps import Killed, asked, edits, kept, kill_after, passes
from tests.helpers.tiny import tiny_model

SMALL = SamplingConfig(max_new_tokens=6, batch_rows=7)


def small(model: LanguageModel, folder: Path | None, progress: Callable[[int], None] | None = None, **changes: Any) -> pd.DataFrame:
    conditions = [Condition("plain"), *(Condition(str(n), edit) for n, edit in enumerate(edits()))]
    given = {"conditions": conditions, "questions": asked(), "samples": 2, "sampling": SMALL, "seed": 3} | changes
    return sweep(model, progress=progress, folder=folder, **given)


def test_an_interrupted_sweep_goes_on_and_is_the_same_to_the_byte(tmp_path: Path) -> None:
    model = tiny_model()
    in_memory = small(model, None)
    seen, marks = [], []
    with passes(model) as all_passes:
        whole = small(model, tmp_path / "whole", lambda rows: (seen.append(rows), marks.append(len(all_passes))))  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(whole, in_memory)
    assert seen == [7, 7, 7, 7, 4]
    assert list(kept(tmp_path / "whole")) == [*(f"part-{i:05d}.parquet" for i in range(5)), "plan.json"]
    for done, goes_on in ((1, model), (3, tiny_model()), (5, model)):
        folder = tmp_path / str(done)
        with pytest.raises(Killed):
            small(model, folder, kill_after(done))
        assert sum(name.startswith("part") for name in kept(folder)) == done
        seen.clear()
        with passes(goes_on) as shapes:
            resumed = small(goes_on, folder, seen.append)
        assert shapes == all_passes[marks[done - 1] :]  # finished batches are not asked again
        assert seen == [7, 7, 7, 7, 4]
        pd.testing.assert_frame_equal(resumed, in_memory)
        assert kept(folder) == kept(tmp_path / "whole")


def test_a_kill_within_a_batch_loses_that_batch_alone(tmp_path: Path) -> None:
    model = tiny_model()
    whole = small(model, tmp_path / "whole")

    def die(_module: Any, args: Any) -> None:
        shapes.append(args[0].shape)
        if len(shapes) == 20:
            raise Killed

    shapes: list[Any] = []
    handle = model.blocks[1].register_forward_pre_hook(die)
    with pytest.raises(Killed):
        small(model, tmp_path / "killed")
    handle.remove()
    left = kept(tmp_path / "killed")
    assert "part-00001.parquet" in left
    assert "part-00003.parquet" not in left
    assert not any("partial" in name for name in left)
    (tmp_path / "killed" / "part-00003.parquet.partial").write_bytes(b"half of it")  # as a kill while writing leaves it
    pd.testing.assert_frame_equal(small(model, tmp_path / "killed"), whole)
    assert kept(tmp_path / "killed") == kept(tmp_path / "whole")


def test_parts_are_the_rows_of_the_table(tmp_path: Path) -> None:
    table = small(tiny_model(), tmp_path)
    parts = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("part-*.parquet"))]).sort_values("row")
    assert list(parts["row"]) == list(table.index)
    for column in table:
        assert list(parts[column]) == list(table[column])


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    small(model, tmp_path)
    before = kept(tmp_path)
    conditions = [Condition("plain"), *(Condition(str(n), edit) for n, edit in enumerate(edits()))]
    other_dose = replace(edits()[0], vectors=edits()[0].vectors * 1.01)
    renamed = LanguageModel(model.network, model.tokenizer, "another source")
    for differs, other, changes in (
        ("seed", model, {"seed": 4}),
        ("sampling", model, {"sampling": SMALL.model_copy(update={"temperature": 0.9})}),
        ("sampling, batches", model, {"sampling": SMALL.model_copy(update={"batch_rows": 8})}),
        ("samples, batches", model, {"samples": 3}),
        ("questions, prompts, batches", model, {"questions": asked()[::-1]}),
        ("conditions, batches", model, {"conditions": conditions[:3]}),
        ("conditions", model, {"conditions": [conditions[0], Condition("0", other_dose), *conditions[2:]]}),
        ("conditions", model, {"conditions": [Condition("another name"), *conditions[1:]]}),
        ("conditions, batches", model, {"conditions": [Condition("plain", samples=1), *conditions[1:]]}),
        ("model", tiny_model(1), {}),
        ("model", renamed, {}),
    ):
        with pytest.raises(ArtifactError, match=f"holds another sweep; what differs: {differs}. Use another folder"):
            small(other, tmp_path, **changes)
    assert kept(tmp_path) == before
    relabelled = [conditions[0], Condition("0", replace(edits()[0], label="does the same")), *conditions[2:]]
    small(model, tmp_path, conditions=relabelled)  # a label is no part of what is done
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace("assistant", "user")
    with pytest.raises(ArtifactError, match="what differs: prompts"):
        small(model, tmp_path)


def test_folders_that_cannot_be_gone_on_with_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    small(model, tmp_path / "a")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "a", tmp_path / name))

    (copy("no plan") / "plan.json").unlink()
    with pytest.raises(ArtifactError, match=r"without its plan.json"):
        small(model, tmp_path / "no plan")
    write_json(copy("altered") / "plan.json", read_json(tmp_path / "a" / "plan.json") | {"key": "x"})
    with pytest.raises(ArtifactError, match="what differs: its key"):
        small(model, tmp_path / "altered")
    (copy("damaged") / "part-00002.parquet").write_bytes(b"PAR1 and no more")
    (copy("lost column") / "part-00002.parquet").write_bytes(b"")
    pd.DataFrame({"row": [1]}).to_parquet(tmp_path / "lost column" / "part-00002.parquet")
    copy("swapped")
    shutil.copy(tmp_path / "a" / "part-00000.parquet", tmp_path / "swapped" / "part-00002.parquet")
    for name in ("damaged", "lost column", "swapped"):
        with pytest.raises(ArtifactError, match=r"part-00002.parquet is damaged: .*Delete it and run again"):
            small(model, tmp_path / name)
        (tmp_path / name / "part-00002.parquet").unlink()
        small(model, tmp_path / name)
        assert kept(tmp_path / name) == kept(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="choose another folder"):
        small(model, tmp_path / "file")


def test_a_part_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_table: pd.DataFrame, path: Path, **_options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(ArtifactError, match=r"Cannot write .*part-00000.parquet: No space left on device. Free some space"):
        small(tiny_model(), tmp_path)
    assert list(kept(tmp_path)) == ["plan.json"]
