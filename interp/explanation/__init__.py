"""What does a latent mean? Cards with examples, densities and neighbours."""
