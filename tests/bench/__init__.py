"""How fast the service is, as ratios to the same job done the usual way, measured side by side in one run."""
