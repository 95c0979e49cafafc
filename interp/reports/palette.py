"""One colour per role, for light and dark paper; the style sheet, the figures and the page's script all read it here.

The hues are those of Okabe & Ito (2008), above all their blue, vermilion and bluish green, darkened or lightened until text and
marks reach a contrast of 4.5 on their paper (`band_*` and `grid` are backgrounds). No figure tells by hue alone: shape, fill or
dash says the same.
"""

from __future__ import annotations

LIGHT: dict[str, str] = {
    "paper": "#fdfdfb",
    "raised": "#f4f4f0",
    "ink": "#1b1e21",
    "muted": "#565d63",
    "rule": "#cfd1cb",
    "grid": "#e6e7e2",
    "base": "#1d63a8",
    "tuned": "#b83f16",
    "persona": "#00705a",
    "control": "#656b71",
    "plum": "#93398a",
    "ochre": "#7f6100",
    "sky": "#007086",
    "cloud": "rgba(101,107,113,0.35)",
    "band_persona": "rgba(0,112,90,0.16)",
    "band_control": "rgba(101,107,113,0.16)",
}
"""Role to colour on light paper. Values are all different: the page's script turns one into its dark partner by value."""

DARK: dict[str, str] = {
    "paper": "#15181b",
    "raised": "#1d2125",
    "ink": "#e7e5e0",
    "muted": "#a4aab0",
    "rule": "#434a50",
    "grid": "#2b3035",
    "base": "#74b3f2",
    "tuned": "#ff9068",
    "persona": "#4fcba4",
    "control": "#9aa1a8",
    "plum": "#e08fd4",
    "ochre": "#d9b540",
    "sky": "#63cfe0",
    "cloud": "rgba(154,161,168,0.40)",
    "band_persona": "rgba(79,203,164,0.20)",
    "band_control": "rgba(154,161,168,0.20)",
}
"""Role to colour on dark paper."""

SERIES = ("base", "tuned", "persona", "plum", "ochre", "sky", "ink", "control")
"""Roles of things that are compared and have no role of their own, in their order."""


def css_variables(palette: dict[str, str]) -> str:
    """`--role: colour;` declarations for the style sheet."""
    return " ".join(f"--{role.replace('_', '-')}: {colour};" for role, colour in palette.items())
