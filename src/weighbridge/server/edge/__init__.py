"""A worker: its connections, from bytes to replies, and the models that it answers with."""
