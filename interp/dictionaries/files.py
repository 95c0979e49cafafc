"""Dictionaries on disk: a folder with `cfg.json` and `sae_weights.safetensors`, as sae-lens has them.

An SAE (`standard`, `topk`, `jumprelu`, `gated`) is exactly what sae-lens reads and writes: `W_enc [d_in, d_sae]`,
`W_dec [d_sae, d_in]`, `b_enc`, `b_dec`, for JumpReLU `threshold`; a gated one has `b_gate`, `r_mag`, `b_mag` in place of `b_enc`.
A crosscoder (`crosscoder_standard`, `crosscoder_topk`, `crosscoder_jumprelu`) has `W_enc [n_models, d_in, d_sae]`,
`W_dec [d_sae, n_models, d_in]`, `b_enc [d_sae]`, `b_dec [n_models, d_in]`; sae-lens has nothing like it.
The files are read and written directly, because importing sae_lens takes many seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.core.errors import ArtifactError, DictionaryError
from interp.core.files import file_sha256, read_json, saving, write_json
from interp.core.fingerprints import content_key
from interp.dictionaries.formats import FORMATS, find_format
from interp.dictionaries.lens_config import honoured, in_todays_words

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE)
SAES = ("topk", "jumprelu", "standard", "gated")
CROSSCODERS = ("crosscoder_topk", "crosscoder_jumprelu", "crosscoder_standard")
SAE_LENS_VERSION = "6.0.0"
"""Written into every config: without a version sae-lens takes it for its format before 6, and drops the metadata."""
DIFFERENCE = "difference"
"""What `metadata.reads` says of an SAE that was trained on tuned minus base residuals."""


def dictionary_config(
    architecture: str,
    d_in: int,
    d_sae: int,
    hook_point: str,
    models: Sequence[str],
    k: int | None = None,
    made: Mapping[str, Any] | None = None,
    reads: str = "",
) -> dict[str, Any]:
    """The config of a dictionary whose encoder reads raw residuals.

    `models` names what it was trained on, for a crosscoder in the order base, tuned; `made` says how (kept as `metadata.made`);
    `reads` is `difference` for an SAE of tuned minus base residuals. sae-lens keeps metadata that it does not know. Raises
    `DictionaryError` for an unknown architecture, or a k that does not fit it.
    """
    what = f"A dictionary at {hook_point}"
    _check_architecture(architecture, what)
    config: dict[str, Any] = {"architecture": architecture, "d_in": d_in, "d_sae": d_sae}
    if architecture in CROSSCODERS:
        config |= {"n_models": len(models), "dtype": "float32"}
        metadata: dict[str, Any] = {"models": list(models), "hook_name": hook_point}
    else:
        config |= {"dtype": "float32", "device": "cpu", "apply_b_dec_to_input": False}
        config |= {"normalize_activations": "none", "reshape_activations": "none"}
        metadata = {"sae_lens_version": SAE_LENS_VERSION, "model_name": ", ".join(models), "hook_name": hook_point}
    config["metadata"] = metadata | ({"reads": reads} if reads else {}) | ({"made": dict(made)} if made else {})
    if architecture.endswith("topk"):
        config |= {"k": k} | ({"rescale_acts_by_decoder_norm": False} if architecture == "topk" else {})
    elif k is not None:
        raise DictionaryError(f"{what}: architecture '{architecture}' has no k. Leave k out.")
    _check_k(config, d_sae, what)
    return config


def write_dictionary(folder: Path, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Write both files, whole or not at all, into a folder of their own.

    What is written is checked as `read_dictionary` checks it. A dictionary that is there already is replaced when the new one
    is whole. Raises `DictionaryError` for weights that cannot be used and for a folder that holds other files, and `ArtifactError`
    for a disk that is full or cannot be written.
    """
    folder = Path(folder).expanduser().resolve()  # a link to a folder stays a link
    check_dictionary(weights, config, f"The dictionary for {folder}", "Nothing was written.")
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DictionaryError(f"The config of the dictionary for {folder} is no JSON: {error}. Give plain, finite values.") from error
    if folder.exists():
        others = sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.is_dir() else [folder.name]
        if others:
            raise DictionaryError(f"{folder} holds {others[0]}, which is no part of a dictionary. Choose a folder of its own.")
    with saving(folder) as partial:
        partial.mkdir(parents=True)
        save_file({name: _storable(tensor) for name, tensor in weights.items()}, partial / WEIGHTS_FILE)
        write_json(partial / CONFIG_FILE, dict(config))


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, contiguous and in memory of its own, as safetensors wants it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_dictionary(folder: Path, unpickle: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights in float32 on the CPU, and the config in today's words, of sae-lens' format or another library's (`formats.py`).

    `unpickle` allows formats that are pickles. Raises `DictionaryError` for files that are missing or damaged, an architecture that is not
    supported, tensors that are missing, do not fit each other or hold values that are not finite, and a k that there cannot be.
    """
    folder = Path(folder).expanduser()
    missing = next((name for name in FILES if not (folder / name).is_file()), None)
    if missing and (found := find_format(folder)):
        read = found.read(unpickle)
        hook_point = "" if read.layer is None else f"blocks.{read.layer}.hook_resid_post"
        weights, made = read.weights, {"format": found.format.library}
        d_sae, d_in = weights["W_dec"].shape[0], weights["W_dec"].shape[-1]
        config = dictionary_config(read.architecture, d_in, d_sae, hook_point, [read.model], read.k, made)
        config |= {"apply_b_dec_to_input": read.subtract_b_dec}
    elif missing:
        raise DictionaryError(
            f"{folder} is no SAE in sae-lens' format ({missing} is missing), nor of {', '.join(known.library for known in FORMATS)}. "
            f"Give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    else:
        try:
            config = in_todays_words(dict(read_json(folder / CONFIG_FILE)))
            weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
        except (SafetensorError, OSError, ArtifactError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise DictionaryError(f"{folder} is damaged: {error}. Save or download it again.") from error
    check_dictionary(weights, config, str(folder), "Save or download it again.")
    return weights if config["architecture"] in CROSSCODERS else honoured(weights, config, str(folder)), config


def dictionary_key(folder: Path) -> str:
    """Content hash of a dictionary's files; raises `DictionaryError` when one cannot be read."""
    folder = Path(folder).expanduser()
    native = all((folder / name).is_file() for name in FILES)
    found = None if native else find_format(folder)
    try:
        return content_key({path.name: file_sha256(path) for path in (found.files if found else [folder / name for name in FILES])})
    except OSError as error:
        raise DictionaryError(f"{folder} is no dictionary: {error}. Give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.") from error


def _check_architecture(architecture: str, what: str) -> None:
    if architecture not in (*SAES, *CROSSCODERS):
        raise DictionaryError(f"{what}: architecture '{architecture}' is not supported. Supported: {', '.join((*SAES, *CROSSCODERS))}.")


def _check_k(config: Mapping[str, Any], latents: int, what: str) -> None:
    k = config.get("k")
    if str(config["architecture"]).endswith("topk") and not (type(k) is int and 1 <= k <= latents):
        raise DictionaryError(f"{what}: k is {k} in {CONFIG_FILE}. Give the whole number, 1 to {latents}, that it was trained with.")


def check_dictionary(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raise `DictionaryError` for weights and a config that no encoder can use."""
    architecture = str(config.get("architecture"))
    _check_architecture(architecture, what)
    if config.get("normalize_activations") not in (None, False, "none"):
        raise DictionaryError(f"{what}: normalize_activations must be folded into the weights. Fold it with sae-lens and save again.")
    biases = ["b_gate", "r_mag", "b_mag"] if architecture == "gated" else ["b_enc"]
    names = ["W_enc", *biases, "W_dec", "b_dec"] + (["threshold"] if architecture.endswith("jumprelu") else [])
    lacking = [name for name in names if name not in weights]
    if lacking:
        raise DictionaryError(f"{what} is damaged: {WEIGHTS_FILE} lacks {', '.join(lacking)}. {remedy}")
    inputs, latents = tuple(weights["b_dec"].shape), weights[biases[0]].numel()  # (d_in,) or (n_models, d_in)
    crosscoder = architecture in CROSSCODERS
    fitting = {"W_enc": (*inputs, latents), "W_dec": (latents, *inputs), "b_dec": inputs}
    fits = all(weights[name].shape == fitting.get(name, (latents,)) for name in names)
    if not fits or len(inputs) != 1 + crosscoder or (crosscoder and inputs[0] != config.get("n_models", inputs[0])):
        shapes = ", ".join(f"{name} {tuple(weights[name].shape)}" for name in names)
        raise DictionaryError(f"{what}: {shapes} do not belong together. {remedy}")
    scaling = weights.get("scaling_factor")  # of fine-tuned SAEs before sae-lens 6, which reads it no more
    if scaling is not None and not bool((scaling == 1).all()):
        raise DictionaryError(f"{what}: its scaling_factor must be folded into W_dec. Multiply the rows by it and save again without it.")
    bad = [name for name in names if not bool(torch.isfinite(weights[name]).all())]
    if bad:
        raise DictionaryError(f"{what}: {', '.join(bad)} holds values that are not finite. {remedy}")
    _check_k(config, latents, what)
