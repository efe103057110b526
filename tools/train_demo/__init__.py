"""Training of the demo model: text, tokenizer, model, loop, export and evaluation. See
docs/demo-model.md.
"""
