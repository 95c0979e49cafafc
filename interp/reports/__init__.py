"""Figures and one self-contained HTML page, made from saved results alone."""
