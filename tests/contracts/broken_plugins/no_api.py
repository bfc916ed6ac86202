"""States no version at all."""
