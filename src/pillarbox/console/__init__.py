"""What an operator looks at with a browser or a monitoring system."""
