"""SAEs and crosscoders: files, hub, published ones, and the loss with a reconstruction spliced in."""
