"""`make torture`: faults, overload and starvation, set on the real service; docs/reliability.md has what came of it."""
