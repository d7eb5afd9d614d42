"""The search: its space, its budget, samplers and pruners."""
