"""Runners: processes that each open one version of a model and call it for all workers."""
