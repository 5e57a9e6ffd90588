"""The platform below the domains. It depends on no domain, no setting and no web framework."""
