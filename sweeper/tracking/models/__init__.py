"""Models: saved by workers, logged and registered by the driver, and compared with the champion."""
