"""What a trained pair says about rows: codes, fields from other fields, missing entries, reconstructions."""
