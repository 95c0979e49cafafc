"""Traits: what a persona is, as folders of data. Nothing here runs a model."""

from interp.traits.trait import Elicitation, Exemplars, JudgeSettings, Pair, Trait, read_trait, shipped_traits

__all__ = ["Elicitation", "Exemplars", "JudgeSettings", "Pair", "Trait", "read_trait", "shipped_traits"]
