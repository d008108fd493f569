"""Real Postgres, Redis and server processes that tests start and kill."""
