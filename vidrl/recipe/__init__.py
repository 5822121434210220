"""Read and write the text of a recipe: TOML, and overrides with dotted names."""
