"""The way to a cluster: its address and token, what is checked before, and the end of a Ray of our own."""
