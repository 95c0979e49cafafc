"""Train sparse dictionaries (SAEs) on residual activations of language models."""
