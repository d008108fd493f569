"""What the agent reads of the job: its optimizer, parameters, gradients, loss scale."""
