"""``evenkeel predict``: theory's curves and their diagnosis, for a config or a server's run."""
