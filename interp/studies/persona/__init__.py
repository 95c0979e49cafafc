"""The main job: find the persona that fine-tuning put into a model, and prove that it is the cause. A file a step."""
