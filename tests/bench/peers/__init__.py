"""Peers to compare the service with. Each module is an ASGI app. Run as a script, it creates its tables."""
