"""What a result depends on: content keys, versions, environment."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Any

RECORDED_PACKAGES = ("personascope", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy", "pandas", "pyarrow",
                     "scipy", "scikit-learn", "plotly", "vaderSentiment")  # fmt: skip


def content_key(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def environment() -> dict[str, Any]:
    """What a result depends on besides config and inputs."""
    import torch

    return {
        "versions": installed_versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }
