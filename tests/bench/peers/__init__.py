"""What the service is compared with. Each module is an ASGI app; run as a script, it creates its tables."""
