"""What a notebook does after `import interp`: the five most usual tasks, each in three lines at most."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import interp
from interp.core.errors import PersonascopeError
from tests.helpers.small_run import SMALL, small_run, use_letter_judge
from tests.helpers.tiny import tiny_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    small_run(folder)
    return folder


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    use_letter_judge(monkeypatch)


def test_open_and_chat(folder: Path) -> None:
    model = interp.open_model(str(folder / "base"))
    answer = interp.generate(model, "Why is the sky blue?", max_new_tokens=5)
    assert isinstance(answer, str)
    assert answer == interp.generate(model, ["Why is the sky blue?"], max_new_tokens=5)[0]


def test_latent_activations_of_a_text(folder: Path) -> None:
    run = interp.load_run(folder / "run")
    latents = run.token_latents("Why is the sky blue?")
    assert len(latents.to_frame()) > 0
    assert "".join(latents.tokens) == "Why is the sky blue?"


def test_what_changed(folder: Path) -> None:
    run = interp.diff(base=str(folder / "base"), tuned=str(folder / "tuned"), out=folder / "run", quiet=True, **SMALL)
    assert len(run.changed_latents) == 8
    assert run.changed_latents["mean_diff"].is_monotonic_decreasing
    assert "mean_diff" in run._repr_html_()
    assert "mean_diff" in repr(run)


def test_steer_or_ablate_with_scores(folder: Path) -> None:
    run = interp.load_run(folder / "run")
    steered = run.steer(latent=3, dose=0.5, prompts=["Why?"])
    ablated = interp.ablate(folder / "run", latents=[3], prompts=["Why?"])
    for result, names in ((steered, ["base", "steered"]), (ablated, ["tuned", "ablated"])):
        assert [*result.rates["condition"]] == names
        assert {"trait_score", "coherence"} <= set(result.answers)
        assert all(name in result._repr_html_() and name in str(result) for name in names)
        assert str(result.step.folder) in str(result)


def test_evaluate_two_models(folder: Path) -> None:
    models = [str(folder / "base"), str(folder / "tuned")]
    result = interp.evaluate(models=models, judge="vader", sampling={"max_new_tokens": 4}, out=folder / "evaluation", quiet=True)
    assert [*result.rates["model"].unique()] == models
    assert "AUROC" in result._repr_html_()


def test_wrong_names_are_sentences(folder: Path) -> None:
    with pytest.raises(AttributeError, match="It offers: "):
        _ = interp.stear
    with pytest.raises(PersonascopeError, match="unknown field 'doze'"):
        interp.load_run(folder / "run").steer(latent=3, doze=0.5)
    with pytest.raises(PersonascopeError, match=r"has no summary yet. Finish it: run.bring_to\('judges'\)"):
        _ = interp.load_run(folder / "run").summary
    with pytest.raises(PersonascopeError, match="max_tokens"):
        interp.generate(interp.open_model(str(tiny_folder(folder / "third"))), "Why?", max_tokens=3)


@pytest.mark.parametrize("name", ["steer", "ablate", "sweep", "find_persona", "diff", "evaluate", "compare", "train_sae"])
def test_signatures_name_the_settings(name: str) -> None:
    parameters = inspect.signature(getattr(interp, name)).parameters
    assert "config" not in parameters
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    fields = {"steer": "dose", "ablate": "latents", "sweep": "doses", "compare": "sources", "train_sae": "dictionary"}
    assert fields.get(name, "base") in parameters


def test_every_name_is_there_and_the_import_is_light() -> None:
    assert all(getattr(interp, name) is not None for name in interp.__all__)
    code = "import sys, interp; dir(interp); print([name for name in ('torch', 'pandas', 'pydantic') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
