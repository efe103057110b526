"""Reading, storing and quantizing weights."""
