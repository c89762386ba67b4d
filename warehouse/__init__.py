"""Where history lives: one DuckDB file, rebuilt at will from the lake."""
