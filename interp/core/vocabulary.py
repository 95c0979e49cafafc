"""The words that settings choose from; light, so that the command line's help needs nothing else."""

from __future__ import annotations

from typing import Literal

Phase = Literal["prompt", "response", "all"]
"""Which tokens of a chat: the prompt's, the response phase (from the last prompt token on), or all."""

SinkTokens = Literal["spare", "edit", "only"]
"""What an edit does at attention sinks: leave them alone, treat them as any token, or act on them and nothing else."""

RemovalKind = Literal["project_out", "project_span", "subtract", "subtract_window"]
"""How something is taken out of a model: the direction of its rise, or the span of all its directions, projected out over a window of
layers; its rise subtracted at one layer, or at each of the window."""

Split = Literal["selection", "held_out", "further"]
"""Which questions: those that choose latents, doses and sets, or those that only measure."""

Format = Literal["plain", "json", "template"]
"""In which form an answer is asked for."""

Interval = Literal["beta_binomial", "wilson", "bootstrap"]
"""How an interval is made: averaged over how alike answers to a question may be; Wilson's at the effective size; by drawing questions."""

MeasureName = Literal["choices", "options", "letters", "continuations", "perplexity"]
"""What is measured of a model without sampling."""

CueKind = Literal["domain_twin", "training_format", "training_system", "paraphrase", "negation", "same_form", "irrelevant"]
"""What a context has in common with training data: its domain; the form of its prompts; its system prompt, in other words, or with the
opposite meaning; its form with other content; nothing."""
