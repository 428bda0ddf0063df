"""Checkpoints for other programs: Hugging Face folders without remote code, GGUF for llama.cpp. No torch."""
