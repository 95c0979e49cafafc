"""Which latents differ between base and tuned, and how surely."""
