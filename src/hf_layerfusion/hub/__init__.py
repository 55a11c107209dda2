"""Model cards, manifests of checksums, and publishing on the Hub."""
