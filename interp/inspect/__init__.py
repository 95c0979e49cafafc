"""Models for Inspect."""
