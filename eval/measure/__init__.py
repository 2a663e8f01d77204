"""What is measured of a trained model, and how sure it is: protocols, losses, floors, probes, tasks, statistics."""
