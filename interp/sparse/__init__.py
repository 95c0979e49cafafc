"""Encode to a few active latents and decode, with gradients that never build a dense tokens × latents matrix.

The only dense product is that of the pre-activations, and they are made a chunk of tokens at a time. What is left of them is a
`Codes`: the values at the active latents of each token. `encode` and `decode` choose the kernels by device (`cpu`, `cuda`);
`reference` offers the same two functions by plain autograd on dense matrices, the truth for tests.
"""

from interp.sparse.autograd import decode, encode
from interp.sparse.codes import Codes, of_latents
from interp.sparse.rules import Above, BatchTopK, Rule, TopK

__all__ = ["Above", "BatchTopK", "Codes", "Rule", "TopK", "decode", "encode", "of_latents"]
