"""Write the folder of a new trait, to be edited."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from interp.core.errors import ConfigError
from interp.core.files import write_text
from interp.traits.trait import EXEMPLARS, LABELS, PAIRS, SETTINGS

TEMPLATE = "_template"


def new_trait(name: str, folder: Path) -> Path:
    """Write trait.yaml, pairs.yaml, exemplars.yaml and labels.csv into `folder`, which must be new or empty; returns it.

    Raises `ConfigError` for a name that no trait may have or a folder that holds something, `ArtifactError` where it cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"'{name}' is no name of a trait. Use lower-case letters, digits and underscores, a letter first.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already. Choose another folder with --out.")
    template = resources.files(__package__) / TEMPLATE
    for filename in (SETTINGS, PAIRS, EXEMPLARS, LABELS):
        write_text(folder / filename, (template / filename).read_text(encoding="utf-8").replace("name: new_trait", f"name: {name}"))
    return folder
