"""Trainables that are commands: a script in any language runs in processes of its own, see docs/scripts.md."""
