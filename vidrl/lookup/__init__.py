"""How names in a recipe are resolved: a user's modules, missing packages, the nearest right
name."""
