"""Further posteriors whose answer is known; their data are in `_more_data`, their answers in `more.json`."""
