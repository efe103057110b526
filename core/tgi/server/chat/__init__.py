"""Chat messages and prompts, shared by every chat API."""
