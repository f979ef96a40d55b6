"""What is served: HTTP and items. No processes, no sockets, no Granian."""
