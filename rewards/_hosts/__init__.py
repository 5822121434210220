"""Adapters between vidrl's rewards and other trainers, both ways."""
