"""Generation of text for a parsed request body: validation, concurrency limit and output."""
