"""How each step is done; one stage a file."""
