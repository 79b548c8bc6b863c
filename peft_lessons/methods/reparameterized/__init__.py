"""Methods that train a small parameterisation of a large update."""
