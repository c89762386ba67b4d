"""What the data looks like: rows, identity, configuration, taxonomies, expectations."""
