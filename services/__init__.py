"""Library operations made parallel and long-lived: Ray actors, metrics."""
