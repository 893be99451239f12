//! Carries notifications from the log to the edges.
