"""How fast the service is, beside its limits and the usual ways, measured together in one run."""
