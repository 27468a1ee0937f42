"""Small DSA models that real engines load: random ones for tests, and the tokenizer they share.

Nothing here is needed for serving. Imports of torch, tokenizers and safetensors are made inside functions.
"""
