"""What a trained model is worth: figures on held-out episodes and in fresh worlds, their intervals, and the report that shows them."""
