"""Tables as JSON."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd


def plain_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON objects; what is missing or not finite is None."""
    return [{str(name): plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)) else value
