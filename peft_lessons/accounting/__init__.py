"""What a method costs, counted."""
