"""Questions, sampled answers, judges, rates."""
