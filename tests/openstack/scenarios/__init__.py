"""The scenarios, a file for each kind. Importing this registers all of them, in the order in which they run."""
from . import create, life, console, failures, registration  # noqa: F401
