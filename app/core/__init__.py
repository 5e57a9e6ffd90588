"""The platform that the domains rest on. It knows no domain, no setting and no web framework."""
