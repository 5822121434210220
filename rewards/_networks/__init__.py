"""Published networks as torch modules, and where their weights come from."""
