"""gsync: content-addressed sync of files and database rows."""

__version__ = "0.1.0"
