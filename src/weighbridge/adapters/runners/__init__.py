"""Runners, the processes that call models, as the processes that ask them see them."""
