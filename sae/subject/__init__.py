"""The subject model: loading, running, hooks, tokenizer, and tokens as text."""
