"""Dreams: one frame, whole rollouts, and an acting policy with its caches."""
