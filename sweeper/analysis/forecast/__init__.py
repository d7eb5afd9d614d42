"""The forecast of a sweep: the sweep is played many times, with its real decisions, on a virtual clock."""
