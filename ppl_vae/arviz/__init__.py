"""What a pair says about rows, for ArviZ."""
