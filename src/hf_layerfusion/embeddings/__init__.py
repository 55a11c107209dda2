"""Pretrained word embeddings in foreign formats, converted to encoders of transformers."""
