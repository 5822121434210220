"""Keep former import names; `vidrl.inference.clusters` holds the function."""

from vidrl.inference.clusters import clusters

__all__ = ["clusters"]
