"""The speed of the service beside its limits and other ways to write the same API, measured in one run."""
