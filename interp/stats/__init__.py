"""Rates, intervals, power, false discovery."""
