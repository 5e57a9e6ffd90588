"""Onefold: every domain is one module, every entity one model, every request one transaction."""
