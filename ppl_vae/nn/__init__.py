"""Small networks, encoders of fields, flows, and the heads of posterior families."""
