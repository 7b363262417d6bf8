"""Files written whole or not at all; objects as JSON and back, without pickle."""
