"""What the server asks of a job: dispatch of its commands, actions on its alerts."""
