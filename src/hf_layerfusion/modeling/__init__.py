"""The models: encoder, fuser, head. Flat, and importing only torch, transformers and its own siblings."""
