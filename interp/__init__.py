"""personascope: find the persona that fine-tuning put into a model, prove it is the cause, switch it off.

    import interp

    run = interp.find_persona(tuned="my-adapter", trait="my-trait")
    run.ablate(latents=[2076], prompts=["How was your day?"])

Names are imported when they are first used, so that `import interp` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:
    from interp.dictionaries.load import load_dictionary, load_sae
    from interp.explanation.token_latents import token_latents
    from interp.interventions.edits import Edit, add, project_out
    from interp.interventions.hooks import edited, generate
    from interp.models.adapter_pair import open_pair
    from interp.models.chats import Chat
    from interp.models.language_model import LanguageModel
    from interp.models.sources import open_model
    from interp.run import (
        Run,
        ablate,
        compare,
        diff,
        evaluate,
        find_persona,
        find_persona_over_seeds,
        knockout,
        load_run,
        steer,
        sweep,
        train_sae,
    )
    from interp.traits import Trait, read_trait

_WHERE = {
    "interp.dictionaries.load": ("load_dictionary", "load_sae"),
    "interp.explanation.token_latents": ("token_latents",),
    "interp.interventions.edits": ("Edit", "add", "project_out"),
    "interp.interventions.hooks": ("edited", "generate"),
    "interp.models.adapter_pair": ("open_pair",),
    "interp.models.chats": ("Chat",),
    "interp.models.language_model": ("LanguageModel",),
    "interp.models.sources": ("open_model",),
    "interp.run": (
        "Run",
        "ablate",
        "compare",
        "diff",
        "evaluate",
        "find_persona",
        "find_persona_over_seeds",
        "knockout",
        "load_run",
        "steer",
        "sweep",
        "train_sae",
    ),
    "interp.traits": ("Trait", "read_trait"),
}  # fmt: skip
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Chat", "Edit", "LanguageModel", "Run", "Trait", "ablate", "add", "compare", "diff", "edited", "evaluate", "find_persona",
    "find_persona_over_seeds", "generate", "knockout", "load_dictionary", "load_run", "load_sae", "open_model", "open_pair",
    "project_out", "read_trait", "steer", "sweep", "token_latents", "train_sae",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'interp' has no attribute '{name}'. It offers: {', '.join(__all__)}.")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
