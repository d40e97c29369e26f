"""The scenarios, a file for each kind. Importing this registers all of them, in the order in which they run."""
from . import registration, create, life, console, failures, swap, faults, shelf, volumes, interfaces, snapshots  # noqa: F401
