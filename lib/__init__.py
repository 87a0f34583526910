"""Models, losses, estimators and search for comparing density estimation with generation."""
