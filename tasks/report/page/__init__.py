"""The morning report: one HTML file that says what changed and why, to a person with two minutes."""
