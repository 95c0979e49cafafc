"""Fast paths on a CPU."""
