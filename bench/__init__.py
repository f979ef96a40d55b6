"""Measurements: what the service costs, beside what else one could choose."""
