"""The process that runs a sweep: all that knows Ray."""
