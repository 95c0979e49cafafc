"""Where models come from: hub id, folder, LoRA adapter over a base, GGUF, `embedded:NAME`."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import platformdirs
import torch

from interp.core.errors import ChatFormatWarning, ModelError
from interp.core.files import file_sha256
from interp.models.adapters import adapter_config, merge_adapter, model_errors, saved_rows
from interp.models.chat_format import ChatFormat, say_other_format
from interp.models.embedded import EMBEDDED_MODELS, PackagedFile
from interp.models.gguf_files import convert_gguf
from interp.models.hook_points import find_blocks
from interp.models.language_model import LanguageModel
from interp.models.tokenizer_files import adapter_generation, adapter_tokenizer, added_tokens, open_tokenizer
from interp.models.weights import check_none_missing, resize_embeddings

CONFIG_FILES = ("config.json", "adapter_config.json")
_AT_REVISION = re.compile(r"([\w.-]+/[\w.-]+)@([\w./-]+)")
_MODEL_FILES = ["*.json", "*.safetensors", "adapter_model.*", "*.jinja", "*.model", "*.txt", "*.py"]


def cache_folder() -> Path:
    """Where converted models are kept: `$PERSONASCOPE_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("PERSONASCOPE_CACHE") or platformdirs.user_cache_dir("personascope"))


def choose_device(device: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; raises `ModelError` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ModelError(f"'{device}' is not a device that personascope runs on. Use auto, cpu or cuda.")
    if device != "cpu" and not torch.cuda.is_available():
        raise ModelError("No CUDA device is available. Use --device cpu or auto.")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA and float32 on the CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ModelError(f"'{dtype}' is not a dtype. Use auto, {', '.join(known)}.")
    return known[dtype]


def open_model(
    source: str,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    thinking: bool = False,
    read_beside: str | None = None,
) -> LanguageModel:
    """Open a model by hub id, folder, GGUF file or folder, `embedded:NAME`, or LoRA adapter.

    An adapter is merged into its base (`base`, else the one it names); one that changes nothing raises. It is asked as its own tokenizer
    and chat template say, where its folder has them. `thinking`: whether a chat template with a switch for it lets the model think first.
    `read_beside` is a fine-tune of this model whose text it will read: tokens that only that one has get embeddings, the mean of the
    others. Raises `ModelError`.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    network, tokenizer = open_network(source, base, chosen_dtype, trust_remote_code)
    if read_beside is not None:
        _add_tokens(network, tokenizer, source, read_beside, trust_remote_code)
    return LanguageModel(network.to(chosen_device), tokenizer, source, thinking)


def _add_tokens(network: Any, tokenizer: Any, source: str, tuned: str, trust_remote_code: bool) -> None:
    tuned = at_revision(tuned)
    if adapter_config(tuned) is None:
        with _opening(tuned):
            other = open_tokenizer(local_folder(tuned), trust_remote_code)
    else:
        other = adapter_tokenizer(tuned, tokenizer, network.config, trust_remote_code)
    add_tokens(network, source, added_tokens(other, tokenizer), tuned)


def add_tokens(network: Any, source: str, tokens: Mapping[str, int], tuned: str, rows: int = 0) -> None:
    """Give the network of `source` embeddings of the tokens that a fine-tune adds, `rows` at least; warns where it lacked some."""
    before = int(network.get_input_embeddings().weight.shape[0])
    resize_embeddings(network, max(before, rows, *(place + 1 for place in tokens.values())))
    if added := sorted(token for token, place in tokens.items() if place >= before):
        names = ", ".join(added[:3]) + (", …" if len(added) > 3 else "")
        warnings.warn(
            f"{source} has no embeddings of {len(added)} tokens that {tuned} adds ({names}): there it reads the mean of its embeddings.",
            ChatFormatWarning,
            stacklevel=3,
        )


def open_network(source: str, base: str | None, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    """Network and tokenizer on the CPU, an adapter merged; raises `ModelError`."""
    source = at_revision(source)
    adapter = adapter_config(source)
    if adapter is not None:
        base_source = base or _named_base(adapter)
        if not base_source:
            raise ModelError(f"The adapter {source} names no base model. Give it with --base.")
        network, tokenizer = open_network(str(base_source), None, dtype, trust_remote_code)
        own = adapter_tokenizer(source, tokenizer, network.config, trust_remote_code)
        say_other_format(ChatFormat(tokenizer), ChatFormat(own), str(base_source), source)
        present = int(network.get_input_embeddings().weight.shape[0])
        fewest = max(present, *(place + 1 for place in added_tokens(own, tokenizer).values()), 0)
        resize_embeddings(network, saved_rows(network, source) or fewest)
        merged = merge_adapter(network, source, str(base_source))
        merged.generation_config = adapter_generation(source) or merged.generation_config
        return merged, own

    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = local_folder(source)
    with _opening(source):
        tokenizer = open_tokenizer(folder, trust_remote_code)
        network, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
        )
    check_none_missing(loading["missing_keys"], source)
    return network, tokenizer


def _named_base(adapter: Mapping[str, Any]) -> str:
    """The base that an adapter's config names, at the revision that it names."""
    base, revision = str(adapter.get("base_model_name_or_path") or ""), adapter.get("revision")
    return f"{base}@{revision}" if revision and _AT_REVISION.fullmatch(f"{base}@{revision}") else base


def at_revision(source: str) -> str:
    """The folder with the files of OWNER/NAME@REVISION, downloaded from the hub; other sources as they are. Raises `ModelError`."""
    match = _AT_REVISION.fullmatch(source)
    if match is None or Path(source).exists() or Path(match[1]).exists():
        return source
    from huggingface_hub import snapshot_download

    with _opening(source):
        return snapshot_download(match[1], revision=match[2], allow_patterns=_MODEL_FILES)


def checkpoints(source: str) -> list[str]:
    """The folders `checkpoint-N` of a folder that is itself no model, in the order of N; of anything else, itself."""
    path = Path(source).expanduser()
    if not path.is_dir() or any((path / name).is_file() for name in CONFIG_FILES):
        return [source]
    steps = {int(step.name[11:]): step for step in path.glob("checkpoint-*") if step.name[11:].isdigit()}
    return [str(steps[n]) for n in sorted(steps) if any((steps[n] / name).is_file() for name in CONFIG_FILES)] or [source]


def local_folder(source: str) -> str:
    """The folder (or hub id) to hand to transformers; converts GGUF where needed."""
    if source.startswith("embedded:"):
        if source not in EMBEDDED_MODELS:
            raise ModelError(f"There is no '{source}'. Embedded models: {', '.join(EMBEDDED_MODELS)}.")
        return str(_embedded_folder(EMBEDDED_MODELS[source]))
    source = at_revision(source)
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        if (steps := checkpoints(source)) != [source]:
            raise ModelError(f"{path} is no model, but holds {len(steps)}. Name one of them, such as {steps[-1]}.")
        weights = sorted(path.glob("*.gguf"))
        if len(weights) != 1 and not (weights and "-00001-of-" in weights[0].name):  # of a split file, reading the first says what to do
            raise ModelError(
                f"{path} holds neither config.json nor exactly one .gguf file ({len(weights)} found). Name the model folder or the file."
            )
        path = weights[0]
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {path}. Give the path of an existing .gguf file.")
        return str(convert_gguf(path, conversion_folder(file_sha256(path))))
    if path.is_dir():
        return str(path)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError(f"There is no folder {path}. Give an existing model or adapter folder, or a hub id.")
    return source


def _embedded_folder(packaged: PackagedFile) -> Path:
    folder = conversion_folder(packaged.sha256)
    if folder.is_dir():
        packaged.verified()
        return folder
    with packaged.whole(cache_folder()) as path:
        return convert_gguf(path, folder)


def conversion_folder(sha256: str) -> Path:
    """Where the GGUF with this SHA-256 is kept as safetensors; its name changes with how files are converted."""
    return cache_folder() / "gguf" / f"{sha256[:20]}-2"


def model_shape(source: str, trust_remote_code: bool = False) -> tuple[int, int]:
    """Residual width and number of layers, read from the config alone; raises `ModelError`."""
    config = _config(source, trust_remote_code).get_text_config()
    return int(config.hidden_size), int(config.num_hidden_layers)


def weight_counts(source: str, trust_remote_code: bool = False) -> tuple[int, int]:
    """Numbers of weights in all blocks and in the unembedding, from the config alone; raises `ModelError`."""
    from transformers import AutoModelForCausalLM

    config = _config(source, trust_remote_code)
    with _opening(source), torch.device("meta"):
        network: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    blocks = sum(parameter.numel() for block in find_blocks(network) for parameter in block.parameters())
    return blocks, int(config.get_text_config().hidden_size) * int(config.get_text_config().vocab_size)


def _config(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    folder = local_folder(source)
    with _opening(source):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def model_identity(source: str) -> str:
    """A hash of the names and contents of the model's files, and of the base that an adapter names; of a hub id, its commit.

    Raises `ModelError` for a model that is not there.
    """
    if source in EMBEDDED_MODELS:
        return EMBEDDED_MODELS[source].sha256
    path = Path(source).expanduser()
    if not path.exists():
        from huggingface_hub import snapshot_download

        if (snapshot := at_revision(source)) != source:
            return f"{source.partition('@')[0]}@{Path(snapshot).name}"
        repository = local_folder(source)
        with _opening(source):
            snapshot = snapshot_download(repository, allow_patterns=["config.json", "adapter_config.json"])
        return f"{repository}@{Path(snapshot).name}"
    digest = hashlib.sha256()
    if (path / "adapter_config.json").is_file():  # merged into another base it is another model
        base = _named_base(adapter_config(source) or {})
        with suppress(ModelError):  # a base that is not here counts by its name alone
            base = model_identity(base) if base else ""
        digest.update(base.encode())
    for file in sorted([path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]):
        digest.update(f"{file.name}|{file_sha256(file)}|".encode())
    return digest.hexdigest()


def _opening(source: str) -> AbstractContextManager[None]:
    sources = f"a hub id, a folder with config.json and safetensors, a .gguf file, an adapter folder, or {', '.join(EMBEDDED_MODELS)}"
    return model_errors(f"Cannot open the model '{source}'", f"Give {sources}.")
