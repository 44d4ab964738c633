"""Layers of the block-causal transformer that tokenizer and dynamics share."""
