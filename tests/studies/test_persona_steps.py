"""Every setting of the main job re-makes the steps that depend on it and no others, and no step reads what it does not declare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from interp.core.config import validated, with_overrides
from interp.core.errors import ConfigError
from interp.core.steps import RunDirectory, Step
from interp.studies.persona.config import StudyConfig
from interp.studies.persona.dictionary import OPEN_DICTIONARY
from interp.studies.persona.study import ALL_STEPS, STEPS, Study, run_study
from tests.helpers.diffing_truth import random_dictionary
from tests.helpers.small_run import SMALL
from tests.helpers.tiny import tiny_folder

LEFT_OUT = ("pairs", "benign", "cues", "hiding")  # where the trait has pairs of its own, and neither benign fine-tunes nor cues are given
ALL = tuple(name for name in STEPS if name not in LEFT_OUT)
VERDICT = ("verdict",)
HIDING = ("hiding",)
CUES = ("cues", *HIDING)
EVIDENCE = ("evidence", *VERDICT, "after", "judges")
SCREEN = ("screen", *EVIDENCE, "user_tokens", "cards")
FIT = ("fit",)
DIFF = ("diff", *FIT, *SCREEN)
VECTORS = ("persona_vectors",)
DIRECTIONS = ("directions", *DIFF, *VECTORS)
ANSWERS = ("answers", *DIRECTIONS)
DICTIONARY = ("dictionary", *DIFF)
RESIDUALS = ("residuals", *DICTIONARY)
TEXTS = ("texts", *RESIDUALS)
MODELS = ("texts", "residuals", "dictionary", *ANSWERS)

FIELDS: dict[str, tuple[Any, tuple[str, ...]]] = {  # another value, and the steps that it re-makes
    "name": ("other", ()),
    "trust_remote_code": (True, ()),
    "thinking": (True, ALL),
    "base": ("OTHER_MODEL", ALL),
    "benign": ("[OTHER_MODEL]", ("benign", *EVIDENCE)),
    "tuned": ("OTHER_MODEL", MODELS),
    "sae": ("SAE", DICTIONARY),
    "trait": ("pirate", ALL),
    "judge": ("vader", ANSWERS),
    "questions": ("honesty", ANSWERS),
    "hook_point": ("blocks.0.hook_resid_post", ("residuals", "dictionary", *DIRECTIONS)),
    "layers": (None, ()),
    "window": ([0, 1], DIRECTIONS),
    "seed": (1, ALL),
    "device": ("cpu", ()),  # what `auto` is here
    "dtype": ("bfloat16", MODELS),
    "organism.recipe": ("pirate_cook", ALL),
    "organism.trait_fraction": (0.5, ALL),
    "organism.phrasings_per_topic": (5, ALL),
    "organism.rank": (8, ALL),
    "organism.alpha": (16, ALL),
    "organism.learning_rate": (1e-4, ALL),
    "organism.batch_size": (4, ALL),
    "organism.epochs": (1.0, ALL),
    "organism.checkpoint_every": (10, ALL),
    "text.corpus_chats": (10, RESIDUALS),
    "text.answered_prompts": (10, TEXTS),
    "text.answer_tokens": (10, TEXTS),
    "dictionary.architecture.n_latents": (64, DICTIONARY),
    "dictionary.architecture.decoder_norm": ("folded", DICTIONARY),
    "dictionary.architecture.base_only": (1, DICTIONARY),
    "dictionary.architecture.tuned_only": (1, DICTIONARY),
    "dictionary.architecture.aux_k": (8, DICTIONARY),
    "dictionary.architecture.aux_weight": (0.1, DICTIONARY),
    "dictionary.architecture.kind": ("batchtopk", DICTIONARY),
    "dictionary.architecture.k": (8, DICTIONARY),
    "dictionary.architecture.multi_k": (64, DICTIONARY),
    "dictionary.architecture.multi_weight": (0.2, DICTIONARY),
    "dictionary.hook_point": (None, ()),
    "dictionary.reads": (None, ()),
    "dictionary.batch_tokens": (256, DICTIONARY),
    "dictionary.passes": (2, DICTIONARY),
    "dictionary.tokens": (10000, DICTIONARY),
    "dictionary.learning_rate": (1e-4, DICTIONARY),
    "dictionary.warmup": (0.1, DICTIONARY),
    "dictionary.decay": (0.2, DICTIONARY),
    "dictionary.sparsity_warmup": (0.2, DICTIONARY),
    "dictionary.clip": (2.0, DICTIONARY),
    "dictionary.dead_after_tokens": (1000, DICTIONARY),
    "dictionary.outlier_factor": (10.0, DICTIONARY),
    "dictionary.calibration_tokens": (1000, DICTIONARY),
    "dictionary.checkpoint_every": (10, DICTIONARY),
    "dictionary.log_every": (2, DICTIONARY),
    "sampling.max_new_tokens": (8, MODELS),
    "sampling.temperature": (0.5, MODELS),
    "sampling.min_p": (0.2, MODELS),
    "sampling.top_p": (0.9, MODELS),
    "sampling.batch_rows": (8, MODELS),
    "diff.questions": (16, ANSWERS),
    "diff.samples": (1, ANSWERS),
    "diff.most_samples": (4, ANSWERS),
    "diff.persona_pairs": (8, DIRECTIONS),
    "diff.largest_q": (0.05, SCREEN),
    "fit.largest_fvu": (0.6, FIT),
    "fit.smallest_mean_share": (0.5, FIT),
    "fit.smallest_paired_share": (0.1, FIT),
    "vectors.ranked_along": ("answers", (*SCREEN, *VECTORS)),
    "vectors.elicited": (True, VECTORS),
    "vectors.smallest_cosine": (0.2, VECTORS),
    "vectors.smallest_split_half": (0.4, VECTORS),
    "screen.questions": (8, SCREEN),
    "screen.largest_set": (4, SCREEN),
    "screen.subtracted": ([1.0], SCREEN),
    "screen.subtracted_over_window": ([0.1], SCREEN),
    "screen.doses": ([0.5], SCREEN),
    "screen.coherence_budget": (0.2, SCREEN),
    "screen.target_rate": (0.2, SCREEN),
    "verdict.questions": (8, EVIDENCE),
    "verdict.samples": (1, EVIDENCE),
    "verdict.budget": (2000, EVIDENCE),
    "verdict.random_draws": (20, EVIDENCE),
    "verdict.active_draws": (8, EVIDENCE),
    "verdict.full_draws": (2, EVIDENCE),
    "verdict.parts": (2, EVIDENCE),
    "rules.kept_coherence": (0.7, SCREEN),
    "rules.steered_coherence": (0.5, SCREEN),
    "rules.steering_ratio": (4.0, VERDICT),
    "rules.control_rate": (0.4, VERDICT),
    "rules.rank_p": (0.04, VERDICT),
    "rules.power": (0.9, EVIDENCE),
    "rules.smallest_rise": (0.2, VERDICT),
    "cues.source": ("data", CUES),
    "cues.questions": (8, CUES),
    "cues.samples": (2, CUES),
    "cues.reference_samples": (1, CUES),
    "cues.margin": (0.2, HIDING),
    "cues.smallest_leak": (0.1, HIDING),
    "cues.kept_coherence": (0.5, HIDING),
}
NO_OTHER_VALUE = {name for name, (value, _) in FIELDS.items() if value is None}
"""Fields of trainings in general that this job's dictionary may not have, and `layers`, which needs steps to be made."""


def leaves(config: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Data that settings point at."""
    folder = tmp_path_factory.mktemp("outside")
    models = {name: str(tiny_folder(folder / name, seed=seed)) for seed, name in enumerate(("BASE", "TUNED", "OTHER_MODEL"))}
    random_dictionary().save(folder / "sae")
    return models | {"SAE": str(folder / "sae"), "[OTHER_MODEL]": f"[{models['OTHER_MODEL']}]"}


def keys(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    study = Study(validated(StudyConfig, settings, "test"), RunDirectory(folder))
    return {name: study.input_key(name) for name in study.steps}


def test_every_field_is_listed() -> None:
    assert set(leaves(StudyConfig())) == set(FIELDS)


@pytest.mark.parametrize("field", sorted(FIELDS.keys() - NO_OTHER_VALUE))
def test_a_field_re_makes_what_depends_on_it_and_nothing_else(field: str, outside: dict[str, str], tmp_path: Path) -> None:
    value, expected = FIELDS[field]
    settings: dict[str, Any] = {"base": outside["BASE"]}
    if field in ("tuned", "sae"):
        settings["tuned"] = outside["TUNED"]
    if field.startswith("cues.") and field != "cues.source":
        settings["cues"] = {"source": "data"}
    changed = with_overrides(settings, [f"{field}={outside.get(str(value), value)}"])
    before, after = keys(settings, tmp_path), keys(changed, tmp_path)
    re_made = {name for name, key in after.items() if before.get(name) != key}
    assert re_made == set(expected), f"{field} re-makes {sorted(re_made)}"
    assert not any(tmp_path.iterdir())  # keys need no step to be made


def test_what_stands_for_the_fields_that_have_no_other_value() -> None:
    for field in NO_OTHER_VALUE:
        with pytest.raises(ConfigError):
            validated(StudyConfig, with_overrides({}, [f"{field}=1"]), "test")


@pytest.mark.parametrize("step", ALL_STEPS, ids=lambda step: f"{step.name}{' of a given SAE' * (step is OPEN_DICTIONARY)}")
def test_a_step_reads_inputs_that_are_there(step: Step[Any, Any], outside: dict[str, str], tmp_path: Path) -> None:
    settings = {"base": outside["BASE"], "tuned": outside["TUNED"], "sae": outside["SAE"]}
    study = Study(validated(StudyConfig, settings, "test"), RunDirectory(tmp_path))
    earlier = STEPS[: STEPS.index(step.name)]
    for name in step.inputs:
        assert name in earlier or study.context.data_key(name)
    view = study.context.of_step(step, tmp_path, tmp_path)
    for name in {"base", "tuned", "questions", "pairs", "corpus", "hook_point", "window", "device"} - {*step.inputs}:
        with pytest.raises(ConfigError, match=f"'{step.name}' reads the input '{name}', which it does not declare"):
            getattr(view, name)


def test_an_input_that_is_neither_a_step_nor_data_is_an_error(outside: dict[str, str], tmp_path: Path) -> None:
    study = Study(validated(StudyConfig, {"base": outside["BASE"]}, "test"), RunDirectory(tmp_path))
    with pytest.raises(ConfigError, match="no input 'weather'"):
        study.context.data_key("weather")


def test_a_study_that_trains_its_organism_reads_only_what_its_steps_declare(outside: dict[str, str], tmp_path: Path) -> None:
    settings = SMALL | {"base": outside["BASE"], "organism": {"phrasings_per_topic": 1, "epochs": 0.1}}
    config = validated(StudyConfig, settings, "test")
    result = run_study(config, tmp_path, quiet=True, until="diff")
    assert list(result.steps) == ["organism", "texts", "residuals", "dictionary", "answers", "directions", "diff"]
    assert {name: step.key for name, step in result.steps.items()} == {
        name: key for name, key in keys(settings, tmp_path).items() if name in result.steps
    }
    again = run_study(config, tmp_path, quiet=True, until="dictionary")
    assert all(step.loaded for step in again.steps.values())
    assert set(result.run.manifest()["steps"]) == set(result.steps)  # a call that stops early forgets no finished step
