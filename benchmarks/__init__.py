"""Weighbridge beside its peers, on one machine in one run; README.md says how to read the figures."""
