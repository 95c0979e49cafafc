"""Write `add` edits as a control vector: GGUF for llama.cpp, and the same as safetensors.

llama.cpp adds the tensor `direction.K` to what block K, counted from 0, writes out, that is at `blocks.K.hook_resid_post`, at every
token that it reads: K = 1 is the lowest, and a file with K = 0 is refused whole. Every tensor is one-dimensional float32 of the
residual's width. (ggml-org/llama.cpp: `common_control_vector_load_one` in common/common.cpp writes direction.K to row K - 1 of
its buffer; `llama_adapter_cvec::apply` in src/llama-adapter.cpp gives that row to block K; src/models/llama.cpp adds it by
`build_cvec` after the MLP's residual sum.) Load it with `--control-vector FILE`; vectors carry their dose, so scale 1 is the edit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float

from interp.core.errors import ArtifactError, EditError, EditWarning
from interp.core.files import saving
from interp.core.tensors import all_finite
from interp.interventions.edits import Edit
from interp.models.families import FAMILIES
from interp.models.language_model import LanguageModel


def block_directions(model: LanguageModel, edits: Edit | Sequence[Edit]) -> dict[int, Float[torch.Tensor, " d_model"]]:
    """By block, what `edits` add after it; what is added before block K is added after block K - 1.

    Raises `EditError` for an edit that is no plain addition, acts on the prompt alone, or where llama.cpp cannot add: after
    block 0, before it, or between attention and MLP. Warns (`EditWarning`) for the phase `response`, since llama.cpp adds at
    the prompt's tokens too.
    """
    directions: dict[int, torch.Tensor] = {}
    for edit in [edits] if isinstance(edits, Edit) else edits:
        edit.check_width(model)
        if edit.kind != "add" or edit.gate is not None:
            raise EditError(
                f"The edit '{edit.name}' is no addition at every token, and a control vector is nothing else. Give an edit made by add, "
                "or fold a projection into weights by export_model."
            )
        if edit.phase == "prompt":
            raise EditError(f"The edit '{edit.name}' acts on the prompt alone, a control vector at every token. Use phase 'all'.")
        if edit.phase == "response":
            warnings.warn(
                f"llama.cpp adds '{edit.name}' at the prompt's tokens too, not in the response alone: measure it with phase 'all'.",
                EditWarning,
                stacklevel=2,
            )
        for vectors, name in zip(edit.vectors, edit.hook_points, strict=True):
            point = model.hook_point(name)
            block = point.layer - (point.site == "hook_resid_pre")
            if block < 1 or point.site == "hook_resid_mid":
                raise EditError(f"llama.cpp cannot add at {point}, only after a block from 1 on. Add at hook_resid_post of one of those.")
            directions[block] = directions.get(block, 0) + vectors.float().sum(0).cpu()
    return dict(sorted(directions.items()))


def model_hint(model: LanguageModel) -> str:
    """What llama.cpp calls the architecture; it only informs."""
    kind = str(model.network.config.model_type)
    return (kind in FAMILIES and FAMILIES[kind].llama_cpp) or kind


def write_control_vector(
    path: Path | str, directions: Mapping[int, Float[torch.Tensor, " d_model"]], model_hint: str, description: str = ""
) -> list[Path]:
    """Write `directions` (by block, counted from 0, at least 1) to `path`, which ends in .gguf, and to a .safetensors beside it.

    Returns both paths. Raises `EditError` for directions that llama.cpp would not read and `ArtifactError` for a path that is
    taken or cannot be written.
    """
    from gguf import GGUFWriter
    from safetensors.torch import save_file

    path = Path(path)
    files = check_target(path)
    tensors = _tensors(directions)
    with saving(files[0]) as gguf, saving(files[1]) as plain:
        writer = GGUFWriter(gguf, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(tensors))
        if description:
            writer.add_description(description)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        save_file(tensors, plain, {"model_hint": model_hint, "description": description})
    return files


def check_target(path: Path) -> list[Path]:
    """The two files that a control vector is written to; raises `ArtifactError` for another ending, or where one is there already."""
    files = [path, path.with_suffix(".safetensors")]
    if path.suffix != ".gguf":
        raise ArtifactError(f"{path} does not end in .gguf. Name the file so; a .safetensors is written beside it.")
    for file in files:
        if file.exists():
            raise ArtifactError(f"{file} is there already. Choose another name.")
    return files


def _tensors(directions: Mapping[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Named as llama.cpp wants them, float32 on the CPU."""
    if not directions:
        raise EditError("A control vector without a direction adds nothing. Give at least one.")
    widths = {tuple(direction.shape) for direction in directions.values()}
    if len(widths) > 1 or len(next(iter(widths))) != 1:
        raise EditError(f"Directions of shapes {sorted(widths)} make no control vector. Give one vector of the residual's width a block.")
    for block, direction in directions.items():
        if block < 1:
            raise EditError(f"llama.cpp cannot add after block {block}: it reads directions from block 1 on. Leave that one out.")
        if not direction.any() or not all_finite(direction):
            raise EditError(f"The direction for block {block} is zero or not finite. Leave it out, or make it anew.")
    return {f"direction.{block}": direction.detach().float().cpu().contiguous() for block, direction in sorted(directions.items())}
