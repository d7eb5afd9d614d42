"""The driver: the process that runs a sweep, and all code that knows Ray."""
