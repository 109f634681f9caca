"""Video face restoration: decode -> detect -> track -> restore -> blend -> encode."""

__version__ = "0.1.0"
