"""What everything stands on: errors, settings, files, steps, progress."""
