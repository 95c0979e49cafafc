"""Interventions on a running model: an `Edit` is data, `edited` applies it."""
