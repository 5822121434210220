"""A package of adapters that connect vidrl's rewards with other trainers, in both directions."""
