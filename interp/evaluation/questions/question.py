"""One question."""

from __future__ import annotations

from pydantic import Field

from interp.core.config import StepConfig
from interp.core.vocabulary import Format, Split
from interp.models.chats import Chat


class Question(StepConfig):
    """One question."""

    id: str
    group: str
    split: Split
    """`selection` questions choose latents, doses and sets; `held_out` ones only measure."""
    text: str = Field(min_length=1)
    system: str = ""
    """System prompt; empty: whatever the model's template has by itself."""
    format: Format = "plain"
    """In which form an answer is asked for."""
    facts: list[str] = Field(default_factory=list)
    """Any of these in an answer makes it true; empty: not checkable."""

    cluster: str = ""
    """Questions of one name here count as one, as wordings, formats and system prompts of it do; empty: the question alone."""

    @property
    def counts_as(self) -> str:
        """Name of what its answers are alike by."""
        return self.cluster or self.id

    def chat(self) -> Chat:
        """The question as a prompt."""
        return Chat.ask(self.text, system=self.system or None)
