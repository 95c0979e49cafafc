"""Whole experiments, each a short readable file; `persona` is the main job."""
