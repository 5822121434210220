"""Keep former import names; `vidrl.inference.exchange` holds the function."""

from vidrl.inference.exchange import exchange_p

__all__ = ["exchange_p"]
