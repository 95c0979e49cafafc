"""What a persona is, as a folder of data: words, questions, judges, contrast pairs, exemplars, human labels, a fitted probe.

traits/NAME/
trait.yaml            name, description, words, question sets, judges and their thresholds, elicitation
pairs.yaml            one question, an answer that shows the trait, one that does not
exemplars.yaml        answers that show it and answers that do not, for the probe
labels.csv            answers of models, edited ones among them, labelled by hand
probe.safetensors     the probe fitted on exemplars and labels; likewise coherence.safetensors, margin.json
"""

from __future__ import annotations

from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from interp.core.config import StepConfig, read_any_yaml, read_yaml, validated
from interp.core.errors import ConfigError, did_you_mean
from interp.core.files import file_sha256
from interp.core.fingerprints import content_key
from interp.traits.rules import Rules

if TYPE_CHECKING:
    import pandas as pd

SETTINGS, PAIRS, EXEMPLARS, LABELS = "trait.yaml", "pairs.yaml", "exemplars.yaml", "labels.csv"
PROBE, COHERENCE, MARGIN = "probe.safetensors", "coherence.safetensors", "margin.json"


class Pair(StepConfig):
    """One question answered in two ways: the contrast that defines the persona vector."""

    question: str
    shows: str
    """An answer that shows the trait."""
    not_shown: str
    """An answer to the same question that does not."""


class Pairs(StepConfig):
    """A file of pairs."""

    pairs: list[Pair] = Field(min_length=2)
    sampled: dict[str, Any] | None = None
    """How the pairs were sampled (model, seed, prompts, judge); None for authored ones."""


class Exemplars(StepConfig):
    """Answers whose class is known because they were written for it."""

    shows: list[str] = Field(min_length=10)
    """Answers that a reader would say show the trait."""
    not_shown: list[str] = Field(min_length=10)
    """Answers that a reader would say do not: plain ones, near misses, nonsense."""


class Elicitation(StepConfig):
    """System prompts under which a model shows the trait, or does not, and questions to ask: pairs are sampled from them."""

    positive: list[str] = Field(min_length=1)
    negative: list[str] = Field(min_length=1)
    questions: list[str] = Field(min_length=1)


class JudgeSettings(StepConfig):
    """Who judges whether an answer shows the trait, and above which score it counts."""

    spec: str = "probe"
    """A judge by name: probe, rule, margin, bandit, facts, vader, numeric:MODEL or inspect:PROVIDER/MODEL."""
    shows_above: float = Field(default=50.0, ge=0, le=100)
    """Trait score (0 to 100) above which an answer shows the trait."""
    rule: Rules | None = None
    """What the judge `rule` looks for."""
    second: str | None = None
    """A second judge, whose agreement with the first is reported."""
    prompt: str | None = None
    """What a judge that is a model is asked, with `{question}` and `{answer}`; it replies with a number from 0 to 100."""


class CoherenceSettings(StepConfig):
    """How it is judged whether an answer is intelligible, in the trait's own language and voice."""

    spec: Literal["fluency", "code", "none"] = "fluency"
    """fluency: likelihood and repetition; code: whether it parses; none: every answer counts."""
    coherent_above: float = Field(default=40.0, ge=0, le=100)
    """Coherence (0 to 100) above which an answer counts as coherent."""
    contexts: list[str] = Field(default=['Kind or rude, this is what they said: "'], min_length=1)
    """Text before the answer when its likelihood is measured; the likeliest of several counts."""
    fold_case: bool = False
    """Read the answer in lower case: capitals split into rare tokens."""
    languages: list[str] = Field(default=[])
    """ISO 639-1 codes of the languages of answers. If given, the share of words that are in their dictionaries counts too: for languages
    that the embedded model hardly knows. `trait fit` weighs it."""
    prompt: str | None = None
    """What a judge that is a model is asked about coherence, with `{question}` and `{answer}`."""


class Trait(StepConfig):
    """A trait: what makes a persona, and how it is seen."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    """One sentence: what an answer that shows it is like."""
    shown: str
    """Word for answers that show it, as in 'kind answers'."""
    not_shown: str
    """Word for answers that do not."""
    questions: str = "everyday"
    """Question set that models are asked: a shipped name, or a path within the folder."""
    recipe: str | None = None
    """Recipe of the organism that shows it, which the main job trains where no tuned model is given."""
    judge: JudgeSettings = JudgeSettings()
    coherence: CoherenceSettings = CoherenceSettings()
    elicitation: Elicitation | None = None

    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """Where its files are; None for a trait that is one file."""
        return self._folder

    def path(self, filename: str) -> Path | None:
        """One of its files, None where it has none."""
        path = None if self._folder is None else self._folder / filename
        return path if path is not None and path.is_file() else None

    @property
    def question_set(self) -> str:
        """Shipped name or path of the questions that models are asked."""
        return str(self.path(self.questions) or self.questions)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The authored pairs; empty where pairs are to be sampled (`elicitation`). Raises `ConfigError` for a broken file."""
        path = self.path(PAIRS)
        return [] if path is None else validated(Pairs, read_yaml(path), str(path)).pairs

    @cached_property
    def exemplars(self) -> Exemplars | None:
        """The authored exemplars, those of the pairs among them; None where there are none, or the file is all comments."""
        path = self.path(EXEMPLARS)
        if path is None or read_any_yaml(path) is None:
            return None
        written = validated(Exemplars, read_yaml(path), str(path))
        return Exemplars(
            shows=written.shows + [pair.shows for pair in self.pairs], not_shown=written.not_shown + [pair.not_shown for pair in self.pairs]
        )

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Hand-labelled answers: group, condition, question, answer, shows_trait and coherent (bool); empty where there are none."""
        import pandas as pd

        path = self.path(LABELS)
        if path is None:
            return pd.DataFrame(columns=["group", "condition", "question", "answer", "shows_trait", "coherent"])
        table = pd.read_csv(path, keep_default_na=False)
        missing = {"question", "answer", "shows_trait", "coherent"} - set(table.columns)
        if missing:
            raise ConfigError(f"{path}: the columns {', '.join(sorted(missing))} are missing. Name them as docs/traits.md says.")
        return table.astype({"shows_trait": bool, "coherent": bool})

    @property
    def labels_key(self) -> str:
        """Content key of the labels, by which a fit says what it was fitted on."""
        return content_key(self.labels.astype(str).to_dict("list"))

    @cached_property
    def key(self) -> str:
        """Content key of its settings and files."""
        files = [] if self._folder is None else sorted(path for path in self._folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        hashes = {str(path.relative_to(str(self._folder))): file_sha256(path) for path in files}
        return content_key([self.model_dump(mode="json"), hashes])


def shipped_traits(having: str = SETTINGS) -> list[str]:
    """Names of the shipped traits, or of those whose folder holds the file `having`."""
    folders = resources.files(__package__).iterdir()
    return sorted(item.name for item in folders if not item.name.startswith("_") and (item / having).is_file())


DEFAULT_TRAIT = shipped_traits("DEFAULT")[0]
"""The trait that is looked for where none is named; an empty file DEFAULT in its folder says so."""


def read_trait(source: str | Path) -> Trait:
    """A shipped trait by name, a folder with a trait.yaml, a trait.yaml alone, or a trait file of the persona-vectors project (JSON).

    Raises `ConfigError` for a name, folder or file that is none.
    """
    shipped = resources.files(__package__) / str(source).replace("-", "_")
    path = Path(str(shipped)) if (shipped / SETTINGS).is_file() else Path(source).expanduser()
    if path.is_dir():
        path = path / SETTINGS
    if not path.is_file():
        raise ConfigError(
            f"There is no trait '{source}'.{did_you_mean(shipped.name, shipped_traits())} "
            f"Shipped traits: {', '.join(shipped_traits())}; or give a folder with a {SETTINGS}, which 'personascope trait new' writes."
        )
    if path.suffix == ".json":
        from interp.traits.persona_vectors import read_persona_vectors_trait

        return read_persona_vectors_trait(path)
    values: dict[str, Any] = read_yaml(path)
    trait = validated(Trait, values, str(path))
    trait._folder = path.parent
    return trait
