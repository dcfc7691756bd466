"""How right a model is under a policy: streams with questions, scores."""
