"""The pure core: what the service decides, with no way to act."""
