"""Tokenizer, dynamics, heads, and all of them as one agent."""
