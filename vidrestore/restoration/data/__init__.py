"""restore/data."""
