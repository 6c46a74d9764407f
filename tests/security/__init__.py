"""The threat model as tests: what one request, message or worker could do to others, and cannot."""
