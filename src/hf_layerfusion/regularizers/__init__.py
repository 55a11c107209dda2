"""What training adds to a model's own loss: terms that need further passes over the batch."""
