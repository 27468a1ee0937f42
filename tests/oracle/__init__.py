"""The engine against Hugging Face transformers: two programs that share no code must agree on one model."""
