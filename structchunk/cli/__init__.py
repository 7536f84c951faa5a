"""The command line, on click and rich. Nothing else in the package imports it."""
