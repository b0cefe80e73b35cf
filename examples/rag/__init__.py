"""Retrieval and generation in vLLM side by side."""
