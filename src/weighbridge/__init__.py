"""Weighbridge: a trained model as a production HTTP service."""

__version__ = "0.1.0"
