"""Earlier names, for scripts that import them from here: `vidrl.inference` holds what they
name."""

from vidrl.inference.exchange import exchange_p

__all__ = ["exchange_p"]
