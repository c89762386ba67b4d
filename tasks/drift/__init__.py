"""What changed between runs and over time: the model, the judge, or the world."""
