"""The benchmark: what a request costs in this service, and in the servers that one could choose instead."""
