"""Model organisms: fine-tunes made on purpose, with a persona that is known to be there."""
