"""Modules that every room may use: errors, values that rooms exchange, text, files, URLs, secrets, the user's code."""
