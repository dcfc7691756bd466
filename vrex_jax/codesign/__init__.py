"""Algorithm and chip tuned together, on recorded runs; on top of all others."""
