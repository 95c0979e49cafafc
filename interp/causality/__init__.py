"""Is a latent the cause? Sweeps over edits, doses, sets, and the verdict."""
