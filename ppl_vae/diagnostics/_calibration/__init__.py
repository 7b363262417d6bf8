"""Is the guide calibrated? Simulation-based calibration."""
