"""The service over HTTP: one router for each resource, with its schemas beside it."""
