"""The package's own morphable model, vr468."""
