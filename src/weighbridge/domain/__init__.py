"""What a prediction is: values that cannot be wrong and the arithmetic on them. Standard library and numpy only."""
