"""Judges map answers to judgements; what cannot be judged is None and is counted."""
