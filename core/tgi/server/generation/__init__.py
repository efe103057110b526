"""From a validated request body to generated text: limits, admission, and the generation loop."""
