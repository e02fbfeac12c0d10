"""Helpers without knowledge of the other packages."""
