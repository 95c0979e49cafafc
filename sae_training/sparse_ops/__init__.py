"""Encode to the k strongest latents and decode, with gradients that never build a dense tokens × latents matrix.

`reference` is plain autograd, the truth for tests; `cpu` is what training uses. Both offer `encode` and `decode`.
"""
