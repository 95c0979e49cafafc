"""Dictionaries (sparse autoencoders) in sae-lens' two-file format, encoding sparsely: values and indices.

`cfg.json` and `sae_weights.safetensors` with `W_enc [d_in, d_sae]`, `W_dec [d_sae, d_in]`, `b_enc`, `b_dec` and, for JumpReLU,
`threshold`. Read and written directly, because importing sae_lens takes many seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from interp.artifacts import content_key, file_sha256, read_json, write_json
from interp.errors import ArtifactError, DictionaryError

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
ARCHITECTURES = ("topk", "jumprelu", "standard")


@dataclass(frozen=True)
class SparseCodes:
    """What an encoder returns: the active latents of each token, padded with value 0 at index 0."""

    values: Float[torch.Tensor, "tokens k"]
    indices: Int[torch.Tensor, "tokens k"]

    def column(self, latent: int) -> Float[torch.Tensor, " tokens"]:
        """Activation of one latent at every token."""
        return torch.where(self.indices == latent, self.values, 0.0).sum(-1)

    def sums(self, n_latents: int) -> Float[torch.Tensor, " latents"]:
        """Sum of each latent's activation over all tokens, in float64."""
        return torch.zeros(n_latents, dtype=torch.float64).index_add_(0, self.indices.flatten().cpu(), self.values.flatten().double().cpu())

    def counts(self, n_latents: int) -> Int[torch.Tensor, " latents"]:
        """Number of tokens at which each latent fires."""
        return torch.bincount(self.indices[self.values > 0].cpu(), minlength=n_latents)


@dataclass(frozen=True)
class Dictionary:
    """An SAE at one hook point."""

    w_enc: Float[torch.Tensor, "d_in latents"]
    b_enc: Float[torch.Tensor, " latents"]
    w_dec: Float[torch.Tensor, "latents d_in"]
    b_dec: Float[torch.Tensor, " d_in"]
    architecture: str
    k: int | None
    """Active latents a token, for TopK."""
    threshold: Float[torch.Tensor, " latents"] | None
    """Per-latent threshold, for JumpReLU."""
    subtract_b_dec: bool
    """Whether the encoder reads `x - b_dec`."""
    hook_point: str

    @property
    def d_in(self) -> int:
        """Width of the residuals it reads."""
        return int(self.w_enc.shape[0])

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        return int(self.w_enc.shape[1])

    @torch.inference_mode()
    def encode(self, residuals: Float[torch.Tensor, "tokens d_in"], chunk: int = 4096) -> SparseCodes:
        """Active latents of each token, in chunks of tokens. Raises `DictionaryError` for residuals of another width."""
        if residuals.shape[-1] != self.d_in:
            raise DictionaryError(f"Residuals of width {residuals.shape[-1]} do not fit a dictionary of width {self.d_in}.")
        values, indices = zip(*(self._encode(part) for part in residuals.float().split(chunk)), strict=True)
        width = max(v.shape[1] for v in values)
        pad = torch.nn.functional.pad
        return SparseCodes(
            torch.cat([pad(v, (0, width - v.shape[1])) for v in values]), torch.cat([pad(i, (0, width - i.shape[1])) for i in indices])
        )

    def _encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pre = torch.addmm(self.b_enc, x - self.b_dec if self.subtract_b_dec else x, self.w_enc)
        if self.k is not None:
            values, indices = pre.topk(self.k, dim=-1, sorted=False)
            return torch.relu(values), indices
        active = pre > (self.threshold if self.threshold is not None else 0.0)
        width = max(1, int(active.sum(-1).max())) if len(x) else 1
        values, indices = torch.where(active, torch.relu(pre), 0.0).topk(width, dim=-1)
        return values, torch.where(values > 0, indices, 0)

    def decode(self, codes: SparseCodes) -> Float[torch.Tensor, "tokens d_in"]:
        """Reconstruction of the residuals."""
        summed = torch.nn.functional.embedding_bag(codes.indices, self.w_dec, per_sample_weights=codes.values, mode="sum")
        return summed + self.b_dec

    def at(self, hook_point: str) -> Dictionary:
        """The same dictionary, said to read at `hook_point`."""
        return replace(self, hook_point=hook_point)

    def directions(self, latents: list[int]) -> Float[torch.Tensor, "n d_in"]:
        """Decoder rows of `latents`, scaled to norm one. Raises `DictionaryError` for a latent it does not have."""
        bad = [latent for latent in latents if not 0 <= latent < self.n_latents]
        if bad:
            raise DictionaryError(f"The dictionary has latents 0 to {self.n_latents - 1}, not {bad}.")
        rows = self.w_dec[latents]
        return rows / rows.norm(dim=-1, keepdim=True)


def save_topk(folder: Path, weights: dict[str, torch.Tensor], k: int, hook_point: str, source: str) -> None:
    """Write a TopK dictionary as sae-lens does; `source` names the model it was trained on."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    d_in, d_sae = weights["W_enc"].shape
    write_json(
        folder / CONFIG_FILE,
        {
            "architecture": "topk",
            "d_in": d_in,
            "d_sae": d_sae,
            "k": k,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": False,
            "rescale_acts_by_decoder_norm": False,
            "normalize_activations": "none",
            "reshape_activations": "none",
            # without a version sae-lens takes it for its format before 6, and drops the metadata
            "metadata": {"sae_lens_version": "6.0.0", "model_name": source, "hook_name": hook_point},
        },
    )


def load_dictionary(folder: Path, device: torch.device | str = "cpu") -> Dictionary:
    """Read a dictionary from a folder; raises `DictionaryError` naming what is missing or not supported."""
    folder = Path(folder).expanduser()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise DictionaryError(
                f"{folder} is no SAE in sae-lens' format ({name} is missing). Give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}."
            )
    try:
        config: dict[str, Any] = dict(read_json(folder / CONFIG_FILE))
        weights = {k: v.float().to(device) for k, v in load_file(folder / WEIGHTS_FILE).items()}
    except (SafetensorError, OSError, ArtifactError, TypeError, ValueError) as error:
        raise DictionaryError(f"{folder} is damaged: {error}. Save or download it again.") from error
    architecture = config.get("architecture", "standard")
    if config.get("activation_fn_str") == "topk":  # so did sae-lens before 6 name it
        architecture, config = "topk", config | (config.get("activation_fn_kwargs") or {})
    if architecture not in ARCHITECTURES:
        raise DictionaryError(f"{folder}: architecture '{architecture}' is not supported. Supported: {', '.join(ARCHITECTURES)}.")
    if config.get("normalize_activations") not in (None, False, "none"):
        raise DictionaryError(f"{folder}: normalize_activations must be folded into the weights. Fold it with sae-lens and save again.")
    _check_weights(folder, weights, architecture)
    w_enc, b_enc, w_dec = weights["W_enc"], weights["b_enc"], weights["W_dec"]
    k = config.get("k")
    if architecture == "topk" and not (isinstance(k, int) and 1 <= k <= len(w_dec)):
        raise DictionaryError(f"{folder}: k is {k} in {CONFIG_FILE}. Give the whole number, 1 to {len(w_dec)}, that it was trained with.")
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = w_dec.norm(dim=-1)
        w_enc, b_enc, w_dec = w_enc * norms, b_enc * norms, w_dec / norms[:, None]
    return Dictionary(
        w_enc=w_enc,
        b_enc=b_enc,
        w_dec=w_dec,
        b_dec=weights["b_dec"],
        architecture=architecture,
        k=k if architecture == "topk" else None,
        threshold=weights["threshold"] if architecture == "jumprelu" else None,
        subtract_b_dec=bool(config.get("apply_b_dec_to_input", True)),  # the format's default
        hook_point=str((config.get("metadata") or {}).get("hook_name") or config.get("hook_name") or ""),
    )


def _check_weights(folder: Path, weights: dict[str, torch.Tensor], architecture: str) -> None:
    """Raise `DictionaryError` for a tensor that is missing or whose shape does not fit the others."""
    names = ["W_enc", "b_enc", "W_dec", "b_dec"] + (["threshold"] if architecture == "jumprelu" else [])
    lacking = [name for name in names if name not in weights]
    if lacking:
        raise DictionaryError(f"{folder} is damaged: {WEIGHTS_FILE} lacks {', '.join(lacking)}. Save or download it again.")
    latents, d_in = len(weights["b_enc"]), len(weights["b_dec"])
    fitting = {"W_enc": (d_in, latents), "b_enc": (latents,), "W_dec": (latents, d_in), "b_dec": (d_in,), "threshold": (latents,)}
    if any(weights[name].shape != fitting[name] for name in names):
        shapes = ", ".join(f"{name} {tuple(weights[name].shape)}" for name in names)
        raise DictionaryError(f"{folder}: {shapes} do not belong together. Save or download it again.")


def dictionary_key(folder: Path) -> str:
    """Content hash of a dictionary folder."""
    return content_key({name: file_sha256(Path(folder) / name) for name in (CONFIG_FILE, WEIGHTS_FILE)})
