"""What MLflow's UI shows of a sweep: the server, links, a saved view with charts, the description of its run."""
