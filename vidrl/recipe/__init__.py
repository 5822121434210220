"""The text of a recipe: TOML, and overrides with dotted names."""
