"""Programs that show how teva is used; each is a directory that runs with `python -m examples.NAME`."""
