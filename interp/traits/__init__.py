"""Traits: what a persona is, as folders of data. Nothing here runs a model."""

from interp.traits.trait import DEFAULT_TRAIT, Elicitation, Exemplars, JudgeSettings, Pair, Trait, read_trait, shipped_traits

__all__ = ["DEFAULT_TRAIT", "Elicitation", "Exemplars", "JudgeSettings", "Pair", "Trait", "read_trait", "shipped_traits"]
