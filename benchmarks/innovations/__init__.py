"""The curve one block ahead while models train, and which block departs from it after a fault."""
