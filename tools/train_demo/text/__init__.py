"""The conversations that the demo model is trained on, drawn from templates and word lists."""
