"""How it is served: processes and sockets. No items, no routes."""
