"""With what it is served: read and checked once, before a process starts."""
