"""How processes run: they are handed an application factory, and know nothing of what it makes."""
