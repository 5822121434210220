"""Earlier names, for scripts that import them from here: `vidrl.inference` holds what they
name."""

from vidrl.inference.clusters import clusters

__all__ = ["clusters"]
