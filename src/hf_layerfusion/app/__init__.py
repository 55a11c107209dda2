"""A demo page of a trained model, in the browser or as a Space of the Hub."""
