"""Images from a trained model: drawing them, and laying them out to be looked at."""
