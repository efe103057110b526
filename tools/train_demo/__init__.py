"""Training of the demo model: training text, tokenizer, model, training loop, export, evaluation.

See docs/demo-model.md.
"""
