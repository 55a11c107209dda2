"""A seeded campaign of faults over every script: `make faults`, whose figures stand in docs/reliability.md."""
