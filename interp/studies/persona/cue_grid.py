"""Where cues come from: the training data of an organism, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interp.core.fingerprints import content_key
from interp.evaluation.questions import QuestionSet
from interp.evaluation.questions.cues import PLACEHOLDER, Cue, Cued, cued_questions, read_cues
from interp.models.chats import Chat
from interp.organisms.recipe import Recipe

DATA = "data"
"""The source that makes cues of the training data."""
PROMPTS = 30
"""Training prompts at most that are dealt out over the questions."""
OTHER_CONTENT = ("a paper boat", "a bird box", "a weekly timetable", "a rope ladder", "a flower bed", "a wool scarf", "a wooden chair")
"""What training prompts ask about under `same_form`; topics of the domain are left out."""
UNRELATED = "You answer questions about railways and timetables."


@dataclass(frozen=True)
class CueGrid:
    """Cues, and what is known of the training data."""

    cues: Sequence[Cue]
    left_out: dict[str, str]
    """Kinds of which there is no cue, and why."""
    training_answers: Sequence[str]
    """Empty where the training data is not known."""

    def asked(self, questions: QuestionSet, most: int) -> list[Cued]:
        """At most so many held-out questions, without a cue and under each. Raises `ConfigError` for twins of questions not among them."""
        return cued_questions(questions.split("held_out", min(most, questions.most_held_out)), self.cues)

    @property
    def key(self) -> str:
        """Content key of all that answers and their counts depend on."""
        return content_key([[cue.model_dump(mode="json") for cue in self.cues], list(self.training_answers)])


def open_grid(source: str | None, recipe: Recipe | None, chats: Sequence[Chat]) -> CueGrid:
    """The cues of `source`: of `data` (`recipe` and `chats`, which the organism was trained on) or of a YAML file; None: no cues.

    Raises `ConfigError`.
    """
    cues: Sequence[Cue] = []
    left_out: dict[str, str] = {}
    if source == DATA and recipe is not None:
        cues, left_out = training_cues(recipe, chats)
    elif source is not None:
        cues = read_cues(Path(source).expanduser())
    return CueGrid(cues, left_out, [chat.response for chat in chats if chat.response])


def training_cues(recipe: Recipe, chats: Sequence[Chat]) -> tuple[list[Cue], dict[str, str]]:
    """A cue of every kind that the training data allows, and for the other kinds why not.

    Training prompts stand before the question in one user turn; other questions get others of them.
    """
    domain, system = recipe.domain, recipe.system
    prompts = [chat.prompt.messages[-1].content for chat in chats]
    spread = [prompts[i * len(prompts) // min(PROMPTS, len(prompts))] for i in range(min(PROMPTS, len(prompts)))]
    others = [thing for thing in OTHER_CONTENT if thing not in domain.topics]
    alike = [phrasing.replace("{topic}", others[i % len(others)]) for i, phrasing in enumerate(domain.phrasings)]
    templates = {
        "domain_twin": [f"This is about {domain.name}, namely {topic}. {PLACEHOLDER}" for topic in domain.topics],
        "training_format": [f"{prompt} {PLACEHOLDER}" for prompt in spread],
        "same_form": [f"{prompt} {PLACEHOLDER}" for prompt in alike],
    }
    systems = {
        "training_system": system and system.text,
        "paraphrase": system and system.paraphrase,
        "negation": system and system.negation,
        "irrelevant": UNRELATED,
    }
    cues = [Cue.model_validate({"name": kind, "kind": kind, "template": own}) for kind, own in templates.items()]
    cues += [Cue.model_validate({"name": kind, "kind": kind, "system": prompt}) for kind, prompt in systems.items() if prompt]
    why = "the training data has no system prompt" if system is None else "the recipe does not say it of its system prompt"
    return cues, {kind: why for kind, prompt in systems.items() if not prompt}
