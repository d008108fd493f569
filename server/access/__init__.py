"""Who may do what: scoped keys for programs, a one-time login for the browser."""
