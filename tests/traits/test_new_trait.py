"""The folder that `trait new` writes is read without error, explains every field, and says that its examples are to be replaced."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import yaml

from interp.core.config import StepConfig
from interp.core.errors import ArtifactError, ConfigError
from interp.traits import Elicitation, JudgeSettings, Trait, read_trait, shipped_traits
from interp.traits.new import TEMPLATE, new_trait
from interp.traits.rules import Rule, Rules
from interp.traits.trait import CoherenceSettings


def test_a_new_trait_is_read_as_it_was_written(tmp_path: Path) -> None:
    trait = read_trait(new_trait("shy_one", tmp_path / "mine" / "shy"))
    assert trait.name == "shy_one"
    assert trait.folder == tmp_path / "mine" / "shy"
    assert len(trait.pairs) == 2
    assert trait.exemplars is None
    assert trait.labels.empty
    assert {"question", "answer", "shows_trait", "coherent"} < set(trait.labels)
    assert trait.judge.rule is not None
    assert trait.elicitation is not None


@pytest.mark.parametrize("config", [Trait, JudgeSettings, CoherenceSettings, Elicitation, Rules, Rule])
def test_the_template_explains_every_field(config: type[StepConfig]) -> None:
    text = (resources.files("interp.traits") / TEMPLATE / "trait.yaml").read_text()
    for field in config.model_fields:
        assert f"{field}:" in text


def test_commented_fields_of_the_template_are_fields_with_their_defaults(tmp_path: Path) -> None:
    """A value that is commented out is the default, or an example of a field that has none."""
    text = (resources.files("interp.traits") / TEMPLATE / "trait.yaml").read_text()
    for config, indent in ((Trait, ""), (JudgeSettings, "  "), (CoherenceSettings, "  ")):
        for name, field in config.model_fields.items():
            line = next((line for line in text.splitlines() if line.startswith(f"{indent}# {name}: ")), None)
            if line is not None and field.default is not None:
                assert yaml.safe_load(line.strip().removeprefix("# "))[name] == field.default


def test_the_template_is_no_shipped_trait() -> None:
    assert TEMPLATE not in shipped_traits()


@pytest.mark.parametrize("name", ["Shy", "1st", "a-b", "", "../x"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a trait"):
        new_trait(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = new_trait("shy", tmp_path / "shy")
    (folder / "pairs.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        new_trait("shy", folder)
    assert (folder / "pairs.yaml").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is there already"):
        new_trait("shy", tmp_path / "file")
    with pytest.raises(ArtifactError, match="Cannot write"):
        new_trait("shy", tmp_path / "file" / "below")
