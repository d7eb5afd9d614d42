"""What everything that a sweep file declares is made of: frozen strict models, checked scalars, faults with a place."""

from __future__ import annotations
