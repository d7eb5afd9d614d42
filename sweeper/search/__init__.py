"""What is searched and for how long: the space, the budget, samplers and pruners."""
