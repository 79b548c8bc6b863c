"""Methods that train some of the weights a model already has."""
