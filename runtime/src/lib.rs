//! What every process does and no domain owns: configuration, telemetry, shutdown, health.
