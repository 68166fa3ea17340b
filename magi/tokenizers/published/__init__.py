"""Tokenizers that others have published: their networks, where their files are, and which of them may run."""
