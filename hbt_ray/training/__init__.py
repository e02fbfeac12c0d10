"""Training without Ray. Imports nothing: Ray Train's controller imports this package and waits for it."""
