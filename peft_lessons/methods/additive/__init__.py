"""Methods that add modules, inputs or activations to a frozen model."""
