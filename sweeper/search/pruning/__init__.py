"""When a trial is stopped: what a sweep file declares, what is compared, and what was decided."""
