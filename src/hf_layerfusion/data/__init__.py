"""Text in, clean text or token batches out."""
