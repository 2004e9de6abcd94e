//! Vigie's module fswatch.
