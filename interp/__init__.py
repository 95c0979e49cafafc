"""personascope: find the persona that fine-tuning put into a model, prove it is the cause, switch it off."""

__version__ = "0.2.0"
