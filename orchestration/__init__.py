"""What a scheduler calls in the project's environment: the stage graph, and one stage of it."""
